"""The layer of "Layer Normalization" (arXiv 1607.06450) itself; see :mod:`normviz.norms.layer_norm` for the paper."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._rows import computing_dtype
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["LayerNorm", "LayerNormFunction", "norm_statistics", "standardize"]


def standardize(a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``z`` and ``1 / s`` over the last axis.

    The mean is taken of the differences from the first entry: for a constant row they are exactly 0 and so is z,
    where the rounding of a plain mean would be blown up by 1 / sqrt(eps).
    """
    pivot = a[..., :1].detach()
    centred = a - (pivot + (a - pivot).mean(-1, keepdim=True))
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * inverse, inverse


class LayerNormFunction(torch.autograd.Function):
    """``y = g z + b`` over the last axis, with the backward written out.

    Per case, with ``u = g dy``: ``da = (u - mean(u) - z mean(u z)) / s``; ``dg`` and ``db`` sum ``dy z`` and ``dy``
    over the cases. Only ``a`` and ``g`` are kept for the backward; z and s are computed again, so that a second
    differentiation sees them as the functions of ``a`` that they are.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, g: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
        """Normalise ``a`` (..., H); ``g`` and ``b`` are (H,) or None."""
        z, _ = standardize(a, eps)
        y = z if g is None else g * z
        return y if b is None else y + b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep the input and the gain."""
        a, g, _, ctx.eps = inputs
        ctx.save_for_backward(a, g)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for ``a``, ``g``, ``b`` (and none for ``eps``)."""
        a, g = ctx.saved_tensors
        need_a, need_g, need_b, _ = ctx.needs_input_grad
        z, inverse = standardize(a, ctx.eps)
        u = dy if g is None else g * dy
        da = dg = db = None
        if need_a:
            da = (u - u.mean(-1, keepdim=True) - z * (u * z).mean(-1, keepdim=True)) * inverse
        if need_g:
            dg = (dy * z).reshape(-1, dy.shape[-1]).sum(0)
        if need_b:
            db = dy.reshape(-1, dy.shape[-1]).sum(0)
        return da, dg, db, None


class LayerNorm(nn.Module):
    """Layer normalization ``y = g (a - mu) / sqrt(sigma^2 + eps) + b`` over the trailing axes.

    mu and sigma^2 (biased) are taken over ``normalized_shape`` for each case by itself. float16 and bfloat16 inputs
    are normalised in float32 and cast back. A constant row gives exactly ``b``; with a single normalised element
    every row does (a UserWarning says so at construction).

    Args:
        normalized_shape: sizes of the trailing axes that are normalised together.
        eps: added to the variance, inside the root. Default 1e-5 (authors' code, torch). 0 is allowed; the exact
            invariances hold for it.
        elementwise_affine: learn gain and bias of shape ``normalized_shape``. Default True (paper).
        bias: with ``elementwise_affine``, learn the bias too. Default True (paper).
        backend: "reference" (the formula, differentiated by autograd), "manual" (backward written out,
            :class:`LayerNormFunction`) or "torch" (``F.layer_norm``, the fastest). Same values.

    Raises:
        ValueError: empty ``normalized_shape`` or a size below 1, ``eps`` < 0, unknown ``backend``; in forward: the
            trailing axes are not ``normalized_shape``.
        TypeError: forward on integers.

    Example:
        >>> layer = LayerNorm(4)
        >>> layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).mean().abs() < 1e-6
        tensor(True)
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        backend: str = "reference",
    ) -> None:
        super().__init__()
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if len(sizes) == 0:
            raise ValueError(f"normalized_shape must have at least one axis, got {normalized_shape!r}.")
        self.normalized_shape = tuple(check_integer("normalized_shape", size, 1) for size in sizes)
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.elementwise_affine = bool(elementwise_affine)
        self.backend = check_choice("backend", backend, ("reference", "manual", "torch"))
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(self.normalized_shape))
            if bias:
                self.bias = nn.Parameter(torch.zeros(self.normalized_shape))
        if set(self.normalized_shape) == {1}:
            warnings.warn(
                "normalized_shape has a single element: the output is the bias for every input.",
                UserWarning,
                stacklevel=2,
            )

    def forward(self, a: Tensor) -> Tensor:
        """Normalise ``a`` (..., *normalized_shape); same shape and dtype out."""
        kind = computing_dtype("a", a)
        ndim = len(self.normalized_shape)
        if tuple(a.shape[-ndim:]) != self.normalized_shape:
            raise ValueError(
                f"a must end with the axes normalized_shape = {self.normalized_shape}, got shape {tuple(a.shape)}."
            )
        y = self._normalize(a.to(kind).flatten(-ndim))  # (..., H)
        return y.to(a.dtype).reshape(a.shape)

    def _normalize(self, a: Tensor) -> Tensor:
        g = None if self.weight is None else self.weight.to(a.dtype).flatten()
        b = None if self.bias is None else self.bias.to(a.dtype).flatten()
        single = a.shape[-1] == 1
        if self.backend == "torch" and not single:
            return F.layer_norm(a, a.shape[-1:], g, b, self.eps)
        if self.backend == "manual" and not single:
            return LayerNormFunction.apply(a, g, b, self.eps)  # type: ignore[no-any-return, no-untyped-call]
        z = a - a if single else standardize(a, self.eps)[0]  # a single one is exactly 0, also where eps = 0
        y = z if g is None else g * z
        return y if b is None else y + b

    def extra_repr(self) -> str:
        """Constructor arguments, as torch prints them."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}, backend={self.backend!r}"
        )


def norm_statistics(a: Tensor, ndim: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that layer norm takes of its input, for plotting.

    Args:
        a: (..., *axes), the input of the norm; float16 and bfloat16 are reduced in float32.
        ndim: number of trailing axes that are normalised together. Default 1.

    Returns:
        ``(mu, sigma)``: mean and root of the biased variance (without eps), those axes dropped.

    Raises:
        ValueError: ``ndim`` not in [1, a.ndim], or an axis of length 0 among them.
        TypeError: ``a`` holds integers.
    """
    kind = computing_dtype("a", a)
    check_integer("ndim", ndim, 1, a.ndim)
    flat = a.to(kind).flatten(-ndim)
    if flat.shape[-1] == 0:
        raise ValueError(f"a must have elements on its last {ndim} axes, got shape {tuple(a.shape)}.")
    variance, mean = torch.var_mean(flat, -1, correction=0)
    return mean, variance.sqrt()
