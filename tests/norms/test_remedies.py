"""Errors of norms name the argument and what to do instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from normviz.norms import (
    BatchNorm,
    ChannelsLast,
    EvoNorm2dS0,
    EvoNorm2dS1,
    GroupNorm,
    PowerNorm,
    PowerNormV,
    RMSNorm,
    UnifiedNorm1d,
)

ON_TOKENS: tuple[Callable[..., nn.Module], ...] = (
    PowerNorm,
    PowerNormV,
    UnifiedNorm1d,
    BatchNorm,
    RMSNorm,
    GroupNorm,
)


@pytest.mark.parametrize("make", ON_TOKENS)
def test_images_name_channels_last_which_takes_them(make: Callable[..., nn.Module]) -> None:
    images = torch.randn(2, 4, 6, 6)
    options = {"groups": 2} if make is GroupNorm else {}
    with pytest.raises(ValueError, match=rf"x must .*ChannelsLast\({make.__name__}\(4\)\)"):
        make(4, **options)(images)
    assert ChannelsLast(make(4, **options))(images).shape == images.shape


def test_other_shapes_get_no_hint() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 5, 6, 6\)\.$"):
        PowerNorm(4)(torch.randn(2, 5, 6, 6))


@pytest.mark.parametrize(("channels", "works"), [(16, 8), (48, 24), (20, 10), (7, 1)])
def test_default_groups_that_do_not_fit_name_groups_that_do(channels: int, works: int) -> None:
    with pytest.raises(ValueError, match=rf"groups .* got 32 by default.*; groups={works} does"):
        EvoNorm2dS0(channels)
    assert EvoNorm2dS1(channels, groups=works).groups == works
