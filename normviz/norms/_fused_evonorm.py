r"""EvoNorm's B series on the CPU in few passes over memory: forward and gradient in blocks of samples.

For x (N, C, H, W) all three layers are, in the notation of :mod:`normviz.norms.evonorm`::

    y = gamma q + beta,    q = x / d,    d = max(D, t),    t = a x + I

with D (C) the root of the batch's variance, I (N, C) the root of an instance's moment, and the slope a: v1 in B0, I in
B1, -1 in B2. With e = gamma dy / d and m = 1 where t > D, 1/2 where they are equal (as torch's maximum), else 0::

    dgamma = sum dy q,    dbeta = sum dy,    dd = -e q,    dt = m dd,    da = sum dt x,    dI = sum dt
    dD = sum (1 - m) dd,  dx = e + a dt,  and through the moments of which D and I are roots

    D = sqrt(s2_{n,h,w} + eps)    dx += dD (x - mean_{n,h,w}) / (NHW D)
    I = sqrt(s2_{h,w} + eps)      dx += dI (x - mean_{h,w}) / (HW I)
    I = sqrt(mu_{h,w}(x^2) + eps) dx += dI x / (HW I)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normviz.norms._fused import blocks

__all__ = ["Slopes", "add_moments", "instance_moments", "quotient", "quotient_gradient"]


class Slopes(NamedTuple):
    """Gradients of a loss for what the quotient is made of, but x itself: sums over an instance's space, (N, C) each.

    Attributes:
        gain: for gamma.
        shift: for beta.
        slope: for a.
        offset: for I.
        batch: for D.

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967; formulas in the
        module's docstring.
    """

    gain: Tensor
    shift: Tensor
    slope: Tensor
    offset: Tensor
    batch: Tensor


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (H, W) of each sample and channel, (N, C) each.

    Group norm's kernel has them several times as fast as ``var_mean``; what it normalises is let go block by block.
    """
    n, c, h, w = x.shape
    means, roots = x.new_empty(n, c), x.new_empty(n, c)
    for part in blocks(x):
        own = x[part]
        _, mean, rstd = torch.native_group_norm(own, None, None, len(own), c, h * w, c, 0.0)
        means[part], roots[part] = mean.view(-1, c), rstd.view(-1, c)
    return means, roots.square_().reciprocal_()  # the reciprocal of infinity is the variance 0


def _maximum(x: Tensor, a: Tensor, I: Tensor, D: Tensor, d: Tensor, t: Tensor) -> None:
    """Fill t with a x + I and d with max(D, t)."""
    torch.mul(x, a, out=t).add_(I)
    torch.maximum(t, D, out=d)


def quotient(x: Tensor, a: Tensor, I: Tensor, D: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """gain x / max(D, a x + I) + shift for x (N, C, H, W); a and I are (N, C, 1, 1), the others (1, C, 1, 1)."""
    out = torch.empty_like(x)
    room = _room(x, 1)
    for part in blocks(x):
        y = out[part]
        (t,) = room[:, : len(y)]
        _maximum(x[part], a[part], I[part], D, t, t)
        torch.div(x[part], t, out=y).mul_(gain).add_(shift)
    return out


def quotient_gradient(
    dy: Tensor, x: Tensor, a: Tensor, I: Tensor, D: Tensor, gain: Tensor
) -> tuple[Tensor, Slopes]:
    """e + a dt, the gradient for x at fixed a, I and D, and those for all else; shapes as in :func:`quotient`."""
    out = torch.empty_like(x)
    sums = Slopes(*(x.new_empty(x.shape[:2]) for _ in Slopes._fields))
    room = _room(x, 3)
    for part in blocks(x):
        own, dy_own, e = x[part], dy[part], out[part]
        d, t, q = room[:, : len(own)]
        _maximum(own, a[part], I[part], D, d, t)
        t.sub_(D).sign_()  # 2 m - 1
        torch.div(own, d, out=q)
        torch.div(dy_own, d, out=e).mul_(gain)
        sums.gain[part] = torch.mul(dy_own, q, out=d).sum((2, 3))
        sums.shift[part] = dy_own.sum((2, 3))
        q.mul_(e)  # -dd
        sums.batch[part] = q.sum((2, 3))
        t.mul_(q).add_(q)  # -2 dt
        sums.offset[part] = t.sum((2, 3))
        sums.slope[part] = torch.mul(t, own, out=q).sum((2, 3))
        e.addcmul_(t, a[part], value=-0.5)
    sums.offset.mul_(-0.5)
    sums.slope.mul_(-0.5)
    sums.batch.add_(sums.offset).neg_()  # -sum of -dd less that of -dt
    return out, sums


def _room(x: Tensor, count: int) -> Tensor:
    """Space for so many blocks of x at a time."""
    first = next(blocks(x))
    return x.new_empty(count, len(x[first]), *x.shape[1:])


def add_moments(dx: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> None:
    """dx <- dx + scale x + shift, scale and shift (N, C, 1, 1): what comes through the moments."""
    for part in blocks(x):
        dx[part].addcmul_(x[part], scale[part]).add_(shift[part])
