"""Layer norm or RMS norm over the features of one sample, with scale and offset: the norm of Normalize-and-Project.

Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv 2407.01800, put one of the
two before every nonlinearity. torch's RMSNorm has no offset, and its LayerNorm has one scale per *element* of an image;
here both norms have scale sigma (``weight``) and offset mu (``bias``), one per feature or channel::

    LN(x)  = (x - mean(x)) / sqrt(var(x) + eps),   biased variance
    RMS(x) = x / sqrt(mean(x^2) + eps)
    y      = sigma LN(x) + mu,                     likewise for RMS
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._rows import computing_dtype
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["NORM_EPS", "FeatureNorm"]

NORM_EPS = {"layer": 1e-5, "rms": 1e-6}
"""Kinds of norm, and the ``eps`` that each has unless another is given."""


class FeatureNorm(nn.Module):
    """Layer or RMS norm over the features of a sample, or over channels and pixels of an image.

    Scale-invariant for eps = 0: FeatureNorm(c x) = FeatureNorm(x) for every c > 0. float16 and bfloat16 are normalised
    in float32 and cast back. A constant input gives the offset under "layer" (with eps > 0).

    Args:
        num_features: features, or channels C of an image.
        kind: "layer" (default) or "rms".
        spatial: inputs are images (..., C, H, W), with statistics over C, H and W together (``GroupNorm(1, C)``).
            Default False: inputs are (..., num_features), with statistics over the last axis.
        eps: inside the root. Default None: 1e-5 for "layer", 1e-6 for "rms" (the usual ones of these norms).
        affine: learn scale (starts at 1) and offset (at 0), (num_features,) each. Default True.

    Raises:
        ValueError: unknown kind, ``num_features`` < 1, ``eps`` < 0; layer norm of a single feature (its output would be
            the offset, whatever the input); forward on another number of features.
        TypeError: forward on integers.

    Example:
        >>> FeatureNorm(8, "rms")(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Reference: Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv
        2407.01800; equations in the module's docstring.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        kind: str = "layer",
        *,
        spatial: bool = False,
        eps: float | None = None,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kind = check_choice("kind", kind, NORM_EPS)
        self.num_features = check_integer("num_features", num_features, 1)
        self.spatial = bool(spatial)
        if kind == "layer" and num_features == 1 and not spatial:
            raise ValueError(
                "num_features must be at least 2 for layer norm: of a single feature nothing is left."
            )
        self.eps = NORM_EPS[kind] if eps is None else check_real("eps", eps, 0, high_open=True)
        self.affine = bool(affine)
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., num_features), or (..., C, H, W) where ``spatial``; same shape and dtype out."""
        kind = computing_dtype("x", x)
        ndim, trailing = (3, (1, 1)) if self.spatial else (1, ())
        if x.ndim < ndim or x.shape[-ndim] != self.num_features:
            expected = f"(..., {self.num_features}{', H, W' if self.spatial else ''})"
            raise ValueError(f"x must have shape {expected}, got {tuple(x.shape)}.")
        a = x.to(kind).flatten(-ndim)  # (..., F) or (..., C H W)
        if self.kind == "layer":
            z = F.layer_norm(a, a.shape[-1:], eps=self.eps)
        else:
            z = F.rms_norm(a, a.shape[-1:], eps=self.eps)
        z = z.reshape(x.shape)
        if self.weight is not None and self.bias is not None:
            sigma, mu = (p.to(kind).reshape(-1, *trailing) for p in (self.weight, self.bias))
            z = sigma * z + mu
        return z.to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return f"{self.num_features}, {self.kind!r}, spatial={self.spatial}, eps={self.eps}, affine={self.affine}"
