"""What cannot be watched is said: an optimizer of another model, and a compiled forward pass."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from normviz.probes import warn_of_blind_spots


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_an_optimizer_of_another_model_warns_where_it_was_asked() -> None:
    model = nn.Linear(4, 2)
    with pytest.warns(UserWarning, match="no parameter of the model Linear") as caught:
        warn_of_blind_spots(model, sgd(copy.deepcopy(model)))
    assert [warning.filename for warning in caught] == [__file__]


def test_an_optimizer_of_a_part_of_the_model_is_silent() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_blind_spots(model, sgd(model[1]))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_warns(in_place: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with pytest.warns(UserWarning, match="torch.compile"):
        warn_of_blind_spots(model, sgd(model))
