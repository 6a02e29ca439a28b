"""The projector: norms that stay at their radii, tensors that share one, state, refusals."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normviz.module_roles import projected_weights
from normviz.norms.nap import FeatureNorm, NormProjector, effective_learning_rate, parameter_norms
from tests.norms.nap_networks import loss_of, mlp, randn


def optimizers(params: Any) -> list[torch.optim.Optimizer]:
    params = list(params)
    return [torch.optim.SGD(params, lr=0.3, momentum=0.9), torch.optim.Adam(params, lr=0.05)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("project_output", [False, True])
def test_check_1_norms_stay_at_their_radii(which: int, project_output: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(9, 12),
        nn.Linear(12, 8, bias=False),
        nn.LayerNorm(8),
        nn.ReLU(),
        nn.Linear(8, 6, bias=False),
        nn.LayerNorm(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    optimizer = optimizers(model.parameters())[which]
    projector = NormProjector(model, project_output=project_output)
    keys = ["0.weight", "1.weight", "2", "4.weight"] + (["5", "7.weight"] if project_output else [])
    assert sorted(projector.radii) == keys
    start = {n: p.detach().double().norm().item() for n, p in model.named_parameters()}
    tokens = torch.randint(9, (20,), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        optimizer.zero_grad()
        (model(tokens) - 1).square().mean().backward()
        optimizer.step()
        moved = {n: p.detach().double().norm().item() for n, p in model.named_parameters()}
        projector.project_()
        for name, p in model.named_parameters():
            norm = p.detach().double().norm().item()
            if name in projector.radii:
                assert norm == pytest.approx(start[name], rel=1e-6)
                assert abs(moved[name] / start[name] - 1) > 1e-5
        pair = math.hypot(*(p.detach().norm().item() for p in model[2].parameters()))
        assert pair == pytest.approx(math.sqrt(8), rel=1e-6)
        once = copy.deepcopy(model.state_dict())
        projector.project_()
        for name, p in model.state_dict().items():
            torch.testing.assert_close(p, once[name], rtol=1e-6, atol=0)
    if not project_output:
        assert moved["7.weight"] != pytest.approx(start["7.weight"], rel=1e-3)
        assert float(model[5].bias.detach().norm()) > 0


def test_projection_is_one_scalar_per_tensor_and_keeps_directions() -> None:
    model = mlp()
    projector = NormProjector(model)
    weight = model.layers[0].weight
    radius = float(weight.detach().norm())
    with torch.no_grad():
        weight.add_(randn(*weight.shape, seed=5))
    moved = weight.detach().clone()
    projector.project_()
    torch.testing.assert_close(weight.detach(), moved * radius / moved.norm())
    rows = weight.detach().norm(dim=1)
    assert float(rows.max() / rows.min()) > 1.2  # rows keep different norms: this is not weight norm


def test_check_7_joint_projection_of_scale_and_offset() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8, bias=False),
        FeatureNorm(8, eps=0.0),
        nn.ReLU(),
        nn.Linear(8, 6, bias=False),
        FeatureNorm(6, eps=0.0, affine=False),
    ).double()
    first, x = model[1], randn(10, 5)
    with torch.no_grad():
        first.bias.copy_(randn(8, seed=2))
        first.weight.copy_(randn(8, seed=3))
        radius = math.hypot(float(first.weight.norm()), float(first.bias.norm()))
        projector = NormProjector(model)
        out = model(x)
        first.weight.mul_(3.0), first.bias.mul_(3.0)
        torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)
        projector.project_()
        torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)
        assert projector.radii["1"] == pytest.approx(radius, rel=1e-12)
        assert projector.norms()["1"] == pytest.approx(radius, rel=1e-12)
        first.weight.mul_(3.0)  # sigma alone is another function
        assert float((model(x) - out).abs().max()) > 1e-2


def test_pairs_that_no_norm_follows_are_free() -> None:
    model = mlp(hidden=(7, 6, 4))
    assert sorted(NormProjector(model).radii) == [
        "layers.0.weight",
        "layers.1",
        "layers.3.weight",
        "layers.4",
        "layers.6.weight",
    ]
    assert {"layers.7", "layers.9.weight"} < set(NormProjector(model, project_output=True).radii)
    ends_in_norm = nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4)
    )
    assert sorted(NormProjector(ends_in_norm).radii) == ["0.weight", "1", "3.weight"]
    assert sorted(NormProjector(ends_in_norm, project_output=True).radii) == [
        "0.weight",
        "1",
        "3.weight",
        "4",
    ]
    plain_last = nn.Sequential(
        nn.Linear(3, 4),
        nn.LayerNorm(4),
        nn.ReLU(),
        nn.Linear(4, 4),
        FeatureNorm(4, affine=False),
        nn.Linear(4, 2),
    )
    assert "1" in NormProjector(plain_last).radii


def test_fresh_radii_are_sqrt_d() -> None:
    radii = NormProjector(mlp(hidden=(9, 16)), project_output=True).radii
    assert radii["layers.1"] == pytest.approx(3.0)
    assert radii["layers.4"] == pytest.approx(4.0)
    assert all(type(radius) is float for radius in radii.values())


def test_a_norm_with_scale_only_is_projected_by_itself() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.RMSNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 2)
    )
    projector = NormProjector(model)
    model[1].weight.data.mul_(5)
    projector.project_()
    torch.testing.assert_close(model[1].weight.data, torch.ones(4))


def test_every_counts_calls() -> None:
    model = mlp(affine=False)
    projector = NormProjector(model, every=3)
    radius = projector.radii["layers.0.weight"]
    for call in range(1, 8):
        model.layers[0].weight.data.mul_(2.0)
        projector.project_()
        norm = projector.norms()["layers.0.weight"]
        assert norm == pytest.approx(radius * 2.0 ** (call % 3), rel=1e-12)
    assert projector.calls == 7


@pytest.mark.parametrize("by_hand", [True, False])
def test_check_10_regularize_pulls_to_one_and_zero(by_hand: bool) -> None:
    model = mlp(activation="tanh")
    lr, strength = 0.5, 0.3
    projector = NormProjector(model, scale_offset="regularize", reg_strength=strength, every=50)
    norm = model.layers[1]
    optimizer = torch.optim.SGD(
        [{"params": [norm.weight], "lr": lr}, {"params": [norm.bias], "lr": 2 * lr}], lr=99.0
    )
    handle = None if by_hand else projector.attach(optimizer)
    with torch.no_grad():
        norm.weight.copy_(randn(7, seed=1)), norm.bias.copy_(randn(7, seed=2))
    sigma, mu = norm.weight.detach().numpy().copy(), norm.bias.detach().numpy().copy()
    for _ in range(3):
        if by_hand:
            projector.project_(lr=lr)
        else:
            optimizer.step()
        sigma = sigma - lr * strength * (sigma - 1)
        mu = mu - (lr if by_hand else 2 * lr) * strength * mu
    np.testing.assert_allclose(norm.weight.detach().numpy(), sigma, rtol=1e-12)
    np.testing.assert_allclose(norm.bias.detach().numpy(), mu, rtol=1e-12)
    for _ in range(300):
        projector.project_(lr=torch.tensor(lr))
    for m in (model.layers[1], model.layers[4]):
        torch.testing.assert_close(m.weight.detach(), torch.ones_like(m.weight))
        torch.testing.assert_close(m.bias.detach(), torch.zeros_like(m.bias))
    fixed = copy.deepcopy(norm.state_dict())
    projector.project_(lr=lr)
    torch.testing.assert_close(norm.state_dict(), fixed)
    assert handle is None or handle.remove() is None


def test_regularize_needs_the_learning_rate() -> None:
    projector = NormProjector(mlp(), scale_offset="regularize")
    with pytest.raises(ValueError, match="lr must be given"):
        projector.project_()
    with pytest.raises(ValueError, match="lr must be"):
        projector.project_(lr=-0.1)
    assert projector.calls == 0


def test_attach_projects_after_every_step_and_can_be_removed() -> None:
    model = mlp(affine=False)
    projector = NormProjector(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    handle = projector.attach(optimizer)
    for removed in (False, True):
        if removed:
            handle.remove()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        drift = max(abs(projector.norms()[name] / r - 1) for name, r in projector.radii.items())
        assert drift > 1e-4 if removed else drift < 1e-12
    assert projector.calls == 1


def test_check_11_optimizer_state_is_untouched() -> None:
    model = mlp()
    projector = NormProjector(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loss_of(model).backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    moved = model.layers[0].weight.detach().clone()
    projector.project_()
    assert not torch.equal(model.layers[0].weight, moved)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_check_11_state_dict_round_trip_resumes_bit_for_bit() -> None:
    def run(model: nn.Module, projector: NormProjector, seeds: range) -> None:
        for seed in seeds:
            model.zero_grad()
            loss_of(model, seed).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.3 * p.grad)
            projector.project_()

    model = mlp()
    projector = NormProjector(model, every=2)
    run(model, projector, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "projector": projector.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = mlp(seed=9)
    resumed.load_state_dict(saved["model"])
    again = NormProjector(resumed, every=2)  # radii of trained weights …
    assert again.radii != projector.radii
    again.load_state_dict(saved["projector"])  # … replaced by the saved ones
    assert (again.radii, again.calls) == (projector.radii, projector.calls)
    run(model, projector, range(5, 9))
    run(resumed, again, range(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("wrong", ["missing", "renamed", "empty", "no calls"])
def test_loading_other_radii_raises_and_changes_nothing(wrong: str) -> None:
    projector = NormProjector(mlp())
    radii = dict(projector.radii)
    state = projector.state_dict()
    if wrong == "missing":
        del state["radii"]["layers.1"]
    elif wrong == "renamed":
        state["radii"]["other"] = state["radii"].pop("layers.1")
    elif wrong == "empty":
        state = {}
    else:
        del state["calls"]
    with pytest.raises(RuntimeError, match="radii"):
        projector.load_state_dict(state)
    assert projector.radii == radii


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
def test_check_12_inhomogeneous_activation_with_project(activation: str) -> None:
    with pytest.raises(ValueError, match=r"homogeneous.*layers\.2"):
        NormProjector(mlp(activation=activation))
    for fine in ({"affine": False}, {"norm": None}):
        NormProjector(mlp(activation=activation, **fine))
    for mode in ("regularize", "free"):
        assert "layers.1" not in NormProjector(mlp(activation=activation), scale_offset=mode).radii
    for homogeneous in ("relu", "leaky_relu", "identity"):
        assert "layers.1" in NormProjector(mlp(activation=homogeneous)).radii


def test_mode_none_needs_norms_without_affine() -> None:
    with pytest.raises(ValueError, match=r"scale_offset='none'.*layers\.1"):
        NormProjector(mlp(), scale_offset="none")
    assert sorted(NormProjector(mlp(affine=False), scale_offset="none").radii) == [
        "layers.0.weight",
        "layers.3.weight",
    ]
    NormProjector(mlp(), scale_offset="none", exclude=("layers.1", "layers.4"))


def test_exclude() -> None:
    model = mlp(hidden=(7, 6, 5))
    everything = set(NormProjector(model, project_output=True).radii)
    assert everything - set(NormProjector(model, project_output=True, exclude=["layers.0"]).radii) == {
        "layers.0.weight"
    }
    without_pair = NormProjector(model, project_output=True, exclude=["layers.4.weight", "layers.3.weight"])
    assert everything - set(without_pair.radii) == {"layers.4", "layers.3.weight"}
    assert NormProjector(model, exclude=["layers"]).radii == {}
    for wrong in (["layers.0.wieght"], "layers.0.wieght"):
        with pytest.raises(ValueError, match=r"exclude has 'layers.0.wieght'.*layers\.0\.weight"):
            NormProjector(model, exclude=wrong)


def test_tied_tensors_are_projected_once() -> None:
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(
        shared, nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    model[3].weight = shared.weight
    projector = NormProjector(model, scale_offset="free")
    assert list(projector.radii) == ["0.weight"]
    shared.weight.data.mul_(4)
    projector.project_()
    assert float(shared.weight.detach().norm()) == pytest.approx(projector.radii["0.weight"], rel=1e-6)


def test_zero_weights() -> None:
    model = mlp(affine=False)
    model.layers[0].weight.data.zero_()
    with pytest.warns(UserWarning, match=r"layers\.0\.weight is zero"):
        projector = NormProjector(model)
    assert list(projector.radii) == ["layers.3.weight"]
    model.layers[3].weight.data.zero_()
    projector.project_()
    assert float(model.layers[3].weight.detach().abs().max()) == 0.0


def test_non_finite_norm_names_the_tensor_and_changes_nothing() -> None:
    model = mlp()
    projector = NormProjector(model)
    model.layers[0].weight.data.mul_(2)
    model.layers[3].weight.data[0, 0] = math.nan
    moved = model.layers[0].weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"layers\.3\.weight"):
        projector.project_()
    assert torch.equal(model.layers[0].weight, moved)
    with pytest.raises(FloatingPointError, match=r"layers\.3\.weight"):
        NormProjector(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_norm_is_taken_in_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 2)).to(dtype)
    weight = model[0].weight
    weight.data.fill_(200.0)  # its sum of squares overflows float16, and stalls when added up in bfloat16
    projector = NormProjector(model)
    assert projector.radii["0.weight"] == pytest.approx(200 * math.sqrt(256 * 512), rel=1e-5)
    weight.data.mul_(0.5)
    projector.project_()
    assert weight.dtype == dtype
    torch.testing.assert_close(weight.detach().float(), torch.full((512, 256), 200.0), rtol=1e-2, atol=0)


def test_mixed_dtypes() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4).double(), nn.ReLU(), nn.Linear(4, 4).bfloat16(), nn.ReLU(), nn.Linear(4, 2)
    )
    projector = NormProjector(model)
    expected = {f"{i}.weight": float(model[i].weight.detach().double().norm()) for i in (0, 2)}
    assert projector.radii == pytest.approx(expected, rel=1e-6)
    model[0].weight.data.mul_(3)
    projector.project_()
    assert float(model[0].weight.detach().norm()) == pytest.approx(expected["0.weight"], rel=1e-6)


def test_weights_are_found_by_module_type() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

    model = nn.Sequential(
        nn.Embedding(5, 4),
        nn.Conv1d(4, 4, 1),
        nn.ConvTranspose2d(4, 4, 3),
        nn.BatchNorm2d(4),
        Own(),
        nn.Linear(4, 2),
    )
    assert list(projected_weights(model)) == ["0.weight", "1.weight", "2.weight"]
    assert list(projected_weights(model, project_output=True)) == [
        "0.weight",
        "1.weight",
        "2.weight",
        "5.weight",
    ]
    assert list(projected_weights(nn.Linear(2, 2), project_output=True)) == ["weight"]
    assert projected_weights(nn.Linear(2, 2)) == {}
    assert projected_weights(nn.ReLU()) == {}


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 1.5}, {"reg_strength": -1e-9}, {"scale_offset": "projekt"}]
)
def test_projector_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        NormProjector(mlp(), **options)


def test_in_a_run_the_hidden_rate_falls_without_and_stays_with_projection() -> None:
    """Adam, random targets: the un-projected effective rate falls monotonically where the projected one is constant."""
    rates = {}
    for projected in (False, True):
        model = mlp(affine=False)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        projector = NormProjector(model)
        if projected:
            projector.attach(optimizer)
        rho = projector.radii["layers.3.weight"]
        rates[projected] = []
        for step in range(60):
            norm = parameter_norms(model)["layers.3.weight"]
            rates[projected].append(effective_learning_rate(0.05, norm, "adam", reference=rho))
            optimizer.zero_grad()
            loss_of(model, seed=step // 20).backward()
            optimizer.step()
    assert rates[True] == pytest.approx([0.05] * 60, rel=1e-10)
    assert rates[False][-1] < 0.05 / 1.3
