"""Norms by name: ``make_norm("power", 64, groups=4)`` for tokens, ``create_norm("EvoNorm2dS0", 64)`` for all.

A norm of :func:`make_norm` is ``nn.Module`` on the last axis of (B, T, C) or (N, C); a network takes a factory
``num_features -> norm``, which ``functools.partial(make_norm, name, **options)`` is. :func:`create_norm` also builds
those for images, by the names of their classes, with as many groups as the channels allow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from normviz.catalog import Method
from normviz.norms.adab2n import AdaptiveBalanceBatchNorm1d, AdaptiveBalanceBatchNorm2d
from normviz.norms.baselines import BatchNorm, GroupNorm, RMSNorm
from normviz.norms.continual_norm import ContinualNorm2d
from normviz.norms.evonorm import (
    EvoNorm2dB0,
    EvoNorm2dB1,
    EvoNorm2dB2,
    EvoNorm2dS0,
    EvoNorm2dS1,
    EvoNorm2dS2,
    fitting_groups,
)
from normviz.norms.feature_norm import FeatureNorm
from normviz.norms.layer_norm import LayerNorm
from normviz.norms.power_norm import PowerNorm, PowerNormV
from normviz.norms.unified_norm import UnifiedNorm1d, UnifiedNorm2d
from normviz.validation import check_choice, check_integer, nearest

__all__ = ["NORM_NAMES", "create_norm", "list_norms", "make_norm"]


def _none(_: int) -> nn.Module:
    return nn.Identity()


def _layer(
    num_features: int,
    *,
    eps: float = 1e-5,
    affine: bool = True,
    bias: bool = True,
    backend: str = "torch",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    return LayerNorm(num_features, eps, affine, bias, backend=backend, device=device, dtype=dtype)


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
            ``affine``, ``bias``, ``backend``, ``device`` and ``dtype``), "rms" (:class:`RMSNorm`), "group"
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
    return _built(name, _FACTORIES[check_choice("name", name, _FACTORIES)], num_features, options)


def _built(
    name: str, factory: Callable[..., nn.Module], num_features: int, options: dict[str, object]
) -> nn.Module:
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


EVONORM = "Evolving Normalization-Activation Layers, arXiv 2004.02967"
UNIFIED = "Unified Normalization for Accelerating and Stabilizing Transformers, arXiv 2208.01313"
ADAB2N = "Overcoming Recency Bias of Normalization Statistics in Continual Learning, arXiv 2310.08855"
NAP = "Normalization and effective learning rates in reinforcement learning, arXiv 2407.01800"

_CLASSES: dict[str, tuple[Callable[..., nn.Module], str, str]] = {
    "LayerNorm": (_layer, "mean and variance over a token's channels", ""),
    "BatchNorm": (
        BatchNorm,
        "mean and variance over the batch, per channel, of tokens with padding",
        "Batch Normalization, arXiv 1502.03167",
    ),
    "RMSNorm": (
        RMSNorm,
        "root mean square over a token's channels",
        "Root Mean Square Layer Normalization, arXiv 1910.07467",
    ),
    "GroupNorm": (
        GroupNorm,
        "mean and variance over groups of a token's channels",
        "Group Normalization, arXiv 1803.08494",
    ),
    "PowerNorm": (PowerNorm, "running quadratic mean of tokens, with an approximate backward", ""),
    "PowerNormV": (PowerNormV, "quadratic mean of the batch's tokens", ""),
    "UnifiedNorm1d": (UnifiedNorm1d, "geometric mean of the last batches' quadratic means, for tokens", ""),
    "UnifiedNorm2d": (
        UnifiedNorm2d,
        "geometric mean of the last batches' quadratic means, for images",
        UNIFIED,
    ),
    "FeatureNorm": (FeatureNorm, "layer or RMS norm before a nonlinearity; images with spatial=True", NAP),
    "AdaptiveBalanceBatchNorm1d": (
        AdaptiveBalanceBatchNorm1d,
        "batch norm that balances the tasks of a stream in its statistics, for vectors; needs num_tasks",
        ADAB2N,
    ),
    "AdaptiveBalanceBatchNorm2d": (
        AdaptiveBalanceBatchNorm2d,
        "batch norm that balances the tasks of a stream in its statistics, for images; needs num_tasks",
        ADAB2N,
    ),
    "ContinualNorm2d": (
        ContinualNorm2d,
        "group norm, then batch norm, for images of a stream of tasks",
        "Continual Normalization, arXiv 2203.16102",
    ),
    "EvoNorm2dB0": (
        EvoNorm2dB0,
        "batch or instance deviation, whichever is larger; replaces the ReLU",
        EVONORM,
    ),
    "EvoNorm2dB1": (
        EvoNorm2dB1,
        "batch deviation or x + 1 root mean squares, whichever is larger; replaces the ReLU",
        EVONORM,
    ),
    "EvoNorm2dB2": (
        EvoNorm2dB2,
        "batch deviation or root mean square minus x, whichever is larger; replaces the ReLU",
        EVONORM,
    ),
    "EvoNorm2dS0": (EvoNorm2dS0, "learned Swish over a group's deviation; replaces the ReLU", EVONORM),
    "EvoNorm2dS1": (EvoNorm2dS1, "SiLU over a group's deviation; replaces the ReLU", EVONORM),
    "EvoNorm2dS2": (EvoNorm2dS2, "SiLU over a group's root mean square; replaces the ReLU", EVONORM),
}

_GROUPED: dict[str, tuple[str, int]] = {
    "GroupNorm": ("groups", 4),
    "ContinualNorm2d": ("num_groups", 32),
    "EvoNorm2dS0": ("groups", 32),
    "EvoNorm2dS1": ("groups", 32),
    "EvoNorm2dS2": ("groups", 32),
}
"""What a norm's number of groups is called, and its default, which does not divide every number of channels."""


def list_norms() -> list[Method]:
    """Every norm that :func:`create_norm` builds from a number of channels, with one line and its paper.

    Example:
        >>> print(list_norms()[4])
        PowerNorm: running quadratic mean of tokens, with an approximate backward (PowerNorm: Rethinking Batch \
Normalization in Transformers, arXiv 2003.07845)
    """
    return [
        Method.of(f"normviz.norms.{name}", summary, reference)
        for name, (_, summary, reference) in _CLASSES.items()
    ]


def create_norm(name: str, num_features: int, **options: object) -> nn.Module:
    """Build the norm called ``name`` for ``num_features`` channels.

    Norms for tokens act on the last axis, with ``batch_first`` True by default; those for images (2d, EvoNorm) on
    (N, C, H, W). :class:`ChannelsLast` lets one for tokens act on images.

    Args:
        name: the class's name, as :func:`list_norms` has it, or a short name of :func:`make_norm`, in any case.
        num_features: channels C.
        options: keyword arguments of the class. A number of groups that is not given is the class's default if that
            divides C and leaves a group two channels or more, else the largest smaller number that does.

    Returns:
        The norm, in training mode.

    Raises:
        ValueError: unknown name (the message has the nearest), or an option's value is out of range.
        TypeError: an option that this norm does not have, or one that it needs is missing.

    Example:
        >>> create_norm("EvoNorm2dS0", 16)
        EvoNorm2dS0(16, eps=1e-05, apply_act=True, groups=8, keep_norm=False)
    """
    spelling = {known.lower(): known for known in (*_FACTORIES, *_CLASSES)}
    chosen = spelling.get(name.lower(), name) if isinstance(name, str) else name
    check_choice("name", chosen, (*_FACTORIES, *_CLASSES))
    check_integer("num_features", num_features, 1)
    if chosen in _FACTORIES:
        factory = _FACTORIES[chosen]
        chosen = next((known for known, entry in _CLASSES.items() if entry[0] is factory), chosen)
    else:
        factory = _CLASSES[chosen][0]
    argument, default = _GROUPED.get(chosen, ("", 1))
    if argument and not {argument, "group_size"} & set(options):
        options = {argument: fitting_groups(num_features, default), **options}
    return _built(chosen, factory, num_features, options)
