"""Few passes over memory for layers on the CPU: sums, multiply-adds and combinations of rows (..., C).

What a normalization layer computes is cheap; reading and writing the batch is not, and a fresh tensor of its size most
of all. So each function here reads its inputs once, in one of torch's batch norm kernels or in blocks that stay in the
cache, and makes no tensor of the batch's size besides its result. A layer's own formulas stay its reference: they are
what runs under ``torch.compile`` (which fuses them itself), under vmap and other transforms, with forward-mode
derivatives, for second derivatives and on other devices (see :func:`plain`). Autograd functions that call what is here
have no ``setup_context``: torch inspects the signature of one that has at every call, which costs more than a small
batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = [
    "blend",
    "blocks",
    "channel_sums",
    "fusible",
    "group_scale",
    "group_scale_gradient",
    "plain",
    "scale_shift",
]

BLOCK = 2**16
"""Numbers of one block for each thread: a few such blocks fit into two megabytes of cache."""

SMALL = 2**17
"""Numbers of a batch that stays in the cache as a whole."""


def plain(x: Tensor) -> bool:
    """Whether nothing but autograd follows ``x``: not a compiler, a transform or a forward-mode derivative.

    It is then an ordinary tensor on the CPU, in float32 or float64, and code may write into tensors made of it.
    """
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.float64)
        and type(x) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def fusible(x: Tensor) -> bool:
    """:func:`plain`, and no graph is recorded: what the functions below ask for."""
    return not torch.is_grad_enabled() and plain(x)


def blocks(x: Tensor) -> Iterator[slice]:
    """Parts of the first axis of ``x``, each with about :data:`BLOCK` numbers for each thread."""
    count = len(x)
    size = max(1, BLOCK * torch.get_num_threads() * count // max(1, x.numel()))
    for start in range(0, count, size):
        yield slice(start, start + size)


def _channels_second(x: Tensor, like: Tensor) -> Tensor:
    """Rows x (..., C) as batch norm takes them: (R, C), or (B, C, ...) if ``like`` is not in the order of its axes."""
    return x.reshape(-1, x.shape[-1]) if like.is_contiguous() else x.movedim(-1, 1)


def channel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the rows of a b and of a, each (C,): a, b (..., C).

    For large batches they are taken by batch norm's backward, which has them as gradients of its weight and bias, here
    at mean 0 and variance 1.
    """
    if a.numel() <= SMALL:
        rows = tuple(range(a.ndim - 1))
        return (a * b).sum(rows), a.sum(rows)
    one = b.new_ones(b.shape[-1])
    _, products, total = torch.ops.aten.native_batch_norm_backward(
        _channels_second(a, b),
        _channels_second(b, b),
        one,
        torch.zeros_like(one),
        one,
        None,
        None,
        False,
        0.0,
        [False, True, True],
    )
    return products, total


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale x + shift for rows x (..., C), in their order in memory."""
    if x.is_contiguous():
        return torch.addcmul(shift, x, scale)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    y, _, _ = torch.native_batch_norm(x.movedim(-1, 1), scale, shift, zero, one, False, 0.0, 0.0)
    return y.movedim(1, -1)


def blend(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x - b y for rows x, y (..., C) and factors a, b (C,), in y's order in memory."""
    if y.numel() <= SMALL:
        return torch.mul(x, a, out=torch.empty_like(y)).addcmul_(y, b, value=-1)
    shape = y.shape
    if y.is_contiguous():
        x, y = x.reshape(-1, shape[-1]), y.view(-1, shape[-1])
    out = torch.empty_like(y)
    for part in blocks(y):
        torch.mul(x[part], a, out=out[part]).addcmul_(y[part], b, value=-1)
    return out.view(shape)


def group_scale(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x rho and rho = 1 / sqrt(mean x^2 + eps) along the last axis: x (..., L), rho (..., 1)."""
    rho = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return x * rho, rho


def group_scale_gradient(dy: Tensor, x: Tensor, rho: Tensor) -> Tensor:
    """rho (dy - rho^2 x mean(dy x)), the gradient for x of :func:`group_scale`."""
    shape = x.shape
    dy, x, rho = dy.reshape(-1, shape[-1]), x.reshape(-1, shape[-1]), rho.view(-1, 1)
    out = torch.empty_like(x)
    for part in blocks(x):
        own, row = torch.mul(dy[part], x[part], out=out[part]), rho[part]
        pulled = own.sum(-1, keepdim=True).mul_(row).mul_(row).mul_(row).div_(-shape[-1])
        torch.mul(dy[part], row, out=own).addcmul_(x[part], pulled)
    return out.view(shape)
