"""Patches that look like wildfire data cubes, whose label depends on the product of a static and a dynamic map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.validation import check_choice, check_integer, check_real

__all__ = ["make_synthetic_firecube", "min_max_scale"]

Values = TypeVar("Values", Tensor, np.ndarray, float)

_KEYFRAMES = 4
"""Random fields along time of each dynamic variable."""

_NOISE = 0.1
"""Standard deviation of the dynamic variables' noise in each cell."""

_DRY_DAYS = 3
"""Latest days whose mean is the dryness."""

_HOTTEST_DAY = 213
"""31 July in a leap year, where the seasonal term is largest."""


def min_max_scale(a: Values, lo: Values, hi: Values) -> Values:
    """``(a - lo) / (hi - lo)``, broadcasting and not clipped.

    LOAN (arXiv 2212.08208, official code) scales dynamic and static variables so, with the minima ``lo`` and maxima
    ``hi`` of the training set; values of other years may leave [0, 1]. A variable with hi = lo gives NaN or infinities
    in tensors and arrays; the official code sets NaN to 0 afterwards.

    Args:
        a: values: tensor, array or number.
        lo: what becomes 0, of a shape that broadcasts with ``a``.
        hi: what becomes 1, likewise.

    Returns:
        The scaled values.

    Example:
        >>> min_max_scale(15.0, 10.0, 20.0)
        0.5
    """
    scaled: Values = (a - lo) / (hi - lo)
    return scaled


def make_synthetic_firecube(
    n: int,
    seed: int = 0,
    size: int = 25,
    days: int = 10,
    season: float = 1.0,
    response: str = "local",
    *,
    channels: Sequence[int] = (10, 5, 10),
    knots: int = 4,
    contrast: float = 2.0,
) -> dict[str, Tensor]:
    """Patches shaped as the inputs of :class:`~normviz.norms.LOANFireNet`, with a label of which the law is known.

    No data of the paper (arXiv 2212.08208): a world of ours, in which static and dynamic maps must meet pixel by pixel.
    A *field* is ``knots`` x ``knots`` normal values resized bicubically to size x size, corners to corners.

    - static: fields. landcover: softmax over the classes of 6 x field. m(x, y) = sum of the fractions of the first half
      of the classes minus that of the other half.
    - dynamic: ``contrast`` x (4 fields per variable, linearly interpolated over the days) + 0.1 x normal noise per
      cell. **Time index 0 is the latest day**, as in the official loader.
    - dryness = mean of ``dynamic[:, 0, :3]`` over the 3 latest days + 0.5.
    - response "local": c = mean over pixels of m x dryness. "global": c = (mean of m) x (mean of dryness).
    - logit = 4 (c - median c) / std c + season x 1.5 cos(2 pi (day - 213) / 366), prob = sigmoid(logit), label ~
      Bernoulli(prob). day is uniform on 1..366.

    Median (the lower of the middle two, as torch's) and std (unbiased) are those of the n patches of this call, so make
    ONE call and split it into training and test. Pooling the branches before they meet loses the local product as far
    as the fields vary within a patch: with knots=2, contrast=1 the product of the patch means still explains about 87 %
    of the variance of c, with 4 and 2 about 36 %.

    Args:
        n: patches, at least 2.
        seed: of the generator, which is its own. Default 0.
        size: height and width. Default 25 (FireCube's patches).
        days: length of time, at least 3. Default 10 (the paper's lag).
        season: strength of the seasonal term. Default 1.
        response: "local" (default) or "global", the control in which meeting early should not matter.
        channels: dynamic variables, static variables, land-cover classes (an even number). Default (10, 5, 10), the
            paper's.
        knots: of the fields. Default 4.
        contrast: scale of the dynamic variables, >= 0. Default 2.

    Returns:
        float32 ``dynamic`` (n, Vd, days, size, size), ``static`` (n, Vs, size, size), ``landcover`` (n, Vc, size,
        size), ``prob`` (n,); int64 ``day`` (n,), ``label`` (n,).

    Raises:
        ValueError: an argument out of range, an unknown response, an odd number of land-cover classes.

    Example:
        >>> cube = make_synthetic_firecube(8, size=15, days=8, channels=(4, 2, 6))
        >>> cube["dynamic"].shape, cube["landcover"].shape
        (torch.Size([8, 4, 8, 15, 15]), torch.Size([8, 6, 15, 15]))
    """
    check_integer("n", n, 2)
    check_integer("seed", seed, 0)
    check_integer("size", size, 1)
    check_integer("days", days, _DRY_DAYS)
    check_real("season", season, low_open=True, high_open=True)
    check_choice("response", response, ("local", "global"))
    if isinstance(channels, str) or len(channels) != 3:
        raise ValueError(f"channels must be three integers: dynamic, static, land cover, got {channels!r}.")
    n_dynamic, n_static, n_classes = (check_integer("channels", c, 1) for c in channels)
    if n_classes % 2:
        raise ValueError(f"channels must have an even number of land-cover classes, got {n_classes}.")
    check_integer("knots", knots, 1)
    check_real("contrast", contrast, 0, high_open=True)

    generator = torch.Generator().manual_seed(int(seed))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")

    def fields(count: int) -> Tensor:
        return F.interpolate(normal(n, count, knots, knots), (size, size), mode="bicubic", align_corners=True)

    static = fields(n_static)
    landcover = (6 * fields(n_classes)).softmax(1)
    keys = fields(n_dynamic * _KEYFRAMES).view(n, n_dynamic, _KEYFRAMES, size, size)
    smooth = torch.einsum("dk,nvkhw->nvdhw", _keyframe_weights(days), keys)
    dynamic = contrast * smooth + _NOISE * normal(n, n_dynamic, days, size, size)

    half = n_classes // 2
    m = landcover[:, :half].sum(1) - landcover[:, half:].sum(1)  # (n, H, W)
    dryness = dynamic[:, 0, :_DRY_DAYS].mean(1) + 0.5  # (n, H, W)
    c = (m * dryness).mean((1, 2)) if response == "local" else m.mean((1, 2)) * dryness.mean((1, 2))
    day = torch.randint(1, 367, (n,), generator=generator, device="cpu")
    angle = 2 * math.pi * (day.to(torch.float32) - _HOTTEST_DAY) / 366
    logit = 4 * (c - c.median()) / c.std() + season * 1.5 * angle.cos()
    prob = logit.sigmoid()
    label = torch.bernoulli(prob, generator=generator).to(torch.long)
    return {
        "dynamic": dynamic,
        "static": static,
        "landcover": landcover,
        "day": day,
        "label": label,
        "prob": prob,
    }


def _keyframe_weights(days: int) -> Tensor:
    """(days, keyframes): linear interpolation with the first and last keyframe at the first and last day."""
    position = torch.linspace(0, _KEYFRAMES - 1, days, dtype=torch.float32, device="cpu")
    distance = (position[:, None] - torch.arange(_KEYFRAMES, device="cpu")).abs()
    return (1 - distance).clamp(min=0)
