"""Errors of optimizers name the parameter and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from normviz import optim

WHOLE_MODEL: dict[str, str] = {
    "NorMuon": r"split_matrix_params\(model\)",
    "SWAN": r"split_matrix_params\(model\)",
    "SinkGD": r"split_matrix_params\(model\)",
    "Muon": r"split_matrix_params\(model\)\[:1\]",
    "MultiNormGD": r"split_matrix_params\(model\)\[:1\]",
    "Conda": r"conda_param_groups\(model, targets=None\)",
    "FiraAdamW": r"fira_param_groups\(model, targets=None\)",
    "GaLoreRMSProp": r"fira_param_groups\(model, targets=None\)",
    "AdaGradNorm": r"model\.parameters\(\)",
}


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", WHOLE_MODEL)
def test_a_model_in_place_of_its_parameters_is_refused_with_the_remedy(name: str) -> None:
    build: Callable[..., Any] = getattr(optim, name)
    for given in (model(), nn.Linear(2, 2), [nn.Linear(2, 2)]):
        with pytest.raises(TypeError, match=rf"params must be .*{name}\({WHOLE_MODEL[name]}\)"):
            build(given)


@pytest.mark.parametrize("name", WHOLE_MODEL)
def test_the_remedy_builds_an_optimizer(name: str) -> None:
    code = WHOLE_MODEL[name].replace("\\", "")
    scope = {**vars(optim), "model": model()}
    assert getattr(optim, name)(eval(code, scope)).param_groups


def test_a_vector_names_the_split() -> None:
    for build in (optim.Muon, optim.MultiNormGD):
        with pytest.raises(ValueError, match=r"shape \(8,\).*split_matrix_params\(model\)"):
            build(model().parameters())
    with pytest.raises(ValueError, match=r"use_muon=True .*split_matrix_params\(model\)"):
        optim.NorMuon([{"params": list(model().parameters()), "use_muon": True}])
