"""Plasticity baselines: closed forms, ReDo against loops over single units, side effects, errors."""

from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz import optim
from normviz.norms.nap import NaPMLP, dormant_fraction
from normviz.optim import plasticity
from normviz.optim.plasticity import L2, NoisyUpdates, ReDO, RegenerativeL2, shrink_and_perturb_


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net() -> NaPMLP:
    torch.manual_seed(0)
    model = NaPMLP(4, 2, (5, 3)).double()
    model.layers[3].weight.requires_grad_(False)
    return model


WEIGHTS = ("layers.0.weight", "layers.6.weight", "layers.6.bias")  # no norm, and not what is frozen


# ---------------------------------------------------------------------------------------------------------- penalties


def test_l2() -> None:
    model = net()
    penalty = L2(model, strength=0.3).penalty()
    expected = 0.3 * sum((model.get_parameter(n).detach().numpy() ** 2).sum() for n in WEIGHTS)
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-12)
    penalty.backward()
    for name, p in model.named_parameters():
        if name in WEIGHTS:
            torch.testing.assert_close(p.grad, 2 * 0.3 * p.detach())
        else:
            assert p.grad is None


def test_regenerative_l2() -> None:
    model = net()
    regularizer = RegenerativeL2(model, strength=0.3)
    start = {n: model.get_parameter(n).detach().clone() for n in WEIGHTS}
    assert float(regularizer.penalty().detach()) == 0.0
    for k, p in enumerate(model.parameters()):
        p.data.add_(randn(*p.shape, seed=k))
    penalty = regularizer.penalty()
    penalty.backward()
    moved = {n: model.get_parameter(n).detach() - start[n] for n in WEIGHTS}
    assert float(penalty.detach()) == pytest.approx(0.3 * sum(float((d**2).sum()) for d in moved.values()))
    for name, p in model.named_parameters():
        if name in WEIGHTS:
            torch.testing.assert_close(p.grad, 2 * 0.3 * moved[name])
        else:
            assert p.grad is None


def test_regenerative_state_is_the_start() -> None:
    regularizer = RegenerativeL2(net())
    file = io.BytesIO()
    torch.save(regularizer.state_dict(), file)
    file.seek(0)
    trained = net()
    trained.layers[0].weight.data.add_(1.0)
    resumed = RegenerativeL2(trained)
    assert float(resumed.penalty().detach()) == 0.0
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert float(resumed.penalty().detach()) == pytest.approx(1e-3 * trained.layers[0].weight.numel())
    other = RegenerativeL2(NaPMLP(4, 2, (5, 4)))
    for wrong in (regularizer.state_dict(), {}):
        with pytest.raises(RuntimeError, match="initial"):
            other.load_state_dict(wrong)


def test_penalties_of_half_precision_are_summed_in_float32() -> None:
    layer = nn.Linear(100, 100, bias=False).half()
    nn.init.constant_(layer.weight, 10.0)
    assert float(L2(layer, 1.0).penalty().detach()) == 1e6  # overflows float16


# -------------------------------------------------------------------------------------------------------------- noise


def test_shrink_and_perturb() -> None:
    model = net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    shrink_and_perturb_(model, 0.7, 0.1, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if name in WEIGHTS:
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            torch.testing.assert_close(p.detach(), 0.7 * before[name] + 0.1 * noise)
        else:
            assert torch.equal(p, before[name])


def test_shrink_and_perturb_limits() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    shrink_and_perturb_(model, 1.0, 0.0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    big = nn.Linear(200, 200, bias=False)
    shrink_and_perturb_(big, 0.0, 0.5)
    assert float(big.weight.detach().std()) == pytest.approx(0.5, rel=0.02)
    assert float(big.weight.detach().mean()) == pytest.approx(0.0, abs=0.02)


def test_noisy_updates() -> None:
    model, plain = net(), net()
    optimizer = torch.optim.SGD([*model.parameters()], lr=0.1)
    noise = NoisyUpdates(optimizer, 0.2, torch.Generator().manual_seed(5))
    other = torch.optim.SGD([*plain.parameters()], lr=0.1)
    for m, o in ((model, optimizer), (plain, other)):
        m(randn(8, 4)).square().mean().backward()
        m.layers[1].bias.grad = None
        o.step()
    generator = torch.Generator().manual_seed(5)
    for name, p in model.named_parameters():
        expected = plain.get_parameter(name).detach()
        if name not in ("layers.1.bias", "layers.3.weight"):  # those have no gradient
            expected = expected + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        torch.testing.assert_close(p.detach(), expected)
    noise.remove()
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    model.layers[0].weight.grad = torch.zeros_like(model.layers[0].weight)
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------------- ReDo


def alive(model: nn.Sequential) -> nn.Sequential:
    """Every unit active on some sample: biases that outweigh most inputs."""
    for module in model:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.constant_(module.bias, 1.0)
    return model.double()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return alive(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))


def kill(layer: nn.Module, units: list[int]) -> None:
    with torch.no_grad():
        layer.weight[units] = 0.0
        layer.bias[units] = -1.0


def trained(model: nn.Module, x: Tensor) -> torch.optim.Optimizer:
    """Adam with moments everywhere, the weights left as they were."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def test_redo_keeps_the_function_and_changes_only_what_belongs_to_dead_units() -> None:
    model, x = mlp(), randn(32, 4)
    dead = {0: [1, 4], 2: [0]}
    for layer, units in dead.items():
        kill(model[layer], units)
    optimizer = trained(model, x)
    out, before = model(x), copy.deepcopy(model.state_dict())
    redo = ReDO(model, optimizer, tau=0.0, every=1)
    torch.manual_seed(1)
    assert redo.step(x) == {"0": 2, "2": 1}
    torch.testing.assert_close(model(x), out, rtol=0, atol=0)

    def touched(name: str, index: tuple[int, ...]) -> str | None:
        """What should have become of one entry, unit by unit."""
        layer, kind = name.split(".")
        if index[0] in dead.get(int(layer), []) and kind == "bias":
            return "zero"
        if kind == "weight" and index[1] in dead.get(int(layer) - 2, []):
            return "zero"
        return "drawn" if index[0] in dead.get(int(layer), []) else None

    drawn = []
    for name, p in model.named_parameters():
        moments = [v for v in optimizer.state[p].values() if v.shape == p.shape]
        assert len(moments) == 2
        for index in itertools.product(*(range(n) for n in p.shape)):
            value, fate = float(p.detach()[index]), touched(name, index)
            if fate is None:
                assert value == float(before[name][index])
                assert all(float(m[index]) != 0 for m in moments)
            else:
                assert all(float(m[index]) == 0 for m in moments)
                assert (value == 0) == (fate == "zero")
                if fate == "drawn":
                    drawn.append(abs(value) * math.sqrt(p.shape[1]))
    assert max(drawn) <= 1.0  # uniform in +-1/sqrt(fan_in)
    assert max(drawn) > 0.7
    assert all(float(state["step"]) == 1.0 for state in optimizer.state.values())


def test_redo_draws_uniformly() -> None:
    model = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 1))
    kill(model[0], list(range(400)))
    assert ReDO(model, every=1).step(torch.randn(3, 100)) == {"0": 400}
    weight = model[0].weight.detach() * 10  # uniform in [-1, 1]
    assert float(weight.abs().max()) == pytest.approx(1.0, abs=1e-3)
    assert float(weight.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(weight.square().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float(model[0].bias.detach().abs().max()) == 0.0
    assert float(model[2].weight.detach().abs().max()) == 0.0


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.8])
def test_redo_counts_like_the_score(tau: float) -> None:
    model, x = mlp(), randn(32, 4)
    kill(model[0], [2])
    expected = {}
    for layer, activation in ((0, 1), (2, 3)):
        sizes = model[: activation + 1](x).detach().numpy()
        means = [np.mean([abs(v) for v in column]) for column in sizes.T]
        expected[str(layer)] = sum(m / np.mean(means) <= tau for m in means)
        assert expected[str(layer)] == round(dormant_fraction(torch.from_numpy(sizes), tau) * len(means))
    assert ReDO(model, tau=tau, every=1).step(x) == expected
    assert expected["0"] >= 1


@pytest.mark.parametrize("head", ["flatten", "mean"])
def test_redo_in_convolutions(head: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten() if head == "flatten" else nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * (9 if head == "flatten" else 1), 2),
    ).double()
    x = randn(8, 1, 3, 3)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.0  # exactly 0 after a leaky ReLU
    kill(model[2], [3])
    optimizer = trained(model, x)
    before = copy.deepcopy(model.state_dict())
    out = model(x)
    assert ReDO(model, optimizer, tau=0.0, every=1).step(x) == {"0": 1, "2": 1}
    torch.testing.assert_close(model(x), out, rtol=0, atol=0)
    assert float(model[0].weight[1].detach().abs().max()) > 0
    assert float(model[2].weight[:, 1].detach().abs().max()) == 0
    torch.testing.assert_close(model[2].weight[:3, [0, 2]], before["2.weight"][:3, [0, 2]], rtol=0, atol=0)
    per_channel = model[6].weight.detach().reshape(2, 4, -1)
    assert float(per_channel[:, 3].abs().max()) == 0
    torch.testing.assert_close(
        per_channel[:, :3], before["6.weight"].reshape(2, 4, -1)[:, :3], rtol=0, atol=0
    )
    moment = optimizer.state[model[6].weight]["exp_avg"].reshape(2, 4, -1)
    assert [float(m.abs().max()) > 0 for m in moment.unbind(1)] == [True, True, True, False]


def test_redo_with_groups_and_channels_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
    )
    model = alive(model).to(memory_format=torch.channels_last)
    kill(model[0], [3])
    kill(model[2], [5])
    before = copy.deepcopy(model.state_dict())
    x = randn(4, 2, 5, 5)
    out = model(x)
    assert ReDO(model, tau=0.0, every=1).step(x) == {"0": 1, "2": 1}
    torch.testing.assert_close(model(x), out)
    for o, i in itertools.product(
        range(6), range(2)
    ):  # output o is of group o // 3, and sees channels 2 (o // 3) + i
        entry = model[2].weight[o, i].detach()
        if 2 * (o // 3) + i == 3:
            assert float(entry.abs().max()) == 0
        elif o != 5:
            assert torch.equal(entry, before["2.weight"][o, i])
    assert [float(w.abs().max()) > 0 for w in model[4].weight.detach()] == [True] * 5 + [False]


def test_redo_in_one_dimension_and_with_one_activation_module() -> None:
    act = nn.ReLU()
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3), act, nn.Flatten(), nn.Linear(12, 4), act, nn.Linear(4, 1)
    ).double()
    kill(model[0], [0])
    kill(model[3], [1, 2])
    counts = ReDO(model, tau=0.0, every=1).step(randn(64, 2, 6))
    assert counts["0"] >= 1
    assert counts["3"] >= 2
    assert float(model[3].weight[:, :4].detach().abs().max()) == 0


def test_redo_counts_calls_and_has_no_side_effect() -> None:
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)
    ).double()
    model[4].weight.grad = torch.ones_like(model[4].weight)
    redo = ReDO(model, tau=0.0, every=3)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = randn(16, 4)
    assert [redo.step(x) for _ in range(7)] == [{}, {}, {"0": 0}, {}, {}, {"0": 0}, {}]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert all(not m._forward_hooks for m in model.modules())


def test_redo_leaves_other_state_alone() -> None:
    model, x = mlp(), randn(8, 4)
    kill(model[0], [0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    ReDO(model, optimizer, every=1).step(x)  # no state yet
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    kill(model[0], [0])
    ReDO(model, optimizer, tau=0.0, every=1).step(x)
    assert float(optimizer.state[model[0].weight]["momentum_buffer"][0].abs().max()) == 0
    assert float(optimizer.state[model[0].weight]["momentum_buffer"][1].abs().min()) == 1


class FunctionalMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.act, self.head = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.cell(self.act(self.cell(x)))))
        return out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FunctionalMLP(), "hidden layer first has no activation"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1)),
            "hidden layer 2 has no",
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "must have a hidden"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.ConvTranspose2d(2, 1, 1)), "2 is a transposed"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.ReLU(), nn.Linear(2, 1)),
            "weight of 0",
        ),
    ],
)
def test_redo_refuses_what_it_cannot_see(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReDO(model)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (Recurrent(), torch.ones(3, 2), "cell ran twice"),
        (
            nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1)),
            torch.ones(3, 2),
            "after 0 must put out its 4 units",
        ),
        (
            nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Unflatten(1, (2, 2)), nn.Linear(2, 1)),
            torch.ones(3, 2),
            "3 has 2 inputs, no multiple of the 4 units of 0",
        ),
    ],
)
def test_redo_refuses_runs_it_cannot_follow(model: nn.Module, x: Tensor, message: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        ReDO(model, every=1).step(x)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(not m._forward_hooks for m in model.modules())


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: L2(mlp(), strength=-1.0), "strength"),
        (lambda: RegenerativeL2(mlp(), strength=-1e-9), "strength"),
        (lambda: shrink_and_perturb_(mlp(), shrink=1.1), "shrink"),
        (lambda: shrink_and_perturb_(mlp(), shrink=-0.1), "shrink"),
        (lambda: shrink_and_perturb_(mlp(), noise_std=-0.1), "noise_std"),
        (lambda: NoisyUpdates(torch.optim.SGD(mlp().parameters(), lr=0.1), std=-1.0), "std"),
        (lambda: ReDO(mlp(), tau=-0.1), "tau"),
        (lambda: ReDO(mlp(), every=0), "every"),
        (lambda: L2(nn.LayerNorm(3)), "model"),
        (lambda: RegenerativeL2(nn.ReLU()), "model"),
        (lambda: shrink_and_perturb_(nn.ReLU()), "model"),
    ],
)
def test_arguments(make: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must"):
        make()


def test_every_public_name_is_in_its_package() -> None:
    for name in plasticity.__all__:
        assert getattr(optim, name) is getattr(plasticity, name)
        assert name in optim.__all__
