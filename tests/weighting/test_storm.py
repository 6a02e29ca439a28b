"""STORM against NumPy loops, finite differences and automatic differentiation through the update."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, RMSprop

from normviz import weighting
from normviz.data import load_digits
from normviz.weighting import storm as storm_module
from normviz.weighting.meta_weight_training import MetaWeightTrainer, sample_losses
from normviz.weighting.noisy_labels import inject_instance_noise
from normviz.weighting.storm import (
    STORM,
    GCELoss,
    LossRescaler,
    MetaWeightNet,
    SmallLossFilter,
    inject_label_noise,
    l2rw_weights,
    meta_gradient,
    sample_features,
)

D, C, N, NV = 5, 3, 6, 4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int, seed: int, classes: int = C) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(n, D, generator=g, dtype=torch.float64), torch.randint(classes, (n,), generator=g)


def linear_model(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(D, C).double()


def noisy_model(seed: int = 0) -> nn.Sequential:
    """Two layers with batch norm and dropout, in training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(D, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, C)
    ).double()


def rescaler_of(seed: int = 1, features: int = 7, normalize: str = "mean") -> LossRescaler:
    """A rescaler whose weights are not all equal."""
    torch.manual_seed(seed)
    omega = LossRescaler(features, hidden=4, normalize=normalize).double()
    with torch.no_grad():
        for p in omega.parameters():
            p.copy_(torch.randn_like(p))
    return omega


def fixed_features(model: nn.Module, x: Tensor, y: Tensor, num_passes: int) -> Tensor:
    """Features that do not depend on the model, so that finite differences see what the method differentiates."""
    return x[:, :3].sigmoid()


def snapshot(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------- NumPy reference


def np_softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Reference:
    """L_out(omega) of a linear softmax model in NumPy, one sample at a time."""

    def __init__(self, model: nn.Linear, batch: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> None:
        self.W, self.b = (p.detach().numpy().copy() for p in (model.weight, model.bias))
        self.x, self.y = (t.numpy() for t in batch)
        self.xv, self.yv = (t.numpy() for t in val)

    def weights(self, omega: list[np.ndarray], F: np.ndarray) -> np.ndarray:
        W1, b1, W2, b2 = omega
        s = [1 / (1 + math.exp(-float((W2 @ np.tanh(W1 @ f + b1))[0] + b2[0]))) for f in F]
        return len(s) * np.array(s) / (sum(s) + 1e-8)

    def gradients(self, W: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """grad l_i, W and b in one vector."""
        out = []
        for xi, yi in zip(x, y, strict=True):
            e = np_softmax(W @ xi + b)
            e[yi] -= 1
            out.append(np.concatenate([np.outer(e, xi).ravel(), e]))
        return out

    def losses(self, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        W, b = theta[: self.W.size].reshape(self.W.shape), theta[self.W.size :]
        return np.array([-math.log(np_softmax(W @ xi + b)[yi]) for xi, yi in zip(x, y, strict=True)])

    @property
    def theta(self) -> np.ndarray:
        return np.concatenate([self.W.ravel(), self.b])

    def inner_gradient(self, theta: np.ndarray, w: np.ndarray) -> np.ndarray:
        W, b = theta[: self.W.size].reshape(self.W.shape), theta[self.W.size :]
        g = self.gradients(W, b, self.x, self.y)
        return sum(wi * gi for wi, gi in zip(w, g, strict=True)) / len(g)  # type: ignore[no-any-return]


def finite_differences(f: Callable[[list[np.ndarray]], float], omega: list[np.ndarray]) -> list[np.ndarray]:
    h = 1e-5
    out = []
    for k, p in enumerate(omega):
        g = np.zeros_like(p)
        for at in np.ndindex(p.shape):
            ends = []
            for sign in (1, -1):
                moved = [q.copy() for q in omega]
                moved[k][at] += sign * h
                ends.append(f(moved))
            g[at] = (ends[0] - ends[1]) / (2 * h)
        out.append(g)
    return out


def arrays(omega: nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in omega.parameters()]


# ------------------------------------------------------------------------------------------- meta gradient


@pytest.mark.parametrize("method", ["jvp", "unroll"])
def test_both_parts_match_finite_differences(method: str) -> None:
    """Check 1: the meta part with the validation weights held, the outer part with theta' held."""
    model, omega, lr = linear_model(), rescaler_of(features=3), 0.7
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (
        torch.rand(N, 3, generator=generator(3)).double(),
        torch.rand(NV, 3, generator=generator(4)).double(),
    )
    meta, outer = meta_gradient(model, omega, batch, val, lr, F, Fv, outer_scale=0.5, method=method)
    ref = Reference(model, batch, val)
    now = arrays(omega)
    w_val = ref.weights(now, Fv.numpy())
    theta_now = ref.theta - lr * ref.inner_gradient(ref.theta, ref.weights(now, F.numpy()))

    def through_theta(o: list[np.ndarray]) -> float:
        moved = ref.theta - lr * ref.inner_gradient(ref.theta, ref.weights(o, F.numpy()))
        return float(np.mean(w_val * ref.losses(moved, ref.xv, ref.yv)))

    def through_weights(o: list[np.ndarray]) -> float:
        return float(np.mean(ref.weights(o, Fv.numpy()) * ref.losses(theta_now, ref.xv, ref.yv)))

    expected_meta = finite_differences(through_theta, now)
    expected_outer = finite_differences(through_weights, now)
    assert list(meta) == list(outer) == [name for name, _ in omega.named_parameters()]
    for got, want in zip(meta.values(), expected_meta, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-9)
    for got, want in zip(outer.values(), expected_outer, strict=True):
        np.testing.assert_allclose(got.numpy(), 0.5 * want, rtol=1e-5, atol=1e-9)
    assert max(np.abs(g).max() for g in expected_meta) > 1e-3
    assert max(np.abs(g).max() for g in expected_outer) > 1e-3


@pytest.mark.parametrize("normalize", ["mean", "none", "softmax"])
@pytest.mark.parametrize("train", [True, False])
def test_jvp_equals_unroll_with_dropout_and_batch_norm(normalize: str, train: bool) -> None:
    """Check 2, with the same masks, and without a trace."""
    model = noisy_model().train(train)
    model(batch_of(20, 9)[0])  # running statistics off their start
    omega = rescaler_of(normalize=normalize)
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    before, rng = snapshot(model), torch.get_rng_state()
    results = [
        meta_gradient(model, omega, batch, val, 0.5, F, Fv, method=method) for method in ("jvp", "unroll")
    ]
    assert same(before, snapshot(model))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in (*model.parameters(), *omega.parameters()))
    for a, b in zip(results[0], results[1], strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-8, atol=1e-12)
    assert max(float(g.abs().max()) for g in results[0][0].values()) > 1e-4
    if train:  # the masks matter: from another random state the gradient is another
        torch.manual_seed(77)
        again, _ = meta_gradient(model, omega, batch, val, 0.5, F, Fv)
        assert not torch.allclose(again["layer1.weight"], results[0][0]["layer1.weight"])


class FreeWeights(nn.Module):
    """A "rescaler" whose parameters are the weights of the training batch themselves."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, features: Tensor) -> Tensor:
        return self.w if len(features) == len(self.w) else torch.ones(len(features), dtype=self.w.dtype)


def test_weight_rises_where_gradients_agree() -> None:
    """Check 4: dL_out/dw_i = -(lr/n) <grad l_i, grad of the validation loss at theta'>."""
    model, lr = linear_model(), 0.3
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    w = torch.rand(N, generator=generator(5)).double()
    meta, outer = meta_gradient(
        model, FreeWeights(w), batch, val, lr, torch.zeros(N, 1), torch.zeros(NV, 1), outer_scale=1.0
    )
    ref = Reference(model, batch, val)
    moved = ref.theta - lr * ref.inner_gradient(ref.theta, w.numpy())
    W, b = moved[: ref.W.size].reshape(ref.W.shape), moved[ref.W.size :]
    v = np.mean(ref.gradients(W, b, ref.xv, ref.yv), axis=0)
    products = np.array([g @ v for g in ref.gradients(ref.W, ref.b, ref.x, ref.y)])
    np.testing.assert_allclose(meta["w"].numpy(), -lr / N * products, rtol=1e-9)
    assert (np.sign(meta["w"].numpy()) == -np.sign(products)).all()
    assert {-1.0, 1.0} == set(np.sign(products))
    assert not outer["w"].any()


def test_outer_scale_zero_leaves_the_meta_gradient() -> None:
    """Check 6."""
    model, omega = linear_model(), rescaler_of()
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    meta, outer = meta_gradient(model, omega, batch, val, 0.5, F, Fv, outer_scale=0.0)
    full, whole = meta_gradient(model, omega, batch, val, 0.5, F, Fv, outer_scale=1.0)
    assert not any(g.any() for g in outer.values())
    assert all(torch.equal(meta[name], full[name]) for name in meta)
    assert any(g.any() for g in whole.values())


def test_single_sample_has_weight_one_and_no_gradient() -> None:
    model, omega = linear_model(), rescaler_of()
    batch = batch_of(1, 1)
    F = sample_features(model, *batch)
    assert float(omega(F).detach()) == pytest.approx(1, abs=1e-6)
    meta, outer = meta_gradient(model, omega, batch, batch, 0.5, F, F, outer_scale=1.0)
    assert max(float(g.abs().max()) for g in (*meta.values(), *outer.values())) < 1e-6


def test_w1_has_no_gradient_at_the_start() -> None:
    model, omega = linear_model(), LossRescaler().double()
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    F, Fv = (sample_features(model, *b) for b in (batch, val))
    meta, outer = meta_gradient(model, omega, batch, val, 0.5, F, Fv)
    for part in (meta, outer):
        assert not part["layer1.weight"].any()
        assert part["layer2.weight"].any()


# -------------------------------------------------------------------------------------------- the rescaler


def test_weights_are_one_at_the_start_and_have_mean_one() -> None:
    """Check 3."""
    F = torch.rand(50, 7, generator=generator(0))
    assert torch.equal(LossRescaler()(F), torch.ones(50))
    for normalize in ("mean", "softmax"):
        w = rescaler_of(normalize=normalize)(F.double())
        assert float(w.mean().detach()) == pytest.approx(1, abs=1e-7)
        assert float(w.std().detach()) > 0.05
    omega = rescaler_of(normalize="none")
    assert torch.equal(omega(F.double()), omega.raw(F.double()))


def test_rescaler_matches_numpy() -> None:
    omega = rescaler_of()
    F = torch.rand(9, 7, generator=generator(1)).double()
    W1, b1, W2, b2 = arrays(omega)
    z = np.array([float((W2 @ np.tanh(W1 @ f + b1))[0] + b2[0]) for f in F.numpy()])
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(omega.raw(F).detach().numpy(), s, rtol=1e-12)
    np.testing.assert_allclose(omega(F).detach().numpy(), 9 * s / (s.sum() + 1e-8), rtol=1e-12)
    omega.normalize = "softmax"
    np.testing.assert_allclose(omega(F).detach().numpy(), 9 * np.exp(z) / np.exp(z).sum(), rtol=1e-12)


def test_rescaler_survives_vanishing_scores() -> None:
    omega = LossRescaler()
    with torch.no_grad():
        omega.layer2.bias.fill_(-200.0)
    w = omega(torch.rand(4, 7))
    w.sum().backward()
    assert w.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in omega.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rescaler_keeps_dtype(dtype: torch.dtype) -> None:
    w = LossRescaler().to(dtype)(torch.rand(300, 7).to(dtype))
    assert w.dtype == dtype
    torch.testing.assert_close(w, torch.ones(300, dtype=dtype))


def test_modules_under_autocast_vmap_and_compile() -> None:
    F, losses = torch.rand(3, 8, 7, generator=generator(0)), torch.rand(3, 8, generator=generator(1))
    omega, net, drop = rescaler_of().float(), MetaWeightNet(5), SmallLossFilter(0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert omega(F[0]).isfinite().all()
    cases: list[tuple[Any, Tensor]] = [(omega, F), (net, losses), (drop, losses)]
    for module, x in cases:
        loop = torch.stack([module(row) for row in x])
        torch.testing.assert_close(torch.vmap(module)(x), loop)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x[0]), loop[0])
    gce, logits, y = GCELoss(reduction="none"), torch.randn(3, 8, 4), torch.randint(4, (3, 8))
    loop = torch.stack([gce(a, b) for a, b in zip(logits, y, strict=True)])
    torch.testing.assert_close(torch.vmap(gce)(logits, y), loop)
    torch.testing.assert_close(
        torch.compile(gce, fullgraph=True, backend="aot_eager")(logits[0], y[0]), loop[0]
    )


def test_rescalers_stacked_by_functional_call() -> None:
    F = torch.rand(8, 7, generator=generator(0)).double()
    omegas = [rescaler_of(seed) for seed in range(3)]
    params, buffers = torch.func.stack_module_state(omegas)
    together = torch.vmap(lambda p: torch.func.functional_call(omegas[0], (p, buffers), (F,)))(params)
    torch.testing.assert_close(together, torch.stack([omega(F) for omega in omegas]))


# ------------------------------------------------------------------------------------------------ features


def features_in_numpy(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f1..f7 from the passes' probabilities p [G, n, C], one sample at a time."""
    rows = []
    for i, label in enumerate(y):
        own = p[:, i, label]
        mean = p[:, i].mean(0)
        rows.append(
            [
                1 - math.exp(np.log(own).mean()),
                mean[label],
                mean.max(),
                -sum(q * math.log(q) for q in mean) / math.log(len(mean)),
                (1 + mean[label] - max(q for c, q in enumerate(mean) if c != label)) / 2,
                math.sqrt(((own - own.mean()) ** 2).mean()),
                float(mean.argmax() == label),
            ]
        )
    return np.array(rows)


def test_features_match_numpy_with_the_same_masks() -> None:
    model = noisy_model().train()
    model(batch_of(20, 9)[0])
    x, y = batch_of(12, 3)
    got = sample_features(model, x, y, num_passes=5)
    model.eval()
    model[3].train()
    with torch.no_grad():
        logits = torch.stack([model(x) for _ in range(5)])
    want = features_in_numpy(np_softmax(logits.numpy()), y.numpy())
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)
    assert want[:, 5].min() > 1e-3


def test_features_leave_no_trace() -> None:
    model = noisy_model().train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before, rng = snapshot(model), torch.get_rng_state()
    f = sample_features(model, *batch_of(N, 1))
    assert not f.requires_grad
    assert same(before, snapshot(model))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(rng, torch.get_rng_state())
    with pytest.raises(ValueError, match="labels in 0"):
        sample_features(model, torch.randn(2, D).double(), torch.tensor([0, 9]))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(rng, torch.get_rng_state()) is False  # randn above is the caller's


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 300.0), seed=st.integers(0, 1000), passes=st.integers(1, 3))
def test_features_lie_in_the_unit_interval(scale: float, seed: int, passes: int) -> None:
    """Check 5."""
    model = noisy_model(seed).train()
    x, y = batch_of(N, seed)
    f = sample_features(model, x * scale, y, num_passes=passes)
    assert f.shape == (N, 7)
    assert bool(((f >= 0) & (f <= 1)).all())
    if passes == 1:
        assert not f[:, 5].any()


def test_features_do_not_depend_on_the_order_of_the_batch() -> None:
    """Check 5: without dropout."""
    model = noisy_model().train()
    x, y = batch_of(N, 1)
    order = torch.randperm(N, generator=generator(2))
    f = sample_features(model, x, y, dropout=False)
    torch.testing.assert_close(sample_features(model, x[order], y[order], dropout=False), f[order])
    assert not f[:, 5].any()
    assert sample_features(model, x, y)[:, 5].any()
    assert not sample_features(linear_model(), x, y)[:, 5].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_features_keep_the_logits_dtype(dtype: torch.dtype) -> None:
    model = nn.Linear(D, C).to(dtype)
    x, y = batch_of(N, 1)
    f = sample_features(model, x.to(dtype), y)
    assert f.dtype == dtype
    want = sample_features(copy.deepcopy(model).double(), x.to(dtype).double(), y)
    torch.testing.assert_close(f.double(), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("model", "y", "options", "message"),
    [
        (nn.Linear(D, 1), torch.zeros(2, dtype=torch.long), {}, "C >= 2"),
        (nn.Linear(D, 3), torch.tensor([0, 3]), {}, r"0\.\.2"),
        (nn.Linear(D, 3), torch.tensor([-1, 0]), {}, r"0\.\.2"),
        (nn.Linear(D, 3), torch.tensor([0.0, 1.0]), {}, "integer class labels"),
        (nn.Linear(D, 3), torch.zeros(3, dtype=torch.long), {}, "shape"),
        (nn.Linear(D, 3), torch.zeros(2, dtype=torch.long), {"num_passes": 0}, "num_passes"),
    ],
)
def test_features_refuse(model: nn.Module, y: Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_features(model, torch.zeros(2, D), y, **options)


# ------------------------------------------------------------------------------------------- STORM.step()


def storm_of(
    model: nn.Module, omega: nn.Module, optimizer: Any, meta: Any | None = None, **options: Any
) -> STORM:
    options.setdefault("features", fixed_features)
    return STORM(model, omega, optimizer, meta or SGD(omega.parameters(), 1.0), **options)


def moved_by(storm: STORM, batch: Any, val: Any) -> list[Tensor]:
    """-Delta omega of one step with SGD of rate 1: the gradient that was used."""
    before = [p.detach().clone() for p in storm.rescaler.parameters()]
    storm.step(batch, val)
    return [b - p.detach() for b, p in zip(before, storm.rescaler.parameters(), strict=True)]


def close(got: list[Tensor], want: list[Tensor], rtol: float = 1e-8) -> None:
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "normalized"])
def test_step_is_algorithm_1(combine: str) -> None:
    """theta takes the weighted step, omega both parts; features at theta for B and at theta' for the validation."""
    model, omega = noisy_model().train(), rescaler_of()
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    theirs, lr = copy.deepcopy(model), 0.4
    F = sample_features(theirs, *batch)
    rng = torch.get_rng_state()
    inner = (omega(F).detach() * cross_entropy(theirs(batch[0]), batch[1], reduction="none")).mean()
    inner.backward()
    after = torch.get_rng_state()
    with torch.no_grad():
        for p in theirs.parameters():
            p -= lr * p.grad
    torch.set_rng_state(after)
    Fv = sample_features(theirs, *val)
    torch.set_rng_state(rng)
    before = copy.deepcopy(model)
    meta, outer = meta_gradient(before, omega, batch, val, lr, F, Fv, outer_scale=1.0)
    flat = [torch.cat([g.flatten() for g in part.values()]) for part in (meta, outer)]
    norms = [float(g.norm()) for g in flat]
    scales = (1.0, 0.3) if combine == "sum" else (1 / (norms[0] + 1e-12), 0.3 / (norms[1] + 1e-12))
    want = [scales[0] * meta[k] + scales[1] * outer[k] for k in meta]
    w, w_val = omega(F).detach(), omega(Fv).detach()

    storm = STORM(
        model,
        omega,
        SGD(model.parameters(), lr),
        SGD(omega.parameters(), 1.0),
        outer_scale=0.3,
        combine=combine,
    )
    torch.set_rng_state(rng)
    old = [p.detach().clone() for p in omega.parameters()]
    result = storm.step(batch, val)
    assert torch.equal(torch.get_rng_state(), after), "only the inner forward pass draws"
    close([a - p.detach() for a, p in zip(old, omega.parameters(), strict=True)], want)
    close(snapshot(model), snapshot(theirs), rtol=1e-13)  # theta and the running statistics
    torch.testing.assert_close(result.loss, inner.detach())
    torch.testing.assert_close(result.weights, w)
    torch.testing.assert_close(result.val_weights, w_val)
    assert float(result.meta_grad_norm) == pytest.approx(norms[0], rel=1e-9)
    assert float(result.outer_grad_norm) == pytest.approx(norms[1], rel=1e-9)
    torch.set_rng_state(after)
    val_losses = cross_entropy(theirs(val[0]), val[1], reduction="none").detach()
    torch.testing.assert_close(result.val_loss, (w_val * val_losses).mean())
    assert not any(t is not None and t.requires_grad for t in result)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.8, "dampening": 0.3},
        {"momentum": 0.7, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.1},
    ],
    ids=["momentum", "dampening", "nesterov", "decay"],
)
@pytest.mark.parametrize("earlier", [0, 2])
def test_momentum_gain_matches_finite_differences(options: dict[str, Any], earlier: int) -> None:
    """d theta'/dg of SGD with momentum, at the first step and later; a rate of its own per group."""
    model, omega = linear_model(), rescaler_of(features=3)
    groups = [{"params": [model.weight], "lr": 0.3}, {"params": [model.bias], "lr": 0.05}]
    optimizer = SGD(groups, lr=1.0, **options)
    storm = storm_of(model, omega, optimizer, outer_scale=0.0)
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    for k in range(earlier):
        storm.step(batch_of(N, 10 + k), val)
    ref = Reference(model, batch, val)
    rates = np.concatenate([np.full(ref.W.size, 0.3), np.full(ref.b.size, 0.05)])
    mu, damp, decay = options["momentum"], options.get("dampening", 0.0), options.get("weight_decay", 0.0)
    buffer = None
    if earlier:
        buffer = np.concatenate(
            [optimizer.state[p]["momentum_buffer"].numpy().ravel() for p in (model.weight, model.bias)]
        ).copy()
    F, Fv = (fixed_features(model, *b, 1).numpy() for b in (batch, val))
    now = arrays(omega)
    w_val = ref.weights(now, Fv)

    def outcome(o: list[np.ndarray]) -> float:
        g = ref.inner_gradient(ref.theta, ref.weights(o, F)) + decay * ref.theta
        b = g if buffer is None else mu * buffer + (1 - damp) * g
        direction = g + mu * b if options.get("nesterov") else b
        return float(np.mean(w_val * ref.losses(ref.theta - rates * direction, ref.xv, ref.yv)))

    want = finite_differences(outcome, now)
    got = moved_by(storm, batch, val)
    for g, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("earlier", [0, 3])
def test_adam_gain_holds_the_preconditioner(kind: type[Adam], earlier: int) -> None:
    model, omega = linear_model(), rescaler_of(features=3)
    optimizer = kind(model.parameters(), lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    storm = storm_of(model, omega, optimizer, outer_scale=0.0)
    batch, val = batch_of(N, 1), batch_of(NV, 2)
    for k in range(earlier):
        storm.step(batch_of(N, 10 + k), val)
    ref = Reference(model, batch, val)
    F, Fv = (fixed_features(model, *b, 1).numpy() for b in (batch, val))
    now = arrays(omega)
    w_val = ref.weights(now, Fv)
    got = moved_by(storm, batch, val)
    theta_new = np.concatenate([model.weight.detach().numpy().ravel(), model.bias.detach().numpy()])
    v2 = np.concatenate([optimizer.state[p]["exp_avg_sq"].numpy().ravel() for p in model.parameters()])
    t = earlier + 1
    gain = 0.05 * 0.2 / (1 - 0.8**t) / (np.sqrt(v2 / (1 - 0.95**t)) + 1e-3)
    g_now = ref.inner_gradient(ref.theta, ref.weights(now, F))

    def outcome(o: list[np.ndarray]) -> float:
        g = ref.inner_gradient(ref.theta, ref.weights(o, F))
        return float(np.mean(w_val * ref.losses(theta_new - gain * (g - g_now), ref.xv, ref.yv)))

    for g, expected in zip(got, finite_differences(outcome, now), strict=True):
        np.testing.assert_allclose(g.numpy(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("unroll", [1, 2, 3])
@pytest.mark.parametrize("kind", ["sgd", "sgd with decay", "adam", "adamw"])
def test_unroll_goes_through_the_last_inner_steps(unroll: int, kind: str) -> None:
    """Against automatic differentiation through the updates, each with its diagonal gain held."""
    model, omega = noisy_model().eval(), rescaler_of(features=3)
    make: dict[str, Callable[[], Any]] = {
        "sgd": lambda: SGD(model.parameters(), 0.4),
        "sgd with decay": lambda: SGD(model.parameters(), 0.4, weight_decay=0.3),
        "adam": lambda: Adam(model.parameters(), 0.05, eps=1e-2, weight_decay=0.3),
        "adamw": lambda: AdamW(model.parameters(), 0.05, eps=1e-2, weight_decay=0.9),
    }
    optimizer = make[kind]()
    storm = storm_of(model, omega, optimizer, outer_scale=0.0, n_inner=3, unroll=unroll)
    batches, val = [batch_of(N, k) for k in range(3)], batch_of(NV, 9)
    trail: list[tuple[list[Tensor], list[Tensor], list[Tensor | float]]] = []  # theta, theta after, gain

    def before(o: Any, args: Any, kwargs: Any) -> None:
        trail.append(([p.detach().clone() for p in model.parameters()], [], []))

    def after(o: Any, args: Any, kwargs: Any) -> None:
        for p in model.parameters():
            state, t = o.state[p], len(trail)
            trail[-1][1].append(p.detach().clone())
            adam = "adam" in kind
            root = (state["exp_avg_sq"] / (1 - 0.999**t)).sqrt() + 1e-2 if adam else None
            trail[-1][2].append(0.05 * 0.1 / (1 - 0.9**t) / root if root is not None else 0.4)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    start = copy.deepcopy(omega)
    got = moved_by(storm, batches, val)

    decay = {"sgd": 0.0, "sgd with decay": 0.3, "adam": 0.3, "adamw": 0.0}[kind]
    keep = 1 - 0.05 * 0.9 if kind == "adamw" else 1.0
    names = [name for name, _ in model.named_parameters()]

    def losses(theta: list[Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, dict(zip(names, theta, strict=True)), (pair[0],))
        return cross_entropy(logits, pair[1], reduction="none")

    theta = [t.clone().requires_grad_() for t in trail[3 - unroll][0]]
    for (old, new, gain), pair in list(zip(trail, batches, strict=True))[3 - unroll :]:
        w = start(fixed_features(model, *pair, 1))
        loss = (w * losses(theta, pair)).mean()
        g = torch.autograd.grad(loss, theta, create_graph=True)
        g = [gi + decay * ti for gi, ti in zip(g, theta, strict=True)]
        theta = [
            n + keep * (t - o) - a * (gi - gi.detach())
            for n, t, o, a, gi in zip(new, theta, old, gain, g, strict=True)
        ]
    w_val = start(fixed_features(model, *val, 1)).detach()
    outcome = (w_val * losses(theta, val)).mean()
    close(got, list(torch.autograd.grad(outcome, list(start.parameters()))))


def test_plain_sgd_unroll_matches_finite_differences() -> None:
    """Two inner steps in NumPy, omega's influence on both."""
    model, omega, lr = linear_model(), rescaler_of(features=3), 0.6
    storm = storm_of(model, omega, SGD(model.parameters(), lr), outer_scale=0.0, n_inner=2, unroll=2)
    batches, val = [batch_of(N, 1), batch_of(N, 3)], batch_of(NV, 2)
    first, second = (Reference(model, b, val) for b in batches)
    F = [fixed_features(model, *b, 1).numpy() for b in (*batches, val)]
    now = arrays(omega)
    w_val = first.weights(now, F[2])

    def outcome(o: list[np.ndarray]) -> float:
        theta = first.theta - lr * first.inner_gradient(first.theta, first.weights(o, F[0]))
        theta = theta - lr * second.inner_gradient(theta, second.weights(o, F[1]))
        return float(np.mean(w_val * first.losses(theta, first.xv, first.yv)))

    want = finite_differences(outcome, now)
    for g, expected in zip(moved_by(storm, batches, val), want, strict=True):
        np.testing.assert_allclose(g.numpy(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("n_inner", [1, 2])
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_burn_in_is_plain_training_bit_for_bit(kind: str, n_inner: int) -> None:
    """Check 7: theta, running statistics, optimizer state and random state."""
    model, omega = noisy_model().float().train(), LossRescaler()
    theirs = copy.deepcopy(model)
    make: dict[str, Callable[[nn.Module], Any]] = {
        "momentum": lambda m: SGD(m.parameters(), 0.3, momentum=0.9, weight_decay=1e-3),
        "adamw": lambda m: AdamW(m.parameters(), 1e-2),
    }
    optimizer, their_optimizer = make[kind](model), make[kind](theirs)
    storm = STORM(model, omega, optimizer, Adam(omega.parameters(), 1e-2), burn_in=4, n_inner=n_inner)
    batches = [(x.float(), y) for x, y in (batch_of(N, k) for k in range(20))]
    torch.manual_seed(5)
    results = []
    for k in range(4):
        pairs = batches[2 * k : 2 * k + n_inner]
        results.append(storm.step(pairs if n_inner > 1 else pairs[0], batches[10 + k]))
    rng = torch.get_rng_state()
    torch.manual_seed(5)
    for k in range(4):
        for x, y in batches[2 * k : 2 * k + n_inner]:
            loss = cross_entropy(theirs(x), y)
            their_optimizer.zero_grad()
            loss.backward()
            their_optimizer.step()
    assert torch.equal(rng, torch.get_rng_state())
    assert same(snapshot(model), snapshot(theirs))
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, their_optimizer.state[q][key])
    torch.testing.assert_close(results[-1].loss, loss.detach())
    assert omega.layer2.weight.any(), "omega learns meanwhile"
    assert results[-1].weights.std() > 0


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_burn_in_learns_from_the_step_that_the_weights_would_have_given(kind: str) -> None:
    results = []
    for burn_in in (0, 10):
        model, omega = noisy_model().train(), rescaler_of()
        make: dict[str, Callable[[], Any]] = {
            "momentum": lambda m=model: SGD(m.parameters(), 0.3, momentum=0.9),
            "adam": lambda m=model: Adam(m.parameters(), 1e-2),
        }
        optimizer = make[kind]()
        for k in range(2):  # a past for the optimizer's state
            optimizer.zero_grad()
            x, y = batch_of(N, 20 + k)
            cross_entropy(model(x), y).backward()
            optimizer.step()
        storm = storm_of(model, omega, optimizer, features=sample_features, burn_in=burn_in, outer_scale=0.1)
        torch.manual_seed(3)
        before = [p.detach().clone() for p in omega.parameters()]
        step = storm.step(batch_of(N, 1), batch_of(NV, 2))
        moved = [b - p.detach() for b, p in zip(before, omega.parameters(), strict=True)]
        results.append([*moved, step.val_loss, step.val_weights, step.weights, step.meta_grad_norm])
    close(results[0], results[1])


def test_inner_and_outer_updates_keep_apart() -> None:
    """Check 8."""
    model, omega = noisy_model().train(), rescaler_of()
    optimizer, meta = SGD(model.parameters(), 0.3), Adam(omega.parameters(), 1e-2)
    log: list[tuple[str, list[Tensor], list[Tensor]]] = []
    for name, o in (("inner", optimizer), ("outer", meta)):
        o.register_step_pre_hook(lambda *_, n=name: log.append((n, snapshot(model), snapshot(omega))))
        o.register_step_post_hook(lambda *_, n=name: log.append((n, snapshot(model), snapshot(omega))))
    storm = STORM(model, omega, optimizer, meta, n_inner=2)
    start = snapshot(omega)
    storm.step([batch_of(N, 1), batch_of(N, 2)], batch_of(NV, 3))
    assert [name for name, _, _ in log] == ["inner"] * 4 + ["outer"] * 2
    assert all(same(start, entry[2]) for entry in log[:5])
    assert not same(start, log[5][2])
    assert same(log[3][1], log[4][1])
    assert same(log[4][1], log[5][1])
    assert same(log[5][1], snapshot(model))


def test_meta_every_and_the_step_count() -> None:
    model, omega = noisy_model().train(), LossRescaler().double()
    storm = STORM(
        model, omega, SGD(model.parameters(), 0.3), Adam(omega.parameters(), 1e-2), meta_every=3, burn_in=2
    )
    changed = []
    for k in range(7):
        before = snapshot(omega)
        step = storm.step(batch_of(N, k), batch_of(NV, 50 + k))
        changed.append(not same(before, snapshot(omega)))
        assert (step.val_loss is not None) == (step.val_weights is not None) == changed[-1]
        assert (float(step.meta_grad_norm) > 0) == changed[-1]
        assert step.weights.shape == (N,)
    assert changed == [True, False, False, True, False, False, True]
    assert storm.state_dict()["step"] == 7


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_state_dict_continues_identically(kind: Any) -> None:
    """Check 10: through a file that holds tensors and plain numbers only."""

    def build() -> STORM:
        model, omega = noisy_model().train(), LossRescaler().double()
        options = {"momentum": 0.9} if kind is SGD else {}
        return STORM(
            model, omega, kind(model.parameters(), lr=0.05, **options), Adam(omega.parameters()), burn_in=5
        )

    def advance(storm: STORM, first: int) -> list[Tensor]:
        torch.manual_seed(first)
        for k in range(first, first + 3):
            storm.step(batch_of(N, k), batch_of(NV, 50 + k))
        return [*snapshot(storm.model), *snapshot(storm.rescaler)]

    storm = build()
    advance(storm, 0)
    file = io.BytesIO()
    torch.save(storm.state_dict(), file)
    want = advance(storm, 3)
    file.seek(0)
    other = build()
    parameters = list(other.model.parameters())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert set(other.state_dict()) == {"model", "rescaler", "optimizer", "meta_optimizer", "step"}
    assert all(p is q for p, q in zip(parameters, other.model.parameters(), strict=True))
    assert same(advance(other, 3), want)
    with pytest.raises(ValueError, match="missing"):
        other.load_state_dict({"model": {}})


def test_frozen_and_unused_parameters() -> None:
    """A frozen layer stays; a parameter that no loss touches has no gradient and does no harm."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.head = nn.Linear(D, 4), nn.Linear(4, C)
            self.unused = nn.Parameter(torch.ones(3))
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.frozen(x).tanh())
            return out

    model, omega = Model().double(), rescaler_of()
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], 1e-2, weight_decay=0.1)
    storm = STORM(model, omega, optimizer, Adam(omega.parameters()), n_inner=2, unroll=2, burn_in=1)
    frozen = model.frozen.weight.clone()
    for k in range(3):
        storm.step([batch_of(N, 2 * k), batch_of(N, 2 * k + 1)], batch_of(NV, k))
    assert torch.equal(frozen, model.frozen.weight)
    assert torch.equal(model.unused, torch.ones(3))


def test_step_works_under_no_grad_and_autocast_and_with_a_schedule() -> None:
    model, omega = noisy_model().float().train(), LossRescaler()
    optimizer = SGD(model.parameters(), 0.3, momentum=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    storm = STORM(model, omega, optimizer, Adam(omega.parameters()), burn_in=1)
    for k in range(3):
        x, y = batch_of(N, k)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            step = storm.step((x.float(), y), (x.flip(0).float(), y.flip(0)))
        schedule.step()
        assert step.loss.isfinite()
        assert float(step.meta_grad_norm) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_passes": 0}, "num_passes"),
        ({"n_inner": 0}, "n_inner"),
        ({"n_inner": 2, "unroll": 3}, "unroll"),
        ({"unroll": 0}, "unroll"),
        ({"outer_scale": -0.1}, "outer_scale"),
        ({"outer_scale": math.nan}, "outer_scale"),
        ({"combine": "add"}, "combine"),
        ({"burn_in": -1}, "burn_in"),
        ({"burn_in": 1.5}, "burn_in"),
        ({"meta_every": 0}, "meta_every"),
    ],
)
def test_storm_refuses_options(options: dict[str, Any], message: str) -> None:
    model, omega = linear_model(), LossRescaler()
    with pytest.raises(ValueError, match=message):
        STORM(model, omega, SGD(model.parameters(), 0.1), Adam(omega.parameters()), **options)


def test_storm_refuses_optimizers() -> None:
    model, omega = linear_model(), LossRescaler()
    meta = Adam(omega.parameters())
    with pytest.raises(TypeError, match="SGD, Adam, AdamW"):
        STORM(model, omega, RMSprop(model.parameters()), meta)
    for optimizer in (
        Adam(model.parameters(), amsgrad=True),
        AdamW([{"params": model.parameters(), "maximize": True}]),
        SGD(model.parameters(), 0.1, maximize=True),
    ):
        with pytest.raises(ValueError, match=r"amsgrad|maximize"):
            STORM(model, omega, optimizer, meta)
    with pytest.raises(ValueError, match="parameter of model"):
        STORM(model, omega, SGD(linear_model().parameters(), 0.1), meta)


def test_step_refuses_batches_before_it_changes_anything() -> None:
    model, omega = linear_model(), LossRescaler().double()
    good = batch_of(N, 1)
    bad = (good[0], torch.full((N,), C))
    meta = Adam(omega.parameters())
    storm = STORM(model, omega, SGD(model.parameters(), 0.1), meta, features=fixed_features, burn_in=1)
    storm.rescaler = rescaler_of(features=3)
    before = snapshot(model)
    for pair, val in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            storm.step(pair, val)
        assert same(before, snapshot(model))
    two = STORM(model, omega, SGD(model.parameters(), 0.1), meta, n_inner=2)
    for wrong in (good, [good], [good] * 3, good[0]):
        with pytest.raises(ValueError, match="n_inner = 2"):
            two.step(wrong, good)
    with pytest.raises(ValueError, match="pair"):
        storm.step([good, good, good], good)
    scalar = STORM(model, omega, SGD(model.parameters(), 0.1), meta, loss_fn=cross_entropy)
    with pytest.raises(ValueError, match=r"shape \[n\]"):
        scalar.step(good, good)
    assert same(before, snapshot(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "exact"}, "method"), ({"outer_scale": -1.0}, "outer_scale"), ({"lr": -0.1}, "lr")],
)
def test_meta_gradient_refuses(options: dict[str, Any], message: str) -> None:
    model, omega = linear_model(), rescaler_of()
    batch = batch_of(N, 1)
    F = sample_features(model, *batch)
    with pytest.raises(ValueError, match=message):
        meta_gradient(model, omega, batch, batch, **{"lr": 0.1, **options}, features_in=F, features_val=F)


def test_rescaler_refuses() -> None:
    with pytest.raises(ValueError, match="normalize"):
        LossRescaler(normalize="max")
    with pytest.raises(ValueError, match="num_features"):
        LossRescaler(0)
    with pytest.raises(ValueError, match="hidden"):
        LossRescaler(hidden=0)
    with pytest.raises(ValueError, match=r"\[n, 7\]"):
        LossRescaler()(torch.rand(4, 6))


# ------------------------------------------------------------------------------------------------ baselines


def test_small_loss_filter() -> None:
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0])
    assert SmallLossFilter(0.5)(losses).tolist() == pytest.approx([5 / 3, 5 / 3, 0, 5 / 3, 0])
    assert SmallLossFilter(0.0)(losses).tolist() == [1.0] * 5
    assert int((SmallLossFilter(0.4)(torch.ones(5)) == 0).sum()) == 2, "equal losses: still exactly two"
    assert not SmallLossFilter(0.4)(losses.requires_grad_()).requires_grad
    for rho in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="rho"):
            SmallLossFilter(rho)
    with pytest.raises(ValueError, match="shape"):
        SmallLossFilter(0.1)(torch.ones(2, 2))


def test_gce_matches_the_formula_and_its_limits() -> None:
    logits = torch.randn(6, C, generator=generator(0), dtype=torch.float64, requires_grad=True)
    y = torch.randint(C, (6,), generator=generator(1))
    p = np_softmax(logits.detach().numpy())[np.arange(6), y.numpy()]
    want = (1 - p**0.7) / 0.7
    for reduction, expected in (("none", want), ("mean", want.mean()), ("sum", want.sum())):
        got = GCELoss(reduction=reduction)(logits, y)
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(GCELoss(1e-9, "none")(logits, y).detach().numpy(), -np.log(p), rtol=1e-7)
    np.testing.assert_allclose(GCELoss(1.0, "none")(logits, y).detach().numpy(), 1 - p, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda z: GCELoss()(z, y), (logits,))
    far = torch.tensor([[500.0, 0.0]], requires_grad=True)
    loss = GCELoss()(far, torch.tensor([1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 0.7)
    assert far.grad is not None
    assert far.grad.isfinite().all()
    for options in ({"q": 0.0}, {"q": 1.1}, {"reduction": "max"}):
        with pytest.raises(ValueError, match=r"q|reduction"):
            GCELoss(**options)


def test_l2rw_matches_numpy_and_leaves_no_trace() -> None:
    model = linear_model()
    batch, clean = batch_of(N, 1), batch_of(NV, 2)
    ref = Reference(model, batch, clean)
    g = np.mean(ref.gradients(ref.W, ref.b, ref.xv, ref.yv), axis=0)
    u = np.maximum(0, [gi @ g for gi in ref.gradients(ref.W, ref.b, ref.x, ref.y)])
    np.testing.assert_allclose(l2rw_weights(model, batch, clean).numpy(), u / u.sum(), rtol=1e-9)
    assert (u == 0).any()
    assert (u > 0).any()
    noisy = noisy_model().train()
    before, rng = snapshot(noisy), torch.get_rng_state()
    with torch.no_grad():
        w = l2rw_weights(noisy, batch, clean)
    assert float(w.sum()) == pytest.approx(1)
    assert same(before, snapshot(noisy))
    assert torch.equal(rng, torch.get_rng_state())
    x, y = batch_of(1, 3)
    probabilities = model(x).softmax(1).detach()
    wrong = (y + 1) % C
    assert float(probabilities[0, wrong]) < 1
    opposed = nn.Linear(D, 2).double()
    with torch.no_grad():
        opposed.weight.zero_()
        opposed.bias.zero_()
    pair = l2rw_weights(opposed, (x, torch.tensor([0])), (x, torch.tensor([1])))
    assert pair.tolist() == [0.0], "no sample agrees: all zero"


def test_meta_weight_net_and_its_trainer() -> None:
    net = MetaWeightNet(3).double()
    losses = torch.tensor([0.1, 2.0], dtype=torch.float64, requires_grad=True)
    w = net(losses)
    W1, b1, W2, b2 = arrays(net)
    want = [
        1 / (1 + math.exp(-float((W2 @ np.maximum(W1[:, 0] * v + b1, 0))[0] + b2[0]))) for v in (0.1, 2.0)
    ]
    np.testing.assert_allclose(w.detach().numpy(), want, rtol=1e-12)
    assert torch.autograd.grad(w.sum(), losses, allow_unused=True) == (None,)
    with pytest.raises(ValueError, match="shape"):
        net(torch.ones(2, 1).double())
    with pytest.raises(ValueError, match="hidden"):
        MetaWeightNet(0)


def test_meta_weight_trainer_is_the_meta_part_with_trusted_validation() -> None:
    model, lr = noisy_model().train(), 0.5
    torch.manual_seed(1)
    net = MetaWeightNet(3).double()
    start = copy.deepcopy(net)
    batch, clean = batch_of(N, 1), batch_of(NV, 2)
    trainer = MetaWeightTrainer(model, net, SGD(model.parameters(), lr), SGD(net.parameters(), 1.0))
    losses = sample_losses(model, *batch)
    rng = torch.get_rng_state()
    torch.testing.assert_close(losses, cross_entropy(model(batch[0]), batch[1], reduction="none").detach())
    after = torch.get_rng_state()
    torch.set_rng_state(rng)
    theta = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    inner = (start(losses) * losses_of(model, theta, batch)).mean()
    grads = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
    moved = {k: p - lr * g for (k, p), g in zip(theta.items(), grads, strict=True)}
    torch.set_rng_state(after)
    want = torch.autograd.grad(losses_of(model, moved, clean).mean(), list(start.parameters()))
    torch.set_rng_state(rng)
    before = [p.detach().clone() for p in net.parameters()]
    step = trainer.step(batch, clean)
    close([b - p.detach() for b, p in zip(before, net.parameters(), strict=True)], list(want))
    assert step.val_weights is not None
    assert torch.equal(step.val_weights, torch.ones(NV).double())
    assert float(step.outer_grad_norm) == 0
    with pytest.raises(ValueError, match="outer_scale"):
        MetaWeightTrainer(model, net, SGD(model.parameters(), lr), SGD(net.parameters(), 1.0), outer_scale=1)


def losses_of(model: nn.Module, theta: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
    state = {**theta, **{k: b.clone() for k, b in model.named_buffers()}}
    return cross_entropy(torch.func.functional_call(model, state, (pair[0],)), pair[1], reduction="none")


# ---------------------------------------------------------------------------------------------- label noise


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 60),
    classes=st.integers(2, 6),
    rate=st.floats(0, 0.99),
    kind=st.sampled_from(["symmetric", "pair", "class_dependent", "instance"]),
    seed=st.integers(0, 10**6),
)
def test_noise_is_exact_and_never_the_true_class(
    n: int, classes: int, rate: float, kind: str, seed: int
) -> None:
    """Check 9."""
    y = torch.randint(classes, (n,), generator=generator(seed))
    x = torch.randn(n, 2, generator=generator(seed + 1))

    def flip() -> tuple[Tensor, Tensor]:
        if kind == "instance":
            return inject_instance_noise(x, y, rate, classes, generator(7))
        return inject_label_noise(y, rate, classes, kind, generator(7))

    before = y.clone()
    noisy, flipped = flip()
    assert torch.equal(y, before)
    assert int(flipped.sum()) == round(rate * n)
    assert torch.equal(flipped, noisy != y)
    assert noisy.dtype == y.dtype
    assert bool(((noisy >= 0) & (noisy < classes)).all())
    if kind == "pair":
        assert torch.equal(noisy[flipped], (y[flipped] + 1) % classes)
    assert torch.equal(flip()[0], noisy)


def test_symmetric_noise_is_uniform_over_the_others() -> None:
    y = torch.zeros(30_000, dtype=torch.long)
    noisy, flipped = inject_label_noise(y, 0.5, 4, generator=generator(0))
    counts = torch.bincount(noisy, minlength=4)
    assert counts[0] == 15_000
    assert counts[1:].tolist() == pytest.approx([5000] * 3, rel=0.05)
    assert int(flipped[:15_000].sum()) == pytest.approx(7500, rel=0.05), "a random subset"


def test_class_dependent_noise_has_one_law_per_class() -> None:
    y = torch.arange(4).repeat(5000)
    noisy, _ = inject_label_noise(y, 0.6, 4, "class_dependent", generator(3))
    table = torch.stack([torch.bincount(noisy[y == c], minlength=4) for c in range(4)]).double()
    table.fill_diagonal_(0)
    law = table / table.sum(1, keepdim=True)
    off = law[~torch.eye(4, dtype=torch.bool)].view(4, 3)
    assert float(off.std(1).min()) > 0.05, "far from uniform"
    again, _ = inject_label_noise(y, 0.6, 4, "class_dependent", generator(4))
    assert not torch.equal(noisy, again)


def test_global_generator_and_dtype() -> None:
    y = torch.zeros(10, dtype=torch.int32)
    torch.manual_seed(0)
    first = inject_label_noise(y, 0.5, 3)[0]
    second = inject_label_noise(y, 0.5, 3)[0]
    torch.manual_seed(0)
    assert torch.equal(first, inject_label_noise(y, 0.5, 3)[0])
    assert not torch.equal(first, second)
    assert first.dtype == torch.int32


def test_instance_noise_follows_resemblance() -> None:
    """Three classes on a line: what lies between two of them is flipped, and to the nearer one."""
    g = generator(0)
    y = torch.arange(3).repeat(400)
    x = 2.0 * y[:, None] + torch.randn(1200, 1, generator=g)
    noisy, flipped = inject_instance_noise(x, y, 0.2, 3, generator(1))
    nearest_other = torch.where(y == 1, torch.where(x[:, 0] > 2, 2, 0), 1)
    assert float((noisy[flipped] == nearest_other[flipped]).double().mean()) > 0.9
    depth = (x[:, 0] - 2 * y).abs()
    inward = torch.where(y == 1, depth, torch.where(y == 0, x[:, 0], 4 - x[:, 0]))
    assert float(inward[flipped].mean()) > float(inward[~flipped].mean()) + 0.3
    flat = inject_instance_noise(x, y, 0.2, 3, generator(1), sharpness=1e-9)[1]
    assert float(inward[flat].mean()) == pytest.approx(float(inward.mean()), abs=0.25)
    alone = inject_instance_noise(x[:5], torch.zeros(5, dtype=torch.long), 0.6, 3, generator(2))[0]
    assert int((alone != 0).sum()) == 3, "no other class to resemble: any of them"


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.tensor([0, 3]), {}, r"0\.\.2"),
        (torch.tensor([0, -1]), {}, r"0\.\.2"),
        (torch.tensor([0, 1]), {"rate": 1.0}, "rate"),
        (torch.tensor([0, 1]), {"rate": -0.1}, "rate"),
        (torch.tensor([0, 0]), {"num_classes": 1}, "num_classes"),
        (torch.tensor([[0, 1]]), {}, "shape"),
        (torch.tensor([0.0, 1.0]), {}, "integer"),
        (torch.tensor([0, 1]), {"kind": "pairs"}, "kind"),
    ],
)
def test_noise_refuses(y: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inject_label_noise(y, **{"rate": 0.5, "num_classes": 3, **options})
    if "kind" not in options:
        with pytest.raises(ValueError, match=message):
            inject_instance_noise(torch.zeros(len(y), 1), y, **{"rate": 0.5, "num_classes": 3, **options})


def test_instance_noise_refuses() -> None:
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="length"):
        inject_instance_noise(torch.zeros(3, 1), y, 0.5, 2)
    with pytest.raises(ValueError, match="sharpness"):
        inject_instance_noise(torch.zeros(2, 1), y, 0.5, 2, sharpness=0.0)


# ---------------------------------------------------------------------------------------------- integration


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Share of (positive, negative) pairs that are in order, ties half."""
    a, b = score[positive], score[~positive]
    return float(np.mean((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_digits_wrong_labels_lose_their_weight(seed: int) -> None:
    """Check 11: 40 % symmetric noise, burn-in 300, outer_scale 0.01."""
    data = load_digits("flat", test_size=597)
    g = generator(seed)
    y, flipped = inject_label_noise(data.y_train, 0.4, 10, generator=g)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    omega = LossRescaler()
    storm = STORM(
        model,
        omega,
        SGD(model.parameters(), 0.3),
        Adam(omega.parameters(), 1e-2),
        burn_in=300,
        outer_scale=0.01,
    )
    for _ in range(400):
        a, b = (torch.randperm(1200, generator=g)[:32] for _ in range(2))
        storm.step((data.x_train[a], y[a]), (data.x_train[b], y[b]))
    w = omega(sample_features(model, data.x_train, y)).detach().numpy()
    wrong = flipped.numpy()
    assert w[~wrong].mean() > w[wrong].mean()
    assert auc(w, ~wrong) > 0.9


def test_every_public_name_is_exported() -> None:
    for name in storm_module.__all__:
        assert getattr(weighting, name) is getattr(storm_module, name)
        assert name in weighting.__all__
    assert "MetaWeightTrainer" in weighting.__all__
