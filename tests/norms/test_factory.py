"""Norms by name: every one is built from a number of channels, and keeps the shape of what it is meant for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from normviz import norms
from normviz.norms import NORM_NAMES, create_norm, list_norms, make_norm

NAMES = [method.name for method in list_norms()]
NEEDS = {"AdaptiveBalanceBatchNorm1d": {"num_tasks": 2}, "AdaptiveBalanceBatchNorm2d": {"num_tasks": 2}}
SINGLE = "ignore:.*single channel:UserWarning"


@pytest.mark.parametrize("channels", [6, 16, 48])
@pytest.mark.parametrize("name", NAMES)
def test_every_norm_is_built_from_channels_alone(name: str, channels: int) -> None:
    norm = create_norm(name, channels, **NEEDS.get(name, {}))
    assert type(norm) is getattr(norms, name)
    if name.startswith("AdaptiveBalance"):
        norm.eval()
    images = "2d" in name
    x = torch.randn(4, channels, 5, 5) if images else torch.randn(4, channels)
    assert norm(x).shape == x.shape


@pytest.mark.filterwarnings(SINGLE)
@pytest.mark.parametrize("name", NORM_NAMES)
def test_short_names_are_those_of_make_norm(name: str) -> None:
    assert repr(create_norm(name, 8)) == repr(make_norm(name, 8)) or name == "group"
    assert type(create_norm(name.upper(), 8)) is type(make_norm(name, 8))


def test_groups_fit_unless_they_are_given() -> None:
    assert [create_norm("EvoNorm2dS0", c).groups for c in (64, 32, 16, 7)] == [32, 16, 8, 1]
    assert create_norm("evonorm2ds1", 16, group_size=4).groups == 4
    assert create_norm("ContinualNorm2d", 12).num_groups == 6
    assert create_norm("GroupNorm", 4).groups == 2
    with pytest.raises(ValueError, match="groups must divide"):
        create_norm("EvoNorm2dS0", 16, groups=3)


def test_tokens_are_batch_first() -> None:
    with_argument = [
        name for name in NAMES if "batch_first" in inspect.signature(getattr(norms, name)).parameters
    ]
    assert with_argument
    assert all(create_norm(name, 8).batch_first for name in with_argument)
    assert not create_norm("PowerNorm", 8, batch_first=False).batch_first


def test_errors_name_the_argument_and_the_nearest() -> None:
    wrong: list[tuple[Callable[[], nn.Module], type[Exception], str]] = [
        (lambda: create_norm("PowerNrom", 8), ValueError, "Did you mean 'PowerNorm'"),
        (lambda: create_norm("PowerNorm", 0), ValueError, "num_features must"),
        (
            lambda: create_norm("PowerNorm", 8, warmup=3),
            TypeError,
            r"PowerNorm.* no option 'warmup'.*warmup_iters",
        ),
        (lambda: create_norm("AdaptiveBalanceBatchNorm2d", 8), TypeError, "num_tasks"),
    ]
    for call, kind, message in wrong:
        with pytest.raises(kind, match=message):
            call()


def test_the_list_names_a_paper_for_each() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for method in list_norms():
        assert re.search(r"arXiv \d{4}\.\d{5}", method.reference), method.name
        assert "\n" not in str(method)
    assert {method.paper.slug for method in list_norms() if method.paper} >= {"layer-norm", "power-norm"}
