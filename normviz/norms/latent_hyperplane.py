"""A plane between an art domain and the others in the space of style codes, and moves along its normal."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from normviz.norms._rows import computing_dtype
from normviz.validation import check_integer, check_real

__all__ = ["domain_hyperplane", "edit_latent"]

_TOLERANCE = 1e-10
"""By how much the conditions of the optimum may be violated."""

_MOST_STEPS = 200


def domain_hyperplane(z: Tensor, labels: Tensor, positive: int) -> tuple[Tensor, float]:
    """The plane of a linear soft-margin support vector machine between one label and all others.

    Huang et al., arXiv 2308.10111: hyperplanes in the latent space give control over the domain. (w, b) minimises
    ``|w|^2 / 2 + sum_i max(0, 1 - y_i (w z_i + b))`` (C = 1, b without penalty; y = +1 for ``positive``), found by an
    interior-point method in float64, at O(N Z^2) a step.

    Where labels overlap so much that w = 0 is the optimum, there is no such plane. The result is then the plane midway
    between the mean codes of both sides, along their difference.

    Args:
        z: style codes (N, Z).
        labels: (N,), integers.
        positive: the label on the plane's positive side.

    Returns:
        ``normal``, (Z,) of length 1 in the dtype of z, and ``offset``: ``z @ normal + offset`` is the signed distance
        from the plane, positive on the side of ``positive``.

    Raises:
        ValueError: z or ``labels`` of another shape; all labels ``positive``, or none; codes that do not differ
            between the two sides.
        TypeError: z not floating point, ``labels`` not of an integer dtype.

    Warns:
        RuntimeWarning: the conditions of the optimum are violated by more than 1e-10 after 200 steps.

    Example:
        >>> import torch
        >>> z = torch.tensor([[2.0, 0.0], [3.0, 1.0], [-2.0, 0.0], [-3.0, 1.0]])
        >>> normal, offset = domain_hyperplane(z, torch.tensor([1, 1, 0, 0]), positive=1)
        >>> [round(float(n), 3) for n in normal], round(abs(offset), 3)
        ([1.0, 0.0], 0.0)
    """
    computing_dtype("z", z)
    if z.ndim != 2:
        raise ValueError(f"z must have shape (N, Z), got {tuple(z.shape)}.")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {given}.")
    if tuple(labels.shape) != (z.shape[0],):
        raise ValueError(f"labels must have shape ({z.shape[0]},), got {tuple(labels.shape)}.")
    check_integer("positive", positive)
    mine = (labels == positive).cpu().numpy()
    if mine.all() or not mine.any():
        raise ValueError(
            f"labels must hold both positive = {positive} and others, got {int(mine.sum())} of {mine.size}."
        )
    points = z.detach().cpu().double().numpy()
    w, b = _support_vectors(points, np.where(mine, 1.0, -1.0))
    length = float(np.linalg.norm(w))
    if length < 1e-12:
        raise ValueError("z must differ between the labels: no plane tells them apart.")
    normal = torch.from_numpy(w / length).to(z.device, z.dtype)
    return normal, b / length


def _support_vectors(points: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """w and b of the soft-margin problem with C = 1, for points (N, Z) and signs (N,).

    With alpha the dual variables, xi the primal slacks and s the margins beyond 1, the conditions of the optimum are
    ``y (x w + b) - 1 = s - xi``, ``w = sum alpha y x``, ``y alpha = 0``, ``alpha s = 0``, ``(1 - alpha) xi = 0``. Each
    Newton step aims at products of a tenth of their mean, or of half of it where the residual lags; its matrix is
    diagonal plus rank Z.
    """
    centre = points.mean(0)
    a = y[:, None] * (points - centre)  # (N, Z)
    count, width = a.shape
    # 1 - alpha, which moves by itself: as a difference it would round to 0 where alpha comes close to 1.
    alpha, room = np.full(count, 0.5), np.full(count, 0.5)
    s, xi, b = np.ones(count), np.ones(count), 0.0
    for _ in range(_MOST_STEPS):
        products = alpha @ s + room @ xi
        residual = 1 + s - xi - a @ (a.T @ alpha) - b * y
        if max(products / count, np.abs(residual).max(), abs(y @ alpha)) < _TOLERANCE:
            break
        # The products must not vanish long before the residual: the matrix would become singular first.
        mean = products / (2 * count)
        target = max(0.1 * mean, min(0.5 * mean, 1e-3 * np.abs(residual).max()))
        diagonal = s / alpha + xi / room
        right = residual + target / alpha - s - target / room + xi
        scaled = a / diagonal[:, None]
        inner = np.eye(width) + a.T @ scaled
        vectors = np.stack([right, y], axis=1) / diagonal[:, None]
        vectors -= scaled @ np.linalg.solve(inner, a.T @ vectors)
        d_b = (y @ vectors[:, 0] + y @ alpha) / (y @ vectors[:, 1])
        d_alpha = vectors[:, 0] - d_b * vectors[:, 1]
        d_s = target / alpha - s - s / alpha * d_alpha
        d_xi = target / room - xi + xi / room * d_alpha
        step = min(
            1.0, *(0.99 * _room(v, d) for v, d in ((alpha, d_alpha), (room, -d_alpha), (s, d_s), (xi, d_xi)))
        )
        alpha, room, b = alpha + step * d_alpha, room - step * d_alpha, b + step * d_b
        s, xi = s + step * d_s, xi + step * d_xi
    else:
        warnings.warn(
            f"the plane is not exact after {_MOST_STEPS} steps: is the scale of z large?",
            RuntimeWarning,
            stacklevel=3,
        )
    w = a.T @ alpha
    if np.linalg.norm(w) * np.sqrt(np.square(a).sum(1).mean()) < 1e-6:
        # The best w is 0: the labels overlap. Its direction is then only rounding.
        means = points[y > 0].mean(0), points[y < 0].mean(0)
        w = means[0] - means[1]
        return w, -float(w @ (means[0] + means[1]) / 2)
    return w, float(b - w @ centre)


def _room(values: np.ndarray, change: np.ndarray) -> float:
    """The longest step along ``change`` that keeps ``values`` positive."""
    falling = change < 0
    return float((values[falling] / -change[falling]).min()) if falling.any() else np.inf


def edit_latent(z: Tensor, normal: Tensor, alpha: float) -> Tensor:
    """``z + alpha normal``: for a unit normal the signed distance from the plane changes by exactly alpha.

    Args:
        z: style codes (..., Z).
        normal: (Z,), see :func:`domain_hyperplane`.
        alpha: how far, positive towards the plane's positive side.

    Returns:
        Same shape as z.

    Raises:
        ValueError: ``normal`` not (Z,), ``alpha`` not finite.
        TypeError: z not floating point.
    """
    computing_dtype("z", z)
    check_real("alpha", alpha, low_open=True, high_open=True)
    if normal.ndim != 1 or z.ndim < 1 or z.shape[-1] != normal.shape[0]:
        raise ValueError(
            f"normal must have shape (Z,) for z (..., Z), got {tuple(normal.shape)} and z {tuple(z.shape)}."
        )
    return z + alpha * normal
