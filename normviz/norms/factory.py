"""Norms by name: ``make_norm("power", 64, groups=4)``.

A norm here is ``nn.Module`` on the last axis of (B, T, C) or (N, C); a network takes a factory ``num_features ->
norm``, which ``functools.partial(make_norm, name, **options)`` is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from normviz.norms.baselines import BatchNorm, GroupNorm, RMSNorm
from normviz.norms.layer_norm import LayerNorm
from normviz.norms.power_norm import PowerNorm, PowerNormV
from normviz.norms.unified_norm import UnifiedNorm1d
from normviz.validation import check_choice, check_integer, nearest

__all__ = ["NORM_NAMES", "make_norm"]


def _none(_: int) -> nn.Module:
    return nn.Identity()


def _layer(
    num_features: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = True, backend: str = "torch"
) -> nn.Module:
    return LayerNorm(num_features, eps, affine, bias, backend=backend)


_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "none": _none,
    "batch": BatchNorm,
    "layer": _layer,
    "rms": RMSNorm,
    "group": GroupNorm,
    "power_v": PowerNormV,
    "power": PowerNorm,
    "unified": UnifiedNorm1d,
}

NORM_NAMES: tuple[str, ...] = tuple(_FACTORIES)
"""Names that :func:`make_norm` knows."""


def make_norm(name: str, num_features: int, **options: object) -> nn.Module:
    """Build the norm called ``name`` for ``num_features`` channels.

    Args:
        name: "none" (``nn.Identity``), "batch" (:class:`BatchNorm`), "layer" (:class:`LayerNorm`, with options ``eps``,
            ``affine``, ``bias`` and ``backend``), "rms" (:class:`RMSNorm`), "group"
            (:class:`GroupNorm`), "power_v" (:class:`PowerNormV`), "power" (:class:`PowerNorm`) or "unified"
            (:class:`UnifiedNorm1d`).
        num_features: channels C.
        options: keyword arguments of that norm. ``batch_first`` is True by default in all norms that have it: masked
            sequences are (B, T, C).

    Returns:
        The norm, in training mode.

    Raises:
        ValueError: unknown name (the message has the known and the nearest), or an option's value is out of range.
        TypeError: an option that this norm does not have.

    Example:
        >>> make_norm("group", 8, groups=2)
        GroupNorm(8, groups=2, eps=1e-05, affine=True)
    """
    factory = _FACTORIES[check_choice("name", name, _FACTORIES)]
    check_integer("num_features", num_features, 1)
    known = list(inspect.signature(factory).parameters)[1:]
    for option in options:
        if option not in known:
            hits = nearest(option, known)
            hint = f" Did you mean {hits[0]!r}?" if hits else ""
            raise TypeError(
                f"norm {name!r} has no option {option!r}; its options are {', '.join(known) or 'none'}.{hint}"
            )
    if "batch_first" in known:
        options = {"batch_first": True, **options}
    return factory(num_features, **options)
