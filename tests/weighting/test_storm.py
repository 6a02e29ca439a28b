"""A whole step of STORM: Algorithm 1, momentum and Adam, unrolled steps, burn-in, state, refusals."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, RMSprop

from normviz import weighting
from normviz.data import load_digits
from normviz.weighting import storm as storm_module
from normviz.weighting.storm import STORM, LossRescaler, inject_label_noise, meta_gradient, sample_features
from tests.weighting.storm_reference import (
    NV,
    C,
    D,
    N,
    Reference,
    arrays,
    batch_of,
    close,
    finite_differences,
    fixed_features,
    generator,
    linear_model,
    noisy_model,
    rescaler_of,
    same,
    snapshot,
)

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
