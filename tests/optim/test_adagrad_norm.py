"""AdaGrad-Norm and the growing-batch pair AdAdaGrad, AdAdaGrad-Norm against NumPy loops; errors."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adaptive import AdaptiveBatchSize, GrowingBatchSampler, per_sample_gradients
from normviz.optim import AdAdaGrad, AdAdaGradNorm, AdaGradNorm

SHAPES: list[tuple[int, ...]] = [(4, 3), (5,), (2, 3, 2, 2), (2, 2, 2)]
Array = np.ndarray[Any, np.dtype[np.float64]]


def start(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype)) for s in SHAPES]


def gradient(step: int, i: int) -> Tensor | None:
    """The third parameter has no gradient at every fourth step, the first one never before step 3."""
    if (i == 2 and step % 4 == 0) or (i == 0 and step < 3):
        return None
    generator = torch.Generator().manual_seed(100 * step + i)
    return torch.randn(SHAPES[i], dtype=torch.float64, generator=generator)


def numpy_path(steps: int, scope: str = "global", **options: Any) -> list[Array]:
    """Parameters after so many steps, from the equations."""
    o = {"lr": 1.0, "a0": 1e-2, "eps": 1e-10, "wd": 0.0, "m": 0.0, "decay": 0.0, **options}
    x = [p.detach().numpy().copy() for p in start()]
    total = o["a0"]
    rows = {
        i: np.full((s[0],) if len(s) in (2, 4) else s, o["a0"], dtype=float) for i, s in enumerate(SHAPES)
    }
    buffers = [np.zeros(s) for s in SHAPES]
    counts = [0] * len(SHAPES)
    for step in range(steps):
        grads = {i: gradient(step, i) for i in range(len(SHAPES))}
        live = {i: g.numpy() + o["wd"] * x[i] for i, g in grads.items() if g is not None}
        total += math.fsum(float(v) ** 2 for g in live.values() for v in g.ravel())
        for i, g in live.items():
            buffers[i] = o["m"] * buffers[i] + (1 - o["m"]) * g
            d = buffers[i] if o["m"] else g
            if scope == "global":
                x[i] = x[i] - o["lr"] / (1 + step * o["decay"]) * d / (math.sqrt(total) + o["eps"])
                continue
            lr = o["lr"] / (1 + counts[i] * o["decay"])
            counts[i] += 1
            if g.ndim in (2, 4):
                for r in range(len(g)):
                    rows[i][r] += (g[r] ** 2).sum()
                    x[i][r] -= lr * d[r] / (math.sqrt(rows[i][r]) + o["eps"])
            else:
                rows[i] += g**2
                x[i] -= lr * d / (np.sqrt(rows[i]) + o["eps"])
    return x


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {
            "lr": 0.3,
            "initial_accumulator_value": 0.5,
            "eps": 0.1,
            "weight_decay": 0.2,
            "momentum": 0.7,
            "lr_decay": 0.3,
        },
        {"lr": 0.3, "a0": 0.5, "eps": 0.1, "wd": 0.2, "m": 0.7, "decay": 0.3},
    ),
]


@pytest.mark.parametrize("scope", ["global", "row"])
@pytest.mark.parametrize(("options", "symbols"), CASES)
def test_path_equals_the_equations(scope: str, options: dict[str, Any], symbols: dict[str, Any]) -> None:
    params = start()
    optimizer = AdaGradNorm(params, scope=scope, **options)
    for step in range(24):
        for i, p in enumerate(params):
            p.grad = gradient(step, i)
        optimizer.step()
    for p, expected in zip(params, numpy_path(24, scope, **symbols), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_check_9_first_step_has_length_lr() -> None:
    params = start()
    before = [p.detach().clone() for p in params]
    optimizer = AdaGradNorm(params, lr=0.37, initial_accumulator_value=0.0)
    for i, p in enumerate(params):
        p.grad = gradient(3, i)
    optimizer.step()
    moved = math.sqrt(
        sum(float((p.detach() - b).square().sum()) for p, b in zip(params, before, strict=True))
    )
    assert moved == pytest.approx(0.37, rel=1e-9)


@pytest.mark.parametrize("c", [1e-3, 1e5])
@pytest.mark.parametrize("scope", ["global", "row"])
def test_check_9_the_gradients_scale_does_not_matter(scope: str, c: float) -> None:
    one, other = start(), start()
    paths = [
        AdaGradNorm(p, lr=0.5, initial_accumulator_value=0.0, eps=0.0, scope=scope) for p in (one, other)
    ]
    for step in range(10):
        for i, (p, q) in enumerate(zip(one, other, strict=True)):
            p.grad = gradient(step, i)
            q.grad = None if p.grad is None else c * p.grad
        for optimizer in paths:
            optimizer.step()
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scope", ["global", "row"])
def test_check_10_one_parameter_is_torchs_adagrad(scope: str) -> None:
    shared = {"lr": 0.2, "eps": 1e-8, "initial_accumulator_value": 0.3, "lr_decay": 0.1, "weight_decay": 0.05}
    p, q = (nn.Parameter(torch.tensor([1.5], dtype=torch.float64)) for _ in range(2))
    ours, theirs = AdaGradNorm([p], scope=scope, **shared), torch.optim.Adagrad([q], **shared)
    for step in range(25):
        g = torch.tensor([math.sin(3 * step)], dtype=torch.float64)
        p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_no_gradient_at_all_and_zero_gradients_stay() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdaGradNorm([p], initial_accumulator_value=0.0, eps=0.0)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    p.grad = torch.zeros(3)
    optimizer.step()
    assert p.tolist() == [1, 1, 1]


def test_the_sum_is_the_first_parameters_state_and_groups_have_their_own() -> None:
    params = start()
    optimizer = AdaGradNorm(
        [{"params": params[:2]}, {"params": params[2:], "initial_accumulator_value": 5.0}]
    )
    for i, p in enumerate(params):
        p.grad = gradient(1, i)  # none for the first
    optimizer.step()
    assert params[0].grad is None
    for group, first in ((params[:2], 0), (params[2:], 2)):
        total = sum(float(p.grad.square().sum()) for p in group if p.grad is not None)
        assert float(optimizer.state[params[first]]["sum"]) == pytest.approx([0.01, 5.0][first // 2] + total)
        assert "sum" not in optimizer.state[group[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scope", ["global", "row"])
def test_check_11_round_trip_of_the_optimizer(scope: str, dtype: torch.dtype) -> None:
    def run(optimizer: AdaGradNorm, params: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for i, p in enumerate(params):
                g = gradient(step, i)
                p.grad = None if g is None else g.to(dtype)
            optimizer.step()

    options = {"scope": scope, "momentum": 0.5, "lr_decay": 0.1}
    first = start(dtype)
    original = AdaGradNorm(first, **options)
    run(original, first, range(4))
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = AdaGradNorm(second, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state[second[0]]["sum"].dtype == torch.float32
    for optimizer, params in ((original, first), (resumed, second)):
        run(optimizer, params, range(4, 9))
    for p, q in zip(first, second, strict=True):
        assert torch.equal(p, q)


def test_check_12_closure() -> None:
    p = nn.Parameter(torch.ones(2))
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        p.grad = torch.ones(2)
        return 4.5

    assert AdaGradNorm([p]).step(closure) == 4.5
    assert calls == [True]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"initial_accumulator_value": -1.0},
        {"eps": -1e-3},
        {"weight_decay": -1.0},
        {"lr_decay": -1.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"scope": "column"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        AdaGradNorm(start(), **options)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        AdAdaGradNorm(start(), AdaptiveBatchSize(), **options)


def test_sparse_gradients_are_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([1.0, 0.0, 0.0]).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        AdaGradNorm([p]).step()


# ------------------------------------------------------------------------------------ growing batches

N, D = 600, 6


def logistic() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D))
    y = (rng.random(N) < 1 / (1 + np.exp(-x @ np.linspace(-1, 1, D)))).astype(float)
    return x, y


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets)


def numpy_growing(norm: bool, steps: int, seed: int) -> tuple[Array, list[int]]:
    """AdAdaGrad(-Norm) on logistic regression: gradients (sigmoid(x.w) - y) x, test, growth and step by hand."""
    x, y = logistic()
    w, size, path = np.zeros(D), 4, []
    total: Any = 1e-2 if norm else np.zeros(D)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(N, generator=generator).tolist()
        take = len(order) if len(order) - size in (-1, 0, 1) or len(order) < size else size
        batch, order = order[:take], order[take:]
        G = np.array([(1 / (1 + math.exp(-x[i] @ w)) - y[i]) * x[i] for i in batch])
        g = G.mean(0)
        if size < 200:
            V = ((G - g) ** 2).sum(0) / (len(batch) - 1)
            s = V.sum() / (0.64 * (g @ g)) if norm else sorted(V / (0.64 * g**2))[4]  # ceil(0.75 * 6) = 5
            size = int(min(max(size, math.ceil(s)), 200))
        path.append(size)
        total = total + (g @ g if norm else g * g)
        w = w - (0.5 if norm else 0.2) * g / (np.sqrt(total) + 1e-10)
    return w, path


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_growing_batches_equal_the_numpy_run(norm: bool, seed: int) -> None:
    steps = 40
    expected, sizes = numpy_growing(norm, steps, seed)
    x, y = (torch.from_numpy(a) for a in logistic())
    model = nn.Linear(D, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    controller = AdaptiveBatchSize(
        "norm" if norm else "coordinatewise", eta=0.8, initial_batch_size=4, max_batch_size=200, quantile=0.75
    )
    method: AdAdaGrad | AdAdaGradNorm = (
        AdAdaGradNorm(model.parameters(), controller, lr=0.5)
        if norm
        else AdAdaGrad(model.parameters(), controller, lr=0.2)
    )
    sampler = GrowingBatchSampler(N, controller, torch.Generator().manual_seed(seed))
    path: list[int] = []
    while len(path) < steps:
        for batch in sampler:
            path.append(method.step(per_sample_gradients(model, loss_fn, x[batch], y[batch])))
            assert path[-1] == method.batch_size
            if len(path) == steps:
                break
    assert path == sizes
    assert path[-1] >= 4 * 4
    np.testing.assert_allclose(model.weight.detach().numpy()[0], expected, rtol=0, atol=1e-10)


def test_the_test_is_made_before_the_step_on_the_same_samples() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    seen: list[Any] = []

    class Controller:
        batch_size = 3

        def step(self, grads: Any) -> int:
            seen.append((p.detach().clone(), grads))
            return 11

        def state_dict(self) -> dict[str, Any]:
            return {"size": 3}

        def load_state_dict(self, state: Any) -> None:
            self.batch_size = state["size"]

    method = AdAdaGrad([p], Controller(), lr=0.1)
    grads = {"w": torch.tensor([[1.0, 0.0], [3.0, 2.0]])}
    assert method.step(grads) == 11
    assert torch.equal(seen[0][0], torch.tensor([1.0, 2.0]))
    assert torch.equal(seen[0][1][0], grads["w"])
    assert p.grad is not None
    assert p.grad.tolist() == [2.0, 1.0]
    torch.testing.assert_close(p.detach(), torch.tensor([0.9, 1.9]))
    assert isinstance(method.optimizer, torch.optim.Adagrad)
    assert method.batch_size == 3


@pytest.mark.parametrize(
    "grads",
    [
        [],
        [torch.ones(2, 3)],
        [torch.ones(2, 3), torch.ones(2, 3)],
        [torch.ones(2, 4), torch.ones(2, 3), torch.ones(2, 1)],
        [torch.ones(3), torch.ones(4)],
        [torch.ones(0, 3), torch.ones(0, 4)],
        [torch.ones(1, 3), torch.ones(1, 4)],
        [torch.ones(2, 3), torch.full((2, 4), math.nan)],
        {"b": torch.ones(2, 4), "a": torch.ones(2, 3)},
    ],
)
def test_bad_gradients_change_nothing(grads: Any) -> None:
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))]
    method = AdAdaGradNorm(params, AdaptiveBatchSize())
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match="grads"):
        method.step(grads)
    assert str(method.state_dict()) == str(before)
    assert all(bool((p == 1).all()) and p.grad is None for p in params)


@pytest.mark.parametrize("make", [AdAdaGrad, AdAdaGradNorm])
def test_check_11_round_trip_of_both_parts(make: Any) -> None:
    def build() -> tuple[list[nn.Parameter], Any]:
        params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))]
        return params, make(params, AdaptiveBatchSize(eta=0.5, max_batch_size=300))

    def run(method: Any, steps: range) -> list[int]:
        sizes = []
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            sizes.append(
                method.step([torch.randn(8, n, generator=generator) + 1 / (1 + step) for n in (3, 4)])
            )
        return sizes

    first, original = build()
    run(original, range(3))
    second, resumed = build()
    resumed.load_state_dict(copy.deepcopy(original.state_dict()))
    for p, q in zip(first, second, strict=True):
        q.data.copy_(p.data)
    assert run(resumed, range(3, 7)) == run(original, range(3, 7))
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_options_reach_the_optimizer() -> None:
    method = AdAdaGrad(start(), AdaptiveBatchSize(), lr=0.3, lr_decay=0.2, eps=1e-3)
    assert method.optimizer.defaults["lr_decay"] == 0.2
    with pytest.raises(TypeError):
        AdAdaGrad(start(), AdaptiveBatchSize(), momentum=0.9)
    with pytest.raises(ValueError, match="lr"):
        AdAdaGrad(start(), AdaptiveBatchSize(), lr=-1.0)
