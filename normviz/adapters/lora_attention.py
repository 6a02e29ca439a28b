"""Multi-head attention whose projections carry LoRA adapters, exact or in almost linear time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from normviz.adapters._values import check_floating, read, readable
from normviz.adapters.attention_gradients import METHODS
from normviz.adapters.exp_polynomial import KINDS, exp_polynomial, polynomial_relative_error, required_degree
from normviz.adapters.lora_linear import LoRALinear
from normviz.adapters.lowrank_attention import CausalLowRankAttentionFunction, LowRankAttentionFunction
from normviz.adapters.monomial_features import check_rank
from normviz.adapters.score_radius import score_radius, warn_if_no_gain
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["LoRAAttention"]


class LoRAAttention(nn.Module):
    r"""Self-attention with LoRA adapters on its projections; softmax exact or by low-rank factors.

    Hu, Su, Kuo, Song, Liu 2024, "Computational Limits of Low-Rank Adaptation (LoRA) Fine-Tuning for Transformer
    Models", arXiv 2406.03136. ``adapt=("q", "v")`` is the special case of its section 3, ``("q", "k", "v")`` the
    general one of section 4. Per head:

        exact     O = softmax(tau Q K^T) V,   differentiated by autograd, O(L^2)
        lowrank   O = U1 (V1^T V),            :class:`LowRankAttentionFunction`, O(L m d^2), m = C(d + degree, degree)

    One polynomial serves a whole call: its radius R is the largest Cauchy-Schwarz bound ``tau max ||q_i|| max ||k_j||``
    over batch and heads. With ``degree=None`` or ``poly="chebyshev"`` the value of R decides the polynomial, so
    "lowrank" then reads it from the tensors and can neither be compiled in one graph nor run inside vmap; a fixed
    degree of the Taylor polynomial can.

    Args:
        embed_dim: E.
        num_heads: heads, contiguous blocks of E / num_heads columns. Default 1.
        r: rank of the adapters, 1..E. Default 4.
        alpha: s = alpha / r, > 0. None: r.
        adapt: which projections are adapted, a non-empty subset of "q", "k", "v". Default ("q", "v") (paper, section
            3).
        method: "exact" (default) or "lowrank".
        degree: of the polynomial, >= 0. None: :func:`required_degree` of R and eps in every call.
        poly: "taylor" (default) or "chebyshev".
        eps: target of the relative error with degree None, in (0, 1). Default 1e-3.
        scale: tau. None: 1 / sqrt(E / num_heads); the theory takes 1 / d.
        causal: query i sees keys 0..i only. Default False.
        max_rank: refuse more monomials than this. Default 20000.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        q_proj, k_proj, v_proj: :class:`LoRALinear` where adapted, frozen nn.Linear otherwise. No biases.
        out_proj: frozen nn.Linear without bias.

    Shape:
        [N, L, E] -> [N, L, E].

    Raises:
        ValueError: arguments out of range; in forward: another shape, a radius too large for eps, more than max_rank
            monomials, a polynomial whose rows do not sum to a positive number.
        TypeError: in forward: integers.
        RuntimeError: in forward: R has to be read where values cannot be (see above).

    Warns:
        UserWarning: in forward: the rank is not below L, so "lowrank" gains nothing; it still runs.

    Example:
        >>> layer = LoRAAttention(4, num_heads=2, r=2, method="lowrank")
        >>> layer(0.1 * torch.randn(1, 64, 4)).shape
        torch.Size([1, 64, 4])
        >>> sorted(layer.last_report)
        ['certified', 'degree', 'eps', 'radius', 'rank']
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        r: int = 4,
        alpha: float | None = None,
        adapt: Sequence[str] = ("q", "v"),
        method: str = "exact",
        degree: int | None = None,
        poly: str = "taylor",
        eps: float = 1e-3,
        scale: float | None = None,
        causal: bool = False,
        max_rank: int = 20000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = check_integer("embed_dim", embed_dim, 1)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads = {num_heads}, got {embed_dim}.")
        head_dim = self.embed_dim // self.num_heads
        check_integer("r", r, 1, self.embed_dim)
        self.adapt = _checked_adapt(adapt)
        self.method = check_choice("method", method, METHODS)
        self.poly = check_choice("poly", poly, KINDS)
        self.degree = None if degree is None else check_integer("degree", degree, 0)
        self.eps = check_real("eps", eps, 0, 1, low_open=True, high_open=True)
        self.max_rank = check_integer("max_rank", max_rank, 1)
        self.scale = 1 / math.sqrt(head_dim)
        if scale is not None:
            self.scale = check_real("scale", scale, -math.inf, math.inf, low_open=True, high_open=True)
        self.causal = bool(causal)
        self._taylor: tuple[float, ...] | None = None
        if self.degree is not None:
            if method == "lowrank":
                check_rank(head_dim, self.degree, self.max_rank)
            self._taylor = tuple(exp_polynomial("taylor", self.degree, 0.0).tolist())

        for name in ("q", "k", "v"):
            linear = self._frozen(device, dtype)
            self.add_module(f"{name}_proj", LoRALinear(linear, r, alpha) if name in self.adapt else linear)
        self.out_proj = self._frozen(device, dtype)
        self._seen: tuple[Tensor, int | None, int | None, Tensor | None] | None = None

    def _frozen(self, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Linear:
        linear = nn.Linear(self.embed_dim, self.embed_dim, bias=False, device=device, dtype=dtype)
        return linear.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over x [N, L, E]: [N, L, E]."""
        check_floating("x", x)
        if x.ndim != 3 or x.shape[-1] != self.embed_dim or x.shape[0] == 0 or x.shape[1] == 0:
            raise ValueError(
                f"x must have shape (N, L, {self.embed_dim}) with N, L >= 1, got {tuple(x.shape)}."
            )
        q, k, v = (
            cast(nn.Module, getattr(self, name))(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )  # [N, h, L, d]
        out = self._exact(q, k, v) if self.method == "exact" else self._lowrank(q, k, v)
        result: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return result

    def _exact(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if readable(q):
            self._seen = score_radius(q, k, self.scale), None, None, None
        scores = self.scale * (q @ k.mT)  # [N, h, L, L]
        if self.causal:
            length = scores.shape[-1]
            later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v

    def _lowrank(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        degree, coeffs = self._polynomial(q, k)
        rank = check_rank(q.shape[-1], degree, self.max_rank)
        warn_if_no_gain(rank, q.shape[-2])
        if readable(q):
            self._seen = score_radius(q, k, self.scale), degree, rank, coeffs
        function = CausalLowRankAttentionFunction if self.causal else LowRankAttentionFunction
        return cast(Tensor, function.apply(q, k, v, self.scale, coeffs))  # type: ignore[no-untyped-call]

    def _polynomial(self, q: Tensor, k: Tensor) -> tuple[int, Tensor]:
        if self._taylor is not None and self.poly == "taylor":
            return len(self._taylor) - 1, torch.tensor(self._taylor, dtype=torch.float64, device=q.device)
        radius = read("radius", score_radius(q, k, self.scale))
        degree = required_degree(radius, self.eps, self.poly) if self.degree is None else self.degree
        check_rank(q.shape[-1], degree, self.max_rank)
        return degree, exp_polynomial(self.poly, degree, radius).to(q.device)

    @property
    def last_report(self) -> dict[str, float | int | bool] | None:
        """What the last forward met; None before the first one.

        ``radius`` for both methods; for "lowrank" also ``degree``, ``rank``, ``eps`` (relative error of the polynomial
        on [-radius, radius]) and ``certified`` (eps < 1: every attention weight is within 2 eps / (1 - eps)). Not
        recorded where values cannot be read (compiled, inside vmap).
        """
        if self._seen is None:
            return None
        radius, degree, rank, coeffs = float(self._seen[0]), *self._seen[1:]
        if degree is None or rank is None or coeffs is None:
            return {"radius": radius}
        eps = polynomial_relative_error(coeffs, radius)
        return {"radius": radius, "degree": degree, "rank": rank, "eps": eps, "certified": eps < 1}

    def extra_repr(self) -> str:
        """Sizes, what is adapted, the method."""
        text = f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, adapt={self.adapt}, method={self.method!r}"
        if self.method == "lowrank":
            text += f", poly={self.poly!r}, degree={self.degree}, eps={self.eps:g}"
        return f"{text}, scale={self.scale:g}, causal={self.causal}"


def _checked_adapt(adapt: Sequence[str]) -> tuple[str, ...]:
    """The adapted projections in the order q, k, v."""
    chosen = tuple(adapt)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= {"q", "k", "v"}:
        raise ValueError(f"adapt must be a non-empty subset of 'q', 'k', 'v', got {adapt!r}.")
    return tuple(name for name in ("q", "k", "v") if name in chosen)
