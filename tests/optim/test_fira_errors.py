"""What GaLore and Fira refuse, and what they clip with a warning."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    LowRankProjector,
    NormGrowthLimiter,
    fira_param_groups,
)
from tests.optim.fira_reference import ADAMS, CLASSES, advance, gradients, mixed, run


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 2.0}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 2, "update_proj_gap": 0}, "update_proj_gap"),
        ({"rank": 2, "alpha": 0.0}, "alpha"),
        ({"rank": 2, "proj_type": "both"}, "proj_type"),
    ],
)
def test_bad_projections_raise_everywhere(options: dict[str, Any], name: str) -> None:
    p, q = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    for make in CLASSES:
        with pytest.raises(ValueError, match=name):
            make([{"params": [p], **options}])
    optimizer = FiraAdamW([q])
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [p], **options})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=name):
        LowRankProjector(**options)
    with pytest.raises(ValueError, match=name):
        fira_param_groups(nn.Linear(2, 2), **options)


@pytest.mark.parametrize(
    ("makes", "options", "name"),
    [
        (CLASSES, {"lr": -1.0}, "lr"),
        (CLASSES, {"eps": -1.0}, "eps"),
        (ADAMS, {"weight_decay": -1.0}, "weight_decay"),
        (ADAMS, {"betas": (0.9, 1.0)}, "betas"),
        (CLASSES[2:], {"beta": 1.0}, "beta"),
        (CLASSES[2:], {"momentum": -0.1}, "momentum"),
        ([FiraAdamW, FiraRMSProp], {"gamma": 0.99}, "gamma"),
        ([FiraAdamW, FiraRMSProp], {"gamma": float("nan")}, "gamma"),
        ([FiraAdamW, FiraRMSProp], {"residual": "paper"}, "residual"),
    ],
)
def test_bad_options_raise(makes: list[type[FiraAdamW]], options: dict[str, Any], name: str) -> None:
    for make in makes:
        for group in ({}, {"rank": 2}):
            with pytest.raises(ValueError, match=name):
                make([{"params": [nn.Parameter(torch.ones(3, 4))], **group}], **options)
            with pytest.raises(ValueError, match=name):
                make([{"params": [nn.Parameter(torch.ones(3, 4))], **group, **options}])


@pytest.mark.parametrize("make", CLASSES[2:])
def test_rmsprop_takes_no_weight_decay(make: type[FiraRMSProp]) -> None:
    p = nn.Parameter(torch.ones(3, 4))
    for group in ({}, {"rank": 2}):
        with pytest.raises(ValueError, match="weight_decay"):
            make([{"params": [p], "weight_decay": 0.1, **group}])
        make([{"params": [p], "weight_decay": 0.0, **group}])
    with pytest.raises(TypeError):
        make([p], weight_decay=0.1)


def test_limiter_and_projector_refuse_bad_arguments() -> None:
    for gamma in (0.5, float("nan"), "1.01", True):
        with pytest.raises(ValueError, match="gamma"):
            NormGrowthLimiter(gamma)
    projector = LowRankProjector(2)
    with pytest.raises(RuntimeError, match="no basis"):
        projector.project_back(torch.eye(2))
    with pytest.raises(ValueError, match="2 axes"):
        projector.project(torch.ones(2, 2, 2), 0)
    with pytest.raises(ValueError, match="step"):
        projector.project(torch.eye(2), -1)
    with pytest.raises(RuntimeError, match="nan or inf"):
        projector.project(torch.full((2, 2), float("nan")), 0)


@pytest.mark.parametrize("make", CLASSES)
def test_projected_vectors_sparse_and_complex_gradients_are_refused(make: type[FiraAdamW]) -> None:
    with pytest.raises(ValueError, match="at least 2 axes"):
        make([{"params": [nn.Parameter(torch.ones(3))], "rank": 1}])
    for group in ({}, {"rank": 2}):
        p = nn.Parameter(torch.ones(3, 2))
        p.grad = torch.eye(3, 2).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            make([{"params": [p], **group}]).step()
        assert torch.equal(p, torch.ones(3, 2))
        z = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
        z.grad = torch.ones_like(z)
        with pytest.raises(RuntimeError, match="complex"):
            make([{"params": [z], **group}]).step()


@pytest.mark.parametrize("make", CLASSES)
def test_non_finite_gradient_at_a_refresh_raises_before_anything_changes(make: type[FiraAdamW]) -> None:
    params = [nn.Parameter(g) for g in gradients((4, 3), 2)]
    optimizer = make([{"params": params, "rank": 2, "update_proj_gap": 1}])
    before = copy.deepcopy(params)
    params[0].grad, params[1].grad = torch.ones_like(params[0]), torch.full_like(params[1], float("inf"))
    with pytest.raises(RuntimeError, match=r"parameter 1 of shape \(4, 3\)"):
        optimizer.step()
    assert torch.equal(params[0], before[0])
    assert torch.equal(params[1], before[1])
    assert not any(optimizer.state[p] for p in params)


@pytest.mark.parametrize("make", CLASSES)
def test_missing_gradient_changes_neither_weight_nor_counter(make: type[FiraAdamW]) -> None:
    params, optimizer = mixed(make)
    advance(params, optimizer, range(1))
    before = params[0].detach().clone()
    params[0].grad = None
    optimizer.step()
    assert torch.equal(params[0], before)
    assert (optimizer.state[params[0]]["step"], optimizer.state[params[1]]["step"]) == (1, 2)


@pytest.mark.parametrize("make", CLASSES)
def test_too_large_rank_is_clipped_with_one_warning_per_parameter(make: type[FiraAdamW]) -> None:
    W, *grads = gradients((5, 3), 5)
    params = [nn.Parameter(W.clone()), nn.Parameter(torch.zeros(9, 9)), nn.Parameter(W.T.clone())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = make([{"params": params, "rank": 7, "update_proj_gap": 2}])
        for g in grads:
            params[0].grad = g
            optimizer.step()
    assert [w.category for w in caught] == [UserWarning, UserWarning]
    assert all("rank 7" in str(w.message) for w in caught)
    assert ["parameter 0" in str(caught[0].message), "parameter 2" in str(caught[1].message)] == [True, True]
    expected = run(make, W, grads, {"rank": 3, "update_proj_gap": 2})[-1]
    torch.testing.assert_close(params[0].detach(), expected, atol=1e-12, rtol=0)


def test_projector_clips_with_one_warning() -> None:
    projector = LowRankProjector(7, update_proj_gap=1)
    G = gradients((5, 3), 1)[0]
    with pytest.warns(UserWarning, match="rank 7"):
        R = projector.project(G, 0)
    assert R.shape == (5, 3)
    assert projector.project(G, 1).shape == (5, 3)  # a second warning would be an error
