"""Matched and replayed effective learning rates: equality with a projection written out here, closed forms, errors."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normviz import schedules
from normviz.norms.nap import NaPConvNet, NaPMLP, NormProjector, effective_learning_rate
from normviz.schedules import effective_lr
from normviz.schedules.effective_lr import ImplicitScheduleReplay, MatchedEffectiveLR, per_tensor_groups

HIDDEN = ("layers.0.weight", "layers.3.weight")
LR = 0.8


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(affine: bool = False, norm: str = "layer", seed: int = 0) -> NaPMLP:
    torch.manual_seed(seed)
    activation = (
        "relu" if norm == "layer" else "leaky_relu"
    )  # RMS with eps = 0 of a sample without a live unit is 0/0
    return NaPMLP(5, 3, (7, 6), norm, activation, affine, eps=0.0).double()


def backward(model: nn.Module, step: int) -> None:
    model.zero_grad()
    (model(randn(16, 5, seed=step)) - randn(16, 3, seed=1000 + step)).square().mean().backward()


PROBE = randn(9, 5, seed=77)


def projected_by_hand(steps: int, **options: Any) -> list[Tensor]:
    """Plain gradient descent; after each step every hidden weight is scaled to its first norm. Nothing of normviz."""
    model = mlp(**options)
    radii = {name: model.get_parameter(name).detach().square().sum().sqrt() for name in HIDDEN}
    outputs = []
    for step in range(steps):
        backward(model, step)
        with torch.no_grad():
            for p in model.parameters():
                p -= LR * p.grad
            for name, radius in radii.items():
                weight = model.get_parameter(name)
                weight *= radius / weight.square().sum().sqrt()
        outputs.append(model(PROBE).detach())
    return outputs


@pytest.mark.parametrize(("affine", "norm"), [(False, "layer"), (True, "layer"), (False, "rms")])
def test_check_5_layerwise_matches_projection(affine: bool, norm: str) -> None:
    expected = projected_by_hand(50, affine=affine, norm=norm)
    model = mlp(affine, norm)
    optimizer = torch.optim.SGD(per_tensor_groups(model, LR))
    scheduler = MatchedEffectiveLR(optimizer, model)
    projected = mlp(affine, norm)
    other = torch.optim.SGD(projected.parameters(), lr=LR)
    NormProjector(projected, scale_offset="free").attach(other)
    for step in range(50):
        for net, opt in ((model, optimizer), (projected, other)):
            backward(net, step)
            opt.step()
        scheduler.step()
        torch.testing.assert_close(model(PROBE).detach(), expected[step], rtol=0, atol=1e-9)
        torch.testing.assert_close(projected(PROBE).detach(), expected[step], rtol=0, atol=1e-9)
    grown = {n: float(model.get_parameter(n).detach().norm()) / scheduler.radii[n] for n in HIDDEN}
    assert all(ratio > 1.2 for ratio in grown.values())  # the norms did move


def test_check_5_global_and_no_rescaling_differ() -> None:
    expected = projected_by_hand(50)
    gaps = {}
    for mode in ("global", None):
        model = mlp()
        optimizer = torch.optim.SGD(per_tensor_groups(model, LR))
        scheduler = MatchedEffectiveLR(optimizer, model, mode) if mode else None
        for step in range(50):
            backward(model, step)
            optimizer.step()
            if scheduler:
                scheduler.step()
        gaps[mode] = float((model(PROBE) - expected[-1]).detach().abs().max())
    assert gaps["global"] > 1e-4
    assert gaps[None] > 1e-4


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_check_6_replay_reproduces_the_unprojected_run(norm: str) -> None:
    free = mlp(norm=norm)
    optimizer = torch.optim.SGD(free.parameters(), lr=LR)
    radii = {name: float(free.get_parameter(name).detach().norm()) for name in HIDDEN}
    recorded, expected = [], []
    for step in range(50):
        backward(free, step)
        recorded.append(
            {
                name: effective_learning_rate(
                    LR, float(free.get_parameter(name).detach().norm()), reference=rho
                )
                for name, rho in radii.items()
            }
        )
        optimizer.step()
        expected.append(free(PROBE).detach())
    assert recorded[-1][HIDDEN[0]] < 0.7 * LR  # the implicit decay is there
    model = mlp(norm=norm)
    replayed = torch.optim.SGD(per_tensor_groups(model, LR))
    scheduler = ImplicitScheduleReplay(replayed, recorded)
    NormProjector(model).attach(replayed)
    for step in range(50):
        backward(model, step)
        replayed.step()
        scheduler.step()
        torch.testing.assert_close(model(PROBE).detach(), expected[step], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kind", "power"), [("sgd", 2), ("adam", 1)])
@pytest.mark.parametrize("mode", ["layerwise", "global"])
def test_rates_by_closed_form(kind: str, power: int, mode: str) -> None:
    model = mlp(affine=True)
    groups = per_tensor_groups(model, 0.1)
    groups[0]["lr"] = 0.3
    optimizer = torch.optim.SGD(groups)
    scheduler = MatchedEffectiveLR(optimizer, model, mode, kind)
    assert scheduler.get_last_lr() == [group["lr"] for group in groups]
    rho = {name: float(model.get_parameter(name).detach().norm()) for name in HIDDEN}
    factors = dict(zip(HIDDEN, (2.0, 0.5), strict=True))
    for name, p in model.named_parameters():
        p.data.mul_(factors.get(name, 7.0))
    optimizer.step()
    scheduler.step()
    if mode == "global":
        total = sum((factors[n] * rho[n]) ** 2 for n in HIDDEN) / sum(r**2 for r in rho.values())
        factors = dict.fromkeys(HIDDEN, math.sqrt(total))
    for group in optimizer.param_groups:
        base = 0.3 if group["name"] == HIDDEN[0] else 0.1
        assert group["lr"] == pytest.approx(base * factors.get(group["name"], 1.0) ** power, rel=1e-12)


def test_the_output_layer_on_request() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(per_tensor_groups(model, 0.1))
    scheduler = MatchedEffectiveLR(optimizer, model, project_output=True)
    assert set(scheduler.radii) == set(NormProjector(model, project_output=True).radii)
    model.layers[-1].weight.data.mul_(3)
    optimizer.step()
    scheduler.step()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["layers.6.weight"] == pytest.approx(0.9)
    assert rates["layers.6.bias"] == 0.1


def test_same_tensors_as_the_projector() -> None:
    model = NaPConvNet(1, 3, (4, 5))
    optimizer = torch.optim.SGD(per_tensor_groups(model, 0.1))
    assert MatchedEffectiveLR(optimizer, model).radii == NormProjector(model, scale_offset="free").radii


def test_groups_of_several_tensors() -> None:
    model = mlp()
    hidden = [model.get_parameter(n) for n in HIDDEN]
    rest = [p for n, p in model.named_parameters() if n not in HIDDEN]
    two = torch.optim.SGD([{"params": hidden}, {"params": rest}], lr=0.1)
    scheduler = MatchedEffectiveLR(two, model, "global")
    for weight in hidden:
        weight.data.mul_(2)
    two.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.4, 0.1])
    with pytest.raises(ValueError, match=r"one group per tensor.*per_tensor_groups"):
        MatchedEffectiveLR(two, model)
    mixed = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in ("layerwise", "global"):
        with pytest.raises(ValueError, match="not projected"):
            MatchedEffectiveLR(mixed, model, mode)
    apart = torch.optim.SGD([{"params": [hidden[0]]}, {"params": [hidden[1]]}, {"params": rest}], lr=0.1)
    MatchedEffectiveLR(apart, model)  # only projected tensors need a group of their own


def test_matched_arguments_and_edges() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(per_tensor_groups(model, 0.1))
    with pytest.raises(ValueError, match="mode must be"):
        MatchedEffectiveLR(optimizer, model, "local")
    with pytest.raises(ValueError, match="kind must be"):
        MatchedEffectiveLR(optimizer, model, kind="rmsprop")
    scheduler = MatchedEffectiveLR(optimizer, model)
    model.layers[0].weight.data[0, 0] = math.inf
    optimizer.step()
    with pytest.raises(FloatingPointError, match=r"layers\.0\.weight"):
        scheduler.step()
    model.layers[0].weight.data.zero_()
    with pytest.warns(UserWarning, match=r"layers\.0\.weight is zero"):
        assert list(MatchedEffectiveLR(optimizer, model).radii) == ["layers.3.weight"]
    linear = nn.Linear(2, 2)
    lonely = torch.optim.SGD(per_tensor_groups(linear, 0.1))
    assert MatchedEffectiveLR(lonely, linear, "global").get_last_lr() == [0.1, 0.1]


def resume(make: Any) -> None:
    """Save after 5 steps, load into freshly built parts, go on: bit for bit the same."""

    def run(model: nn.Module, optimizer: Any, scheduler: Any, steps: range) -> None:
        for step in steps:
            backward(model, step)
            optimizer.step()
            scheduler.step()

    model = mlp()
    optimizer = torch.optim.SGD(per_tensor_groups(model, LR), momentum=0.5)
    scheduler = make(optimizer, model)
    run(model, optimizer, scheduler, range(5))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = mlp(seed=5)
    other.load_state_dict(saved[0])
    again = torch.optim.SGD(per_tensor_groups(other, LR), momentum=0.5)
    resumed = make(again, other)
    resumed.load_state_dict(saved[2])
    again.load_state_dict(saved[1])
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    run(model, optimizer, scheduler, range(5, 9))
    run(other, again, resumed, range(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_state_dicts_resume() -> None:
    resume(MatchedEffectiveLR)
    entries = [{HIDDEN[0]: LR / (1 + step)} for step in range(8)]
    resume(lambda optimizer, model: ImplicitScheduleReplay(optimizer, entries))


def test_loading_other_radii_raises() -> None:
    model = mlp()
    scheduler = MatchedEffectiveLR(torch.optim.SGD(per_tensor_groups(model, 0.1)), model)
    radii = dict(scheduler.radii)
    state = copy.deepcopy(scheduler.state_dict())
    del state["radii"]["layers.0.weight"]
    for wrong in (state, {}):
        with pytest.raises(RuntimeError, match="radii"):
            scheduler.load_state_dict(wrong)
    assert scheduler.radii == radii


def test_replay_goes_by_name_and_keeps_the_last_entry() -> None:
    optimizer = torch.optim.SGD(
        [*per_tensor_groups(nn.Linear(2, 2), 0.1), {"params": [torch.zeros(1)], "lr": 0.7}], lr=9.0
    )
    scheduler = ImplicitScheduleReplay(
        optimizer, [{"bias": 0.3}, {"weight": torch.tensor(0.25), "bias": 0.2}, {"weight": 0.5}]
    )
    seen = [scheduler.get_last_lr()]
    for _ in range(4):
        optimizer.step()
        scheduler.step()
        seen.append(scheduler.get_last_lr())
    assert seen == [[0.1, 0.3, 0.7], [0.25, 0.2, 0.7], *[[0.5, 0.1, 0.7]] * 3]


def test_replay_errors() -> None:
    optimizer = torch.optim.SGD(per_tensor_groups(nn.Linear(2, 2), 0.1))
    with pytest.raises(ValueError, match="at least one entry"):
        ImplicitScheduleReplay(optimizer, [])
    with pytest.raises(ValueError, match=r"recorded\[1\] names 'wieght'.*weight"):
        ImplicitScheduleReplay(optimizer, [{}, {"wieght": 0.1}])
    with pytest.raises(ValueError, match=r"recorded\[0\]\['bias'\] must be"):
        ImplicitScheduleReplay(optimizer, [{"bias": math.nan}])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_per_tensor_groups() -> None:
    model = mlp(affine=True)
    model.layers[0].weight.requires_grad_(False)
    groups = per_tensor_groups(model, 0.2)
    assert [group["name"] for group in groups] == [n for n, p in model.named_parameters() if p.requires_grad]
    assert all(group["params"][0] is model.get_parameter(group["name"]) for group in groups)
    assert all(len(group["params"]) == 1 and group["lr"] == 0.2 for group in groups)
    with pytest.raises(ValueError, match="lr must be"):
        per_tensor_groups(model, -0.1)


def test_every_public_name_is_in_its_package() -> None:
    for name in effective_lr.__all__:
        assert getattr(schedules, name) is getattr(effective_lr, name)
        assert name in schedules.__all__
