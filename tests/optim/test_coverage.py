"""An optimizer for matrices that has none says so, instead of being Adam in silence."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from normviz.optim import (
    SWAN,
    Conda,
    FiraAdamW,
    FiraRMSProp,
    GaLoreAdamW,
    GaLoreRMSProp,
    MultiNormGD,
    Muon,
    NorMuon,
    SinkGD,
    SWANFast,
    conda_param_groups,
    fira_param_groups,
    split_matrix_params,
)

PROJECTED = {
    Conda: conda_param_groups,
    FiraAdamW: fira_param_groups,
    FiraRMSProp: fira_param_groups,
    GaLoreAdamW: fira_param_groups,
    GaLoreRMSProp: fira_param_groups,
}
FLAGGED = (SWAN, SWANFast, SinkGD, NorMuon)


def plain_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def embedding_and_head() -> nn.ModuleDict:
    return nn.ModuleDict({"embed": nn.Linear(4, 4), "head": nn.Linear(4, 2)})


@pytest.mark.parametrize("cls", PROJECTED)
def test_default_targets_that_match_nothing_warn_with_the_remedy(cls: type) -> None:
    build = PROJECTED[cls]
    with pytest.warns(UserWarning, match=rf"{cls.__name__} has 3 .*{build.__name__}\(model, targets=None\)"):
        cls(build(plain_model()))
    with pytest.warns(UserWarning, match="plain"):
        cls(plain_model().parameters())


@pytest.mark.parametrize("cls", PROJECTED)
def test_the_remedy_projects_and_is_silent(cls: type) -> None:
    model = plain_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = cls(PROJECTED[cls](model, targets=None))
    model(torch.ones(3, 8)).square().mean().backward()
    optimizer.step()
    assert "basis" in optimizer.state[model[0].weight]
    assert "basis" not in optimizer.state[model[4].weight]


def test_groups_that_say_that_they_are_plain_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Conda([{"params": list(plain_model().parameters()), "update_proj_gap": None}])
        Conda(nn.Linear(4, 2).parameters())
        Conda([nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("cls", FLAGGED)
def test_an_empty_matrix_group_warns_with_the_remedy(cls: type) -> None:
    model = embedding_and_head()
    with pytest.warns(UserWarning, match=rf"{cls.__name__} has 2 .*exclude=\(\)"):
        cls(split_matrix_params(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(split_matrix_params(model, exclude=()))
        cls([{"params": list(model.parameters()), cls.flag: False}])
        cls([nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("cls", [Muon, MultiNormGD])
def test_an_optimizer_without_parameters_warns(cls: type) -> None:
    with pytest.warns(UserWarning, match=f"{cls.__name__} has no parameter"):
        cls(split_matrix_params(embedding_and_head())[:1])


def test_the_warning_points_at_the_line_that_builds_the_optimizer() -> None:
    with pytest.warns(UserWarning, match="SWANFast") as caught:
        SWANFast(split_matrix_params(embedding_and_head()))
    assert [warning.filename for warning in caught] == [__file__]
