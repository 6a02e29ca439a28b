r"""Layer Normalization, with its recurrent forms and the invariance analysis.

J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv 1607.06450.
Authors' code: ryankiros/layer-norm (Theano ``layers.py``, Lua modules).

Batch norm takes mean and variance of one neuron over the cases of a batch; layer norm takes them of one case over
all neurons of the layer. No state, the same computation in training and inference, any batch size, and in a
recurrent net fresh statistics at every time step with one gain and bias shared over time.

Notation: ``a`` summed inputs before the nonlinearity (..., H), ``mu`` and ``sigma`` their mean and (biased) standard
deviation over the H neurons, ``g`` gain (``weight``), ``b`` bias, ``s = sqrt(sigma^2 + eps)``, ``z = (a - mu) / s``.

    y = g z + b                                                          LayerNorm
    da = (u - mean(u) - z mean(u z)) / s,   u = g dy                     LayerNormFunction.backward
    h = f(LN(W x))                                                       LayerNormLinear
    h_t = f(LN(W_hh h + W_ih x))                                         LayerNormRNNCell
    pre = LN(W_hh h) + LN(W_ih x) + bias;   h_t = sigmoid(o) tanh(LN(c_t))   LayerNormLSTMCell
    n = tanh(LN(W_ih^n x) + r LN(W_hh^n h)); h_t = z h + (1 - z) n       LayerNormGRUCell

Where paper and code differ: ``eps`` stands inside the root (Python code and torch; the Lua module adds it to sigma).
The LSTM adds its bias once, after the two norms (paper; the code adds the same parameter before as well), and carries
the un-normalised cell. In the GRU ``z`` keeps the old state (code and torch; the paper's appendix writes 1 - z). Gates
are ordered i, f, g, o (torch; the code: i, f, o, g). At padded steps the states are held (code).

The feed-forward layer, the recurrent networks and the invariance table stand in files of their own; their names can be
imported from here too.

For convolutions the paper reports that layer norm helps over no norm but is worse than batch norm: units at the
border of an image have other statistics than the rest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["LayerNorm", "LayerNormFunction", "norm_statistics"]

_ELSEWHERE = {
    "LayerNormGRU": "layer_norm_recurrent",
    "LayerNormGRUCell": "layer_norm_recurrent",
    "LayerNormLSTM": "layer_norm_recurrent",
    "LayerNormLSTMCell": "layer_norm_recurrent",
    "LayerNormLinear": "layer_norm_linear",
    "LayerNormRNN": "layer_norm_recurrent",
    "LayerNormRNNCell": "layer_norm_recurrent",
    "invariance_gaps": "layer_norm_invariances",
    "invariance_table": "layer_norm_invariances",
}
"""Module of each name of the paper that is built on the layer; loaded when asked for, since those files import this."""


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(import_module(f"normviz.norms.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module 'normviz.norms.layer_norm' has no attribute {name!r}")


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

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, its gradient; equations in the module's
        docstring.
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
    are normalised in float32 and cast back. A constant row gives exactly ``b``; only backend "torch" on devices other
    than the CPU, or compiled, may be off by the rounding of the mean times 1 / sqrt(eps). With a single
    normalised element every row gives exactly ``b`` (a UserWarning says so at construction).

    Args:
        normalized_shape: sizes of the trailing axes that are normalised together.
        eps: added to the variance, inside the root. Default 1e-5 (authors' code, torch). 0 is allowed; the exact
            invariances hold for it.
        elementwise_affine: learn gain and bias of shape ``normalized_shape``. Default True (paper).
        bias: with ``elementwise_affine``, learn the bias too. Default True (paper).
        backend: "torch" (default: torch's own kernel ``F.layer_norm``, the fastest), "reference" (the formula,
            differentiated by autograd) or "manual" (backward written out, :class:`LayerNormFunction`). Same values up
            to rounding.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: empty ``normalized_shape`` or a size below 1, ``eps`` < 0, unknown ``backend``; in forward: the
            trailing axes are not ``normalized_shape``.
        TypeError: forward on integers.

    Example:
        >>> layer = LayerNorm(4)
        >>> layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).mean().abs() < 1e-6
        tensor(True)

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450; equations in the module's docstring.
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
        backend: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
        self._single = math.prod(self.normalized_shape) == 1
        if self._single:
            warnings.warn(
                "normalized_shape has a single element: the output is the bias for every input.",
                UserWarning,
                stacklevel=2,
            )
        place(self, device, dtype)

    def forward(self, a: Tensor) -> Tensor:
        """Normalise ``a`` (..., *normalized_shape); same shape and dtype out."""
        kind = computing_dtype("a", a)
        ndim = len(self.normalized_shape)
        if a.shape[-ndim:] != self.normalized_shape:
            raise ValueError(
                f"a must end with the axes normalized_shape = {self.normalized_shape}, got shape {tuple(a.shape)}."
            )
        g, b = self.weight, self.bias
        g = g if g is None or g.dtype == kind else g.to(kind)
        b = b if b is None or b.dtype == kind else b.to(kind)
        wide = a if a.dtype == kind else a.to(kind)
        if self.backend == "torch" and not self._single:
            y = F.layer_norm(wide, self.normalized_shape, g, b, self.eps)
        else:
            flat = (None if p is None else p.flatten() for p in (g, b))
            y = self._normalize(wide.flatten(-ndim), *flat).reshape(a.shape)  # (..., H) inside
        return y if a.dtype == kind else y.to(a.dtype)

    def _normalize(self, a: Tensor, g: Tensor | None, b: Tensor | None) -> Tensor:
        """The formula over the last axis; ``g`` and ``b`` are (H,)."""
        if self.backend == "manual" and not self._single:
            return LayerNormFunction.apply(a, g, b, self.eps)  # type: ignore[no-any-return, no-untyped-call]
        z = (
            a - a if self._single else standardize(a, self.eps)[0]
        )  # a single one is exactly 0, also where eps = 0
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
