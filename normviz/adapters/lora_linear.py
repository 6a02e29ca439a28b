"""A linear layer with a frozen weight and a trained low-rank adapter, started as LoRA, PiSSA or CorDA."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.adapters._values import at_least_float32, check_floating, full_precision
from normviz.adapters.adapter_init import (
    FUSIONS,
    adapter_scaling,
    check_rank_of,
    corda_init,
    lora_init,
    pissa_init,
)
from normviz.adapters.context_svd import check_covariance
from normviz.validation import check_choice, check_real

__all__ = ["INITS", "LoRALinear"]

INITS = ("lora", "pissa", "corda_kpm", "corda_ipm")
"""Where an adapter can start."""


class LoRALinear(nn.Module):
    r"""``y = x W_res^T + b + s (x A^T) B^T``: only A and B are trained.

    The layer of LoRA (Hu et al. 2021, arXiv 2106.09685) with the inits that Yang et al. 2024 (CorDA, arXiv 2406.05223,
    sections 3.2 and 3.3) compare: "lora" (A uniform, B = 0, W_res = W), "pissa" (largest components of W), "corda_kpm"
    and "corda_ipm" (smallest and largest of W C', see :func:`corda_init`). For every one ``W_res + s B A = W`` at the
    start. Also the baseline of Hu et al. 2024 (arXiv 2406.03136).

    Args:
        base: its weight and bias are copied, with their dtype and device; it is left alone.
        r: rank, 1..min(out, in).
        alpha: s = alpha / r, > 0. None: r, so s = 1 (CorDA's official code).
        init: "lora" (default), "pissa", "corda_kpm" or "corda_ipm".
        dropout: of x on the adapter's path, in training mode, in [0, 1). Default 0 (CorDA's scripts).
        covariance: [in, in] of the layer's inputs, for the corda inits.
        sigma_fuse: "UV" (default), "U" or "V", for the corda inits.
        damp: the first damping of the covariance, > 0. Default 0.01 (official code).
        generator: of A in the lora init.

    Attributes:
        lora_A: parameter [r, in].
        lora_B: parameter [out, r].
        weight: buffer W_res [out, in].
        bias: buffer [out], or None. Frozen; the official class trains it.
        lora_A0, lora_B0: buffers, the factors at the start.
        scaling: s, a float; saved and loaded with the state.
        in_features, out_features, r: sizes.

    Shape:
        [..., in] -> [..., out].

    Raises:
        ValueError: r, alpha, dropout or damp out of range, unknown init or sigma_fuse, a corda init without covariance
            or with a bad one.
        TypeError: base is not an nn.Linear, or not floating.

    Example:
        >>> layer = LoRALinear(nn.Linear(6, 4), r=2, init="pissa")
        >>> [name for name, p in layer.named_parameters() if p.requires_grad]
        ['lora_A', 'lora_B']
    """

    weight: Tensor
    bias: Tensor | None
    lora_A0: Tensor  # noqa: N815
    lora_B0: Tensor  # noqa: N815

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        alpha: float | None = None,
        init: str = "lora",
        *,
        dropout: float = 0.0,
        covariance: Tensor | None = None,
        sigma_fuse: str = "UV",
        damp: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be an nn.Linear, got {type(base).__name__}.")
        check_floating("base.weight", base.weight)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.r = check_rank_of(r, base.out_features, base.in_features)
        self.scaling = adapter_scaling(alpha, self.r)
        check_choice("init", init, INITS)
        check_choice("sigma_fuse", sigma_fuse, FUSIONS)
        check_real("damp", damp, 0, math.inf, low_open=True, high_open=True)
        self.dropout = check_real("dropout", dropout, 0, 1, high_open=True)

        W = base.weight.detach()
        if init == "lora":
            A, B, residual = lora_init(W, self.r, generator)
        elif init == "pissa":
            A, B, residual = pissa_init(W, self.r, alpha)
        elif covariance is None:
            raise ValueError(f"covariance must be given for init {init!r}.")
        else:
            check_covariance(covariance, self.in_features, "covariance")
            mode = init.removeprefix("corda_")
            A, B, residual = corda_init(W, covariance, self.r, mode, alpha, sigma_fuse, damp)
        self.register_buffer("weight", residual)
        self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())
        self.register_buffer("lora_A0", A.clone())
        self.register_buffer("lora_B0", B.clone())
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [..., out] for x [..., in]."""
        down = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)  # [..., r]
        return F.linear(x, self.weight, self.bias) + self.scaling * F.linear(down, self.lora_B)

    def delta_weight(self) -> Tensor:
        """``s B A`` [out, in]: what the adapter adds to W_res."""
        return self.scaling * (self.lora_B @ self.lora_A)

    def merge(self) -> nn.Linear:
        """An ordinary linear layer with weight ``W_res + s B A`` and its own copies of everything."""
        merged = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device="meta",
            dtype=self.weight.dtype,
        ).to_empty(device=self.weight.device)
        with torch.no_grad(), full_precision(self.weight):
            wide = at_least_float32(self.weight)
            A, B = self.lora_A.to(wide), self.lora_B.to(wide)
            merged.weight.copy_(self.weight.to(wide) + self.scaling * (B @ A))
            if self.bias is not None:
                merged.bias.copy_(self.bias)
        return merged.train(self.training)

    def export_lora(self) -> tuple[Tensor, Tensor]:
        """The change since the start as an ordinary adapter of scaling 1 on the original weight.

        Returns:
            A [2 r, in] and B [out, 2 r] with ``B A = s (lora_B lora_A - lora_B0 lora_A0)``, detached.
        """
        A = torch.cat((self.lora_A.detach(), self.lora_A0))
        B = self.scaling * torch.cat((self.lora_B.detach(), -self.lora_B0), 1)
        return A, B

    def get_extra_state(self) -> dict[str, float]:
        """The scaling, which belongs to the factors."""
        return {"scaling": self.scaling}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the scaling of a saved layer."""
        self.scaling = float(state["scaling"])

    def extra_repr(self) -> str:
        """Sizes, rank, scaling."""
        text = f"{self.in_features}, {self.out_features}, r={self.r}, scaling={self.scaling:g}"
        text += f", bias={self.bias is not None}"
        return f"{text}, dropout={self.dropout:g}" if self.dropout else text
