"""Optimizers by name: on any model, at a learning rate that trains."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from normviz import optim
from normviz.catalog import PAPERS
from normviz.optim import OPTIMIZER_NAMES, create_optimizer, list_optimizers

MATRICES_ONLY = ("Muon", "MultiNormGD")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor]:
    X, y = load_digits(return_X_y=True)
    return torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)


def build(name: str, model: nn.Module) -> Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name in MATRICES_ONLY else "error")
        return create_optimizer(name, model)


@pytest.mark.parametrize("name", [name for name in OPTIMIZER_NAMES if name != "SWANFast"])
def test_what_one_gets_by_name_trains_digits_in_a_hundred_steps(name: str) -> None:
    X, y = digits()
    torch.manual_seed(0)
    model = network()
    optimizer = build(name, model)
    for _ in range(100):
        batch = torch.randint(len(X), (64,))
        loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (model(X).argmax(1) == y).float().mean()
    assert right > 0.8


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_a_plain_model_has_matrices_for_every_optimizer(name: str) -> None:
    model = network()
    optimizer = build(name, model)
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    if name.startswith(("Conda", "Fira", "GaLore")):
        assert "basis" in optimizer.state[model[0].weight]
    moved = {p for group in optimizer.param_groups for p in group["params"]}
    assert model[0].weight in moved
    assert (model[0].bias in moved) == (name not in MATRICES_ONLY)


def test_the_papers_names_come_first() -> None:
    model = nn.ModuleDict({"mlp": nn.Linear(8, 8), "other": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    projected, _ = create_optimizer("conda", model).param_groups
    assert projected["params"] == [model["mlp"].weight]
    projected, _ = create_optimizer("conda", model, targets=None).param_groups
    assert projected["params"] == [model["mlp"].weight, model["other"].weight]


def test_options_reach_groups_and_class() -> None:
    model = network()
    optimizer = create_optimizer("FiraAdamW", model, lr=0.5, rank=3, weight_decay=0.1, update_proj_gap=7)
    assert [optimizer.param_groups[0][key] for key in ("rank", "update_proj_gap", "lr")] == [3, 7, 0.5]
    assert optimizer.param_groups[1]["weight_decay"] == 0.1
    one, _ = create_optimizer("swan", model, exclude=("0", "2"), alpha=0.2).param_groups
    assert (one["params"], one["alpha"], one["lr"]) == ([model[4].weight], 0.2, 0.05)
    assert create_optimizer("DistributedNorMuon", model, momentum=0.8).param_groups[0]["momentum"] == 0.8


def test_muon_names_what_it_leaves() -> None:
    with pytest.warns(UserWarning, match=r"3 parameters .*0\.bias.*split_matrix_params") as caught:
        create_optimizer("Muon", network())
    assert [warning.filename for warning in caught] == [__file__]


def test_errors_name_the_argument_and_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'NorMuon'"):
        create_optimizer("NorMuom", network())
    with pytest.raises(ValueError, match="name must be"):
        create_optimizer(3, network())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model must be"):
        create_optimizer("SWAN", network().parameters())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"SWAN has no option 'aplha'.*Did you mean 'alpha'"):
        create_optimizer("SWAN", network(), aplha=0.1)
    with pytest.raises(ValueError, match="lr must be"):
        create_optimizer("SWAN", network(), lr=-1.0)


def test_the_list_has_every_optimizer_of_the_catalog_with_its_paper() -> None:
    methods = {method.name: method for method in list_optimizers()}
    assert tuple(methods) == OPTIMIZER_NAMES
    in_catalog = {
        path.rpartition(".")[2]: paper
        for paper in PAPERS.values()
        for path in paper.methods
        if path.startswith("normviz.optim.")
    }
    for name, paper in in_catalog.items():
        kind = getattr(optim, name)
        if isinstance(kind, type) and issubclass(kind, Optimizer):
            assert methods[name].paper is paper
    for method in methods.values():
        assert re.search(r"arXiv \d{4}\.\d{5}", method.reference), method.name
        assert "\n" not in str(method)
        assert method.name in str(method)
