"""What flows into norms, and the count of operations: against NumPy in float64 and counts by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz import norms
from normviz.frame import Value
from normviz.norms import BatchNorm, LayerNormLSTM, PowerNormV
from normviz.probes import ActivationOutliers, InputGradient, Probe, count_operations


def is_norm(name: str, module: nn.Module) -> bool:
    return name.rpartition(".")[2].startswith("norm")


class Residual(nn.Module):
    """x + norm(x), twice."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(x)
        return x + self.norm2(x)


def watch(probe: Probe, model: nn.Module, x: Tensor) -> dict[str, Value]:
    values: dict[str, Value] = {}
    with probe.forward(model, values):
        loss = (model(x) ** 3).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return {**values, **probe.gradients(model)}


def power_v(x: np.ndarray, dy: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gamma z, and dX column by column from the differential of x / sqrt(mean(x^2))."""
    psi = np.sqrt((x**2).mean(0))
    dx = np.empty_like(x)
    for c in range(x.shape[1]):
        jacobian = np.eye(len(x)) / psi[c] - np.outer(x[:, c], x[:, c]) / (len(x) * psi[c] ** 3)
        dx[:, c] = gain[c] * jacobian @ dy[:, c]
    return gain * x / psi, dx


def batch(x: np.ndarray, dy: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same on centred columns; the gradient is centred once more by the chain rule."""
    y, dx = power_v(x - x.mean(0), dy, gain)
    return y, dx - dx.mean(0)


@pytest.mark.parametrize(("make", "by_hand"), [(PowerNormV, power_v), (BatchNorm, batch)])
def test_gradient_in_the_input_of_a_norm_is_that_through_the_norm_alone(make: type, by_hand: object) -> None:
    torch.manual_seed(0)
    model = Residual(make(3, eps=0.0), make(3, eps=0.0)).double()
    gains = [np.array([0.5, 1.0, 2.0]), np.array([1.5, 0.2, 1.0])]
    with torch.no_grad():
        for norm, gain in zip((model.norm1, model.norm2), gains, strict=True):
            norm.weight.copy_(torch.tensor(gain))  # type: ignore[union-attr, operator]
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    values = watch(InputGradient(is_norm), model, x)
    nothing = np.zeros((7, 3))
    a = x.detach().numpy()
    b = a + by_hand(a, nothing, gains[0])[0]  # type: ignore[operator]
    out = b + by_hand(b, nothing, gains[1])[0]  # type: ignore[operator]
    d_out = 3 * out**2
    through_second = by_hand(b, d_out, gains[1])[1]  # type: ignore[operator]
    d_b = d_out + through_second
    through_first = by_hand(a, d_b, gains[0])[1]  # type: ignore[operator]
    expected = [np.linalg.norm(through_first), np.linalg.norm(through_second)]
    np.testing.assert_allclose(values["input_gradient_by_layer"], expected, rtol=1e-6)
    assert values["input_gradient"] == pytest.approx(max(expected), rel=1e-6)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), d_b + through_first, rtol=1e-9)


def test_the_theorem_of_power_norm_v() -> None:
    """|dL/dX_c|^2 = gamma^2 / psi^2 (|dL/dY_c|^2 - <dL/dY_c, Z_c>^2 / n), summed over channels."""
    rng = np.random.default_rng(1)
    x, dy, gain = rng.normal(1.0, 2.0, (40, 3)), rng.normal(size=(40, 3)), np.array([0.5, 1.0, 3.0])
    norm = PowerNormV(3, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(gain))  # type: ignore[union-attr]
    probe, model = InputGradient(lambda n, m: n == "0"), nn.Sequential(norm)
    with probe.forward(model, {}):
        (model(torch.tensor(x, requires_grad=True)) * torch.tensor(dy)).sum().backward()
    psi = (x**2).mean(0)
    z = x / np.sqrt(psi)
    theorem = gain**2 / psi * ((dy**2).sum(0) - (dy * z).sum(0) ** 2 / 40)
    assert probe.gradients(model)["input_gradient"] == pytest.approx(np.sqrt(theorem.sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["BatchNorm", "PowerNorm", "PowerNormV", "UnifiedNorm1d"])
def test_watching_the_gradient_changes_no_number(name: str) -> None:
    """Weights and running statistics after three steps, with and without the probe."""
    options: dict[str, int] = {"PowerNorm": {"warmup_iters": 1}, "UnifiedNorm1d": {"warmup_iters": 4}}.get(
        name, {}
    )
    make = partial(getattr(norms, name), **options)
    states = []
    for watched in (False, True):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 4), Residual(make(4), make(4)), nn.Linear(4, 2))
        optimizer, probe = torch.optim.SGD(model.parameters(), lr=0.01), InputGradient(is_norm)
        for _ in range(3):
            x = torch.randn(6, 4)
            optimizer.zero_grad()
            if watched:
                assert np.shape(watch(probe, model, x)["input_gradient_by_layer"]) == (2,)
            else:
                (model(x) ** 3).sum().backward()
            optimizer.step()
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_a_layer_that_hands_its_input_on_has_no_gradient_of_its_own() -> None:
    model = Residual(nn.Identity(), nn.LayerNorm(3))
    values = watch(InputGradient(is_norm), model, torch.randn(2, 3, requires_grad=True))
    assert np.shape(values["input_gradient_by_layer"]) == (1,)


def test_no_gradient_no_value() -> None:
    model, probe = Residual(nn.LayerNorm(3), nn.LayerNorm(3)), InputGradient(is_norm)
    with torch.no_grad(), probe.forward(model, {}):
        model(torch.randn(2, 3))
    assert probe.gradients(model) == {}
    assert InputGradient(is_norm).gradients(model) == {}


def test_outliers_are_largest_over_median_layer_by_layer() -> None:
    torch.manual_seed(3)
    model = Residual(nn.LayerNorm(5), nn.LayerNorm(5))
    x = torch.randn(31, 5)
    x[4, 2] = -80.0
    values = watch(ActivationOutliers(is_norm), model, x)
    a = x.numpy().astype(np.float64)
    z = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    expected = [
        np.abs(rows).max() / np.median(np.abs(rows)) for rows in (a, a + z)
    ]  # 155 entries: an odd number
    assert expected[0] > 50
    np.testing.assert_allclose(values["outliers_by_layer"], expected, rtol=1e-5)
    assert values["outliers"] == pytest.approx(np.log10(expected).mean(), rel=1e-5)


def test_padding_is_no_outlier() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
            return x

    class Model(nn.Module):
        def __init__(self, by_name: bool) -> None:
            super().__init__()
            self.norm, self.by_name = Masked(), by_name

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([[False, False, True], [False, True, True]])
            return self.norm(x, pad_mask=mask) if self.by_name else self.norm(x, mask)  # type: ignore[no-any-return]

    x = torch.tensor([[[1.0], [-2.0], [900.0]], [[6.0], [900.0], [0.0]]])
    for by_name in (False, True):
        values: dict[str, Value] = {}
        with ActivationOutliers(is_norm).forward(Model(by_name), values):
            pass
        assert values == {}
        probe, model = ActivationOutliers(is_norm), Model(by_name)
        with probe.forward(model, values):
            model(x)
        np.testing.assert_allclose(values["outliers_by_layer"], [3.0])


def test_layers_without_signal_and_hooks_afterwards() -> None:
    model = Residual(nn.Identity(), nn.Identity())
    values: dict[str, Value] = {}
    for probe in (ActivationOutliers(is_norm), InputGradient(is_norm)):
        with probe.forward(model, values):
            model(torch.zeros(4, 3, requires_grad=True))
    np.testing.assert_array_equal(values["outliers_by_layer"], [0.0, 0.0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_operations_of_a_small_network_by_hand() -> None:
    """Rows 5, 3 -> 4 features: products 2 m k n, bias in the product; tanh 1; its backward 1; square, sum and so on."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(5, 3)
    assert count_operations(lambda: model(x)) == 2 * 5 * 3 * 4 + 5 * 4
    out = model(x)
    weight, bias, through_tanh = 2 * 3 * 5 * 4, 5 * 4, 5 * 4
    assert count_operations(lambda: out.backward(torch.ones(5, 4))) == weight + bias + through_tanh
    assert count_operations(x.T.reshape(-1)[2:].clone) == 0


@pytest.mark.parametrize(("steps", "rows", "hidden"), [(4, 3, 5), (2, 6, 8)])
def test_what_layer_norm_adds_to_an_lstm(steps: int, rows: int, hidden: int) -> None:
    """18 for each normalized number (two norms of 4H, one of H), and sums of gains' and biases' gradients over time."""

    def work(normalize: bool) -> int:
        lstm = LayerNormLSTM(3, hidden, normalize=normalize)
        x = torch.randn(steps, rows, 3)
        return count_operations(lambda: lstm(x)[0].sum().backward())

    normalized = 18 * steps * rows * 9 * hidden
    summed_over_time = (steps - 1) * 2 * (4 * hidden + hidden)
    assert work(True) - work(False) == normalized + summed_over_time
