"""Maps from one model's features into another's space: affine, and orthogonal by construction.

Ricci et al., "lambda-Orthogonality Regularization for Compatible Representation Learning", arXiv 2509.16664: the
backward map acts on new features, the forward map on old ones. An orthogonal map without bias keeps all norms, angles
and cosine rankings.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from normviz.adapters._values import check_floating, full_precision
from normviz.adapters.orthogonality import procrustes_orthogonal
from normviz.validation import check_choice, check_integer

__all__ = ["AffineAdapter", "OrthogonalAdapter"]

INITS = ("identity", "procrustes", "orthogonal", "default")
PARAMETRIZATIONS = ("matrix_exp", "cayley")


class AffineAdapter(nn.Module):
    """y = (h / in_scale) W^T + b: the free map of arXiv 2509.16664, forward or (regularised) backward.

    Args:
        in_features, out_features: widths.
        bias: whether there is b (True).
        init: of W. "identity" (default): ones on the diagonal, also if W is not square. "procrustes": the orthogonal
            map that fits ``data`` best. "orthogonal": a random one. "default": as ``nn.Linear``. b starts at 0.
        data: (h_in [N, in], h_out [N, out]), for "procrustes" only.
        device, dtype: of the parameters (torch's defaults).

    Attributes:
        weight: W [out, in].
        bias: b [out], None without.
        in_scale: 0-dim buffer, 1: a scale that the features are divided by.

    Shape:
        (..., in) -> (..., out).

    Raises:
        ValueError: a width below 1, unknown init, "procrustes" without data, data of other shapes.

    Example:
        >>> import torch
        >>> AffineAdapter(3, 2)(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [1.0, 2.0]
    """

    in_scale: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init: str = "identity",
        *,
        data: tuple[Tensor, Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_integer("in_features", in_features, 1)
        self.out_features = check_integer("out_features", out_features, 1)
        self.init = check_choice("init", init, INITS)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_buffer("in_scale", torch.ones((), device=device, dtype=dtype))
        with torch.no_grad():
            if init == "identity":
                nn.init.eye_(self.weight)
            elif init == "orthogonal":
                nn.init.orthogonal_(self.weight)
            elif init == "default":
                nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
            else:
                self.weight.copy_(_fitted(data, in_features, out_features))

    def extra_repr(self) -> str:
        """Widths and start."""
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, init={self.init!r}"

    def forward(self, h: Tensor) -> Tensor:
        """Map features."""
        return linear(h / self.in_scale, self.weight, self.bias)


def _fitted(data: tuple[Tensor, Tensor] | None, width_in: int, width_out: int) -> Tensor:
    if data is None:
        raise ValueError("data must be (h_in, h_out) for init='procrustes', got None.")
    h_in, h_out = data
    if h_in.ndim != 2 or h_out.ndim != 2 or (h_in.shape[1], h_out.shape[1]) != (width_in, width_out):
        raise ValueError(
            f"data must be ([N, {width_in}], [N, {width_out}]), got {tuple(h_in.shape)} and {tuple(h_out.shape)}."
        )
    return procrustes_orthogonal(h_in.detach(), h_out.detach())


class OrthogonalAdapter(nn.Module):
    """h -> (h / in_scale) W^T with W orthogonal whatever an optimiser does: the strict map of arXiv 2509.16664.

    ``W = W_0 Q(A)`` with the start W_0, A skew-symmetric from the parameter, and ``Q = exp(A)`` ("matrix_exp") or
    ``Q = (I - A/2)^{-1} (I + A/2)`` ("cayley"), both rotations with Q(0) = I. So det W keeps the sign of the start; a
    start with det -1 is allowed. There is no bias, which would destroy the invariance of cosine rankings. The product
    is computed in float64 where the device has it, so that W is orthogonal up to its dtype's rounding.

    If the widths differ, W has orthonormal columns (more outputs) or rows (fewer): distances are kept only in the
    first case.

    Args:
        features: width of the input.
        out_features: width of the output; None (default): the same.
        parametrization: "matrix_exp" (default) or "cayley".
        weight: start [out, in], orthogonal up to rounding (the nearest orthogonal matrix is taken); None (default):
            ones on the diagonal.
        device, dtype: of the parameter; by default the start's, or torch's defaults.

    Attributes:
        weight: W [out, in], computed from the parameter.
        skew: the parameter, one number per angle; starts at 0.
        in_scale: 0-dim buffer, 1: a scale that the features are divided by.

    Shape:
        (..., features) -> (..., out_features).

    Raises:
        ValueError: a width below 1, unknown parametrization, weight of another shape or not orthogonal.
        TypeError: weight not floating.

    Warns:
        UserWarning: the widths differ.

    Example:
        >>> import torch
        >>> adapter = OrthogonalAdapter(4)
        >>> _ = torch.nn.init.normal_(adapter.skew)
        >>> h = torch.randn(5, 4)
        >>> torch.allclose(adapter(h).norm(dim=1), h.norm(dim=1))
        True
    """

    in_scale: Tensor
    start: Tensor

    def __init__(
        self,
        features: int,
        out_features: int | None = None,
        *,
        parametrization: str = "matrix_exp",
        weight: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = check_integer("features", features, 1)
        self.out_features = (
            features if out_features is None else check_integer("out_features", out_features, 1)
        )
        self.parametrization = check_choice("parametrization", parametrization, PARAMETRIZATIONS)
        if self.out_features != features:
            warnings.warn(
                f"out_features {self.out_features} differs from features {features}: only the smaller side's geometry "
                f"is preserved.",
                UserWarning,
                stacklevel=2,
            )
        if weight is None:
            start = torch.eye(max(features, self.out_features), device=device, dtype=dtype)
        else:
            start = _completed(weight.detach(), (self.out_features, features)).to(
                weight.device if device is None else device, weight.dtype if dtype is None else dtype
            )
        big, small = len(start), min(features, self.out_features)
        self.register_buffer("start", start)  # (big, big); its first columns are W_0, or W_0^T if W is wide
        self.skew = nn.Parameter(start.new_zeros(small * big - small * (small + 1) // 2))
        self.register_buffer("in_scale", start.new_ones(()))

    def extra_repr(self) -> str:
        """Widths and parametrisation."""
        return f"features={self.features}, out_features={self.out_features}, parametrization={self.parametrization!r}"

    @property
    def weight(self) -> Tensor:
        """W [out, in]: orthogonal, or with orthonormal rows or columns if it is not square."""
        big, small = len(self.start), min(self.features, self.out_features)
        dtype = torch.float32 if self.skew.device.type == "mps" else torch.float64
        rows, columns = torch.tril_indices(big, small, -1, device=self.skew.device)
        lower = self.skew.new_zeros(big, big, dtype=dtype).index_put((rows, columns), self.skew.to(dtype))
        a = lower - lower.mT  # (big, big)
        with full_precision(a):
            if self.parametrization == "matrix_exp":
                q = torch.linalg.matrix_exp(a)
            else:
                eye = torch.eye(big, dtype=dtype, device=a.device)
                q = torch.linalg.solve(eye - a / 2, eye + a / 2)
            w: Tensor = (self.start.to(dtype) @ q)[:, :small]
        return (w if self.out_features >= self.features else w.mT).to(self.skew.dtype)

    def forward(self, h: Tensor) -> Tensor:
        """Map features."""
        return linear(h / self.in_scale, self.weight)


def _completed(weight: Tensor, shape: tuple[int, int]) -> Tensor:
    """A square orthogonal matrix in float64 whose first columns are ``weight``, or its transpose if that is wide."""
    check_floating("weight", weight)
    if weight.shape != shape:
        raise ValueError(f"weight must have shape {shape}, got {tuple(weight.shape)}.")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be orthogonal, got infinite or NaN entries.")
    tall = weight.cpu().double() if shape[0] >= shape[1] else weight.cpu().double().mT
    p, s, rt = torch.linalg.svd(tall, full_matrices=False)
    tolerance = (
        1e-4 if weight.dtype.itemsize > 2 else 0.05
    )  # what rounding may have done to an orthogonal matrix
    if not bool((s - 1).abs().max() <= tolerance):
        raise ValueError(f"weight must be orthogonal, got singular values {s.min():.4g} to {s.max():.4g}.")
    nearest = p @ rt
    complement = torch.linalg.qr(nearest, mode="complete").Q[:, nearest.shape[1] :]
    return torch.cat((nearest, complement), dim=1)
