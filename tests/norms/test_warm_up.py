"""A norm that is evaluated within a warm-up which a short run never leaves says so once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from normviz.norms import PowerNorm, UnifiedNorm1d, UnifiedNorm2d

LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "PowerNorm": (PowerNorm, (5, 4)),
    "UnifiedNorm1d": (UnifiedNorm1d, (5, 4)),
    "UnifiedNorm2d": (UnifiedNorm2d.for_vision, (2, 4, 3, 3)),
}


def trained(layer: nn.Module, shape: tuple[int, ...], steps: int) -> nn.Module:
    for _ in range(steps):
        layer(torch.randn(shape)).sum().backward()
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_the_first_eval_of_a_trained_layer_warns_once(name: str) -> None:
    make, shape = LAYERS[name]
    layer = trained(make(4), shape, 100)
    with pytest.warns(UserWarning, match=rf"{name} is evaluated after 100 .* warm-up of \d+.*warmup_iters"):
        nn.Sequential(layer).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.train().eval()
        copy.deepcopy(layer).train().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_silent_before_training_with_a_warm_up_of_ones_own_and_after_it(name: str) -> None:
    make, shape = LAYERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(4).eval()
        trained(make(4), shape, 3).eval()
        trained(make(4, warmup_iters=50), shape, 40).eval()
        with torch.device("meta"):
            make(4).eval()
        done = make(4)
        done.iters.fill_(done.warmup_iters)
        done.eval()
