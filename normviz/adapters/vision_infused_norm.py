r"""Vision-infused layer norm: every text token changes the norm's gain and bias by what it reads from an image.

Yue, Guo, Tang, Zhao, Zhu, Huang, Liu 2025, "LaVi", arXiv 2506.16691; see :mod:`normviz.adapters.lavi`.

    t_hat_i = (t_i - mean) / sqrt(var + eps)          LayerNorm;  t_i / sqrt(mean of squares + eps)  RMSNorm
    u_i     = gamma * t_hat_i + beta                  what the host's norm returns (RMSNorm has no beta)
    [dgamma_i; dbeta_i] = W_o Swish(Cond(u_i, V)) + b_o
    ViLN(t_i, V) = (gamma + dgamma_i) * t_hat_i + beta + dbeta_i  =  u_i + dgamma_i * t_hat_i + dbeta_i

The delta is added to gamma, it does not replace or multiply it. W_o and b_o are zero at the start: then ViLN is the
host's norm, bit for bit, whatever the image. The first step moves only W_o and b_o, from the second on the conditioner
learns too. The form of the sum is the paper's. That Cond reads u_i, the Swish with a linear head, and the zero
start are a reconstruction, after adaptive layer norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.adapters._values import at_least_float32, check_floating
from normviz.adapters.vision_conditioners import (
    AttentionConditioner,
    ConvConditioner,
    MLPConditioner,
    PooledConditioner,
    VisionConditioner,
)
from normviz.validation import check_choice, check_integer

__all__ = ["CONDITIONERS", "MODULATED", "ViLN", "VisionCache", "is_plain_norm", "vision_context"]

CONDITIONERS: dict[str, type[VisionConditioner]] = {
    "attention": AttentionConditioner,
    "mlp": MLPConditioner,
    "conv": ConvConditioner,
    "pooled": PooledConditioner,
}
"""The modules by the name that ``conditioner`` takes."""

MODULATED = ("both", "scale", "shift")
"""What ``modulate`` may be: both deltas, dgamma alone, dbeta alone."""


class VisionCache(NamedTuple):
    """What :meth:`ViLN.precompute` keeps of an image.

    Attributes:
        values: what the conditioner computed; empty: no image.
        present: bool [B, 1, 1] or [B, T, 1], whether there is any valid visual token. None: there is.
    """

    values: tuple[Tensor, ...] = ()
    present: Tensor | None = None


def is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is an nn.LayerNorm or nn.RMSNorm that computes what these do (a subclass may not)."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward
        for kind in (nn.LayerNorm, nn.RMSNorm)
    )


class ViLN(nn.Module):
    r"""A LayerNorm or RMSNorm whose gain and bias change by token with what the token reads from an image.

    Yue et al. 2025, LaVi, arXiv 2506.16691, "Vision-Infused LayerNorm"; formulas in
    :mod:`normviz.adapters.vision_infused_norm`, which also says what is a reconstruction.

    Without an image it is the host's norm exactly. The normalised token is computed in float32 at least, and the result
    has the dtype that the host's norm would return. An nn.RMSNorm with eps=None uses, as PyTorch does, the machine
    epsilon of the dtype in which it computes (float32 for half precision). A norm without gain counts as gamma = 1 and
    beta = 0. An RMSNorm host gets a shift that it did not have.

    Args:
        norm: the host's norm, over the last axis. Its parameters are shared, not copied.
        dim: d, the norm's width.
        cond_dim: r, the conditioner's width.
        vision_dim: dv, width of the visual tokens. None (default): ``dim``.
        conditioner: "attention" (default, the paper's choice), "mlp", "conv", or "pooled" (a control).
        num_heads: heads of the attention conditioner. Default 4. The others have none.
        modulate: "both" (default), "scale" (dbeta = 0) or "shift" (dgamma = 0).
        num_visual_tokens: M, needed by "mlp" alone.
        zero_init: W_o and b_o start at zero (default), or as nn.Linear starts.
        cond_kw: further arguments of the conditioner.

    Attributes:
        weight, bias: gamma, beta of the host, or None. They keep their names, so that a text checkpoint fits.
        conditioner: the module that reads the image.
        head: W_o, b_o as nn.Linear(r, 2 d): first the d rows of dgamma, then those of dbeta, whatever ``modulate`` is.
        base: the host's norm, with the same parameters.

    Shape:
        t [B, T, d], vision [B, M, dv] -> [B, T, d].

    Raises:
        TypeError: ``norm`` is no nn.LayerNorm or nn.RMSNorm, or one with a forward of its own; tensors not floating.
        ValueError: ``dim`` is not the norm's width, unknown ``conditioner`` or ``modulate``, "mlp" without
            ``num_visual_tokens``; in forward: shapes that do not fit.

    Example:
        >>> norm = ViLN(nn.LayerNorm(8), 8, cond_dim=4, vision_dim=6)
        >>> t, image = torch.randn(2, 3, 8), torch.randn(2, 9, 6)
        >>> torch.equal(norm(t, image), norm.base(t))
        True
        >>> sorted(name.partition(".")[0] for name in norm.state_dict() if "." not in name)
        ['bias', 'weight']
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        norm: nn.LayerNorm | nn.RMSNorm,
        dim: int,
        cond_dim: int,
        vision_dim: int | None = None,
        conditioner: str = "attention",
        num_heads: int = 4,
        modulate: str = "both",
        num_visual_tokens: int | None = None,
        zero_init: bool = True,
        **cond_kw: Any,
    ) -> None:
        super().__init__()
        if not is_plain_norm(norm):
            raise TypeError(f"norm must be an nn.LayerNorm or nn.RMSNorm, got {type(norm).__name__}.")
        self.dim = check_integer("dim", dim, 1)
        if tuple(norm.normalized_shape) != (self.dim,):
            raise ValueError(f"dim must be the norm's width {tuple(norm.normalized_shape)}, got {self.dim}.")
        check_integer("cond_dim", cond_dim, 1)
        kind = check_choice("conditioner", conditioner, CONDITIONERS)
        self.modulate = check_choice("modulate", modulate, MODULATED)
        if kind == "attention":
            cond_kw["num_heads"] = num_heads
        elif kind == "mlp":
            if num_visual_tokens is None:
                raise ValueError("num_visual_tokens must be given for the conditioner 'mlp', got None.")
            cond_kw["num_visual_tokens"] = num_visual_tokens

        self.centred = isinstance(norm, nn.LayerNorm)
        self.eps: float | None = norm.eps
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias if isinstance(norm, nn.LayerNorm) else None)
        self.conditioner = CONDITIONERS[kind](self.dim, cond_dim, vision_dim, **cond_kw)
        self.head = nn.Linear(cond_dim, 2 * self.dim)
        if zero_init:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        if norm.weight is not None:
            self.conditioner.to(norm.weight.device, norm.weight.dtype)
            self.head.to(norm.weight.device, norm.weight.dtype)
        self._context: tuple[Tensor | VisionCache | None, Tensor | None] = (None, None)
        self.train(norm.training)

    @property
    def base(self) -> nn.LayerNorm | nn.RMSNorm:
        """The host's norm; it shares this layer's parameters."""
        kind = nn.LayerNorm if self.centred else nn.RMSNorm
        norm = kind(self.dim, eps=self.eps, elementwise_affine=False)  # type: ignore[arg-type]
        norm._parameters.update({name: p for name, p in self._parameters.items() if name in norm._parameters})
        norm.elementwise_affine = self.weight is not None
        return norm.train(self.training)

    def precompute(self, vision: Tensor | None, vision_mask: Tensor | None = None) -> VisionCache:
        """What does not depend on the text: give it to :meth:`forward` in place of ``vision``, for the same image.

        Args:
            vision: visual tokens [B, M, dv]; None or M = 0: no image.
            vision_mask: bool, True = valid: [B, M], or [B, T, M] for the attention conditioner.

        Raises:
            ValueError: shapes that do not fit, a mask that is not bool or has no ``vision``.
            TypeError: ``vision`` not floating.
        """
        _check_mask_has_vision(vision, vision_mask)
        if vision is None:
            return VisionCache()
        if vision.ndim == 3 and vision.shape[1] == 0:
            VisionConditioner.check(self.conditioner, vision, vision_mask)
            return VisionCache()
        self.conditioner.check(vision, vision_mask)
        present = None
        if vision_mask is not None:
            seen = vision_mask.any(-1, keepdim=True)
            present = seen.unsqueeze(1) if vision_mask.ndim == 2 else seen
        return VisionCache(self.conditioner.project(vision, vision_mask), present)

    def forward(
        self,
        t: Tensor,
        vision: Tensor | VisionCache | None = None,
        vision_mask: Tensor | None = None,
        *,
        return_delta: bool = False,
    ) -> Any:
        """The modulated norm of t.

        Args:
            t: text tokens [B, T, d]; without an image of any shape [..., d].
            vision: visual tokens [B, M, dv], or what :meth:`precompute` returned, or None: what
                :func:`vision_context` says, and outside one no image.
            vision_mask: bool, True = valid: [B, M], or [B, T, M] for the attention conditioner. A text token without a
                valid visual token gets the host's norm exactly.
            return_delta: also return dgamma and dbeta.

        Returns:
            [B, T, d], or with ``return_delta`` the triple (out, dgamma, dbeta), each [B, T, d].

        Raises:
            ValueError: shapes that do not fit; a mask that is not bool, or beside no ``vision`` or a cache.
            TypeError: ``t`` or ``vision`` not floating.
        """
        check_floating("t", t)
        if t.shape[-1:] != (self.dim,):
            raise ValueError(f"t must have shape (B, T, {self.dim}), got {tuple(t.shape)}.")
        _check_mask_has_vision(vision, vision_mask)
        if vision is None:
            vision, vision_mask = self._context
        if isinstance(vision, VisionCache):
            if vision_mask is not None:
                raise ValueError(
                    "vision_mask must be None where vision was precomputed: its cache has the mask."
                )
            cache = vision
        else:
            cache = self.precompute(vision, vision_mask)
        if isinstance(vision, Tensor) or cache.values:
            self._check_fits(t, vision if isinstance(vision, Tensor) else cache.values[0], cache.present)
        if not cache.values:
            u = self._host(t, None)
            return (u, torch.zeros_like(u), torch.zeros_like(u)) if return_delta else u

        t_hat = self._normalized(t.to(at_least_float32(t)))
        u = self._host(t, t_hat)
        delta = self.head(F.silu(self.conditioner.condition(u, cache.values)))  # [B, T, 2 d]
        if cache.present is not None:
            delta = delta.masked_fill(~cache.present, 0)
        dgamma, dbeta = delta.split(self.dim, -1)
        if self.modulate == "scale":
            dbeta = torch.zeros_like(dbeta)
        elif self.modulate == "shift":
            dgamma = torch.zeros_like(dgamma)
        out = (u + dgamma * t_hat + dbeta).to(u.dtype)
        return (out, dgamma.to(u.dtype), dbeta.to(u.dtype)) if return_delta else out

    def _normalized(self, x: Tensor) -> Tensor:
        """t_hat."""
        if self.centred:
            return F.layer_norm(x, (self.dim,), None, None, self.eps or 0.0)
        return F.rms_norm(x, (self.dim,), None, self.eps)

    def _host(self, t: Tensor, t_hat: Tensor | None) -> Tensor:
        """u, by the kernel that the host's norm uses, so that both agree bit for bit."""
        if self.centred:
            return F.layer_norm(t, (self.dim,), self.weight, self.bias, self.eps or 0.0)
        if self.weight is None or self.weight.dtype == t.dtype:
            return F.rms_norm(t, (self.dim,), self.weight, self.eps)
        # PyTorch warns of two dtypes and computes this.
        if t_hat is None:
            t_hat = self._normalized(t.to(at_least_float32(t)))
        return (t_hat * self.weight).to(t.dtype)

    def _check_fits(self, t: Tensor, of_vision: Tensor, present: Tensor | None) -> None:
        if t.ndim != 3:
            raise ValueError(f"t must have shape (B, T, {self.dim}) beside vision, got {tuple(t.shape)}.")
        if of_vision.shape[0] != t.shape[0]:
            raise ValueError(f"vision must have t's batch size {t.shape[0]}, got {of_vision.shape[0]}.")
        if present is not None and present.shape[1] not in (1, t.shape[1]):
            raise ValueError(
                f"vision_mask must have {t.shape[1]} rows, one for each text token, got {present.shape[1]}."
            )

    def extra_repr(self) -> str:
        """Width, kind of norm and what is modulated."""
        kind = "LayerNorm" if self.centred else "RMSNorm"
        return f"{self.dim}, norm={kind}, eps={self.eps}, modulate={self.modulate!r}"


def _check_mask_has_vision(vision: object, vision_mask: Tensor | None) -> None:
    if vision is None and vision_mask is not None:
        raise ValueError("vision_mask must be None where there is no vision.")


@contextmanager
def vision_context(
    model: nn.Module, vision: Tensor | None, vision_mask: Tensor | None = None
) -> Iterator[None]:
    """Inside, every :class:`ViLN` of a model that is called without vision uses this one.

    For hosts whose forward knows of no image (LaVi, arXiv 2506.16691). On leaving, also by an exception, the state
    before returns, so contexts can be nested. Vision that is given to a ViLN itself goes first.

    Args:
        model: a network with ViLNs, see :func:`~normviz.adapters.inject_lavi`.
        vision: visual tokens [B, M, dv]; None: no image.
        vision_mask: bool, True = valid, [B, M], or [B, T, M] for the attention conditioner.

    Raises:
        ValueError: the model has no ViLN; a mask without ``vision``.

    Example:
        >>> from normviz.adapters import inject_lavi
        >>> host = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        >>> model = inject_lavi(host, cond_dim=4, select=lambda name, norm: True, zero_init=False)
        >>> t, image = torch.randn(2, 3, 8), torch.randn(2, 9, 8)
        >>> with vision_context(model, image):
        ...     seeing = model(t)
        >>> torch.equal(seeing, model(t))
        False
    """
    _check_mask_has_vision(vision, vision_mask)
    layers = [module for module in model.modules() if isinstance(module, ViLN)]
    if not layers:
        raise ValueError(f"model must have a ViLN, got a {type(model).__name__} without one.")
    before = [layer._context for layer in layers]
    for layer in layers:
        layer._context = (vision, vision_mask)
    try:
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer._context = state
