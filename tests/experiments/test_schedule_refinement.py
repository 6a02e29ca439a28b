"""The page *Schedule refinement*: tasks, runs and charts against independent derivations, claims on hand-made logs."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normviz.experiments.schedule_refinement import EXPERIMENT, PRESETS, Knobs
from normviz.experiments.schedule_refinement.convex_tasks import (
    ConvexTask,
    absolute_minimum,
)
from normviz.experiments.schedule_refinement.first_run import FirstRun, task_of
from normviz.experiments.schedule_refinement.frames import frames
from normviz.experiments.schedule_refinement.guarantees import guarantee
from normviz.experiments.schedule_refinement.knobs import ARMS, FIRST_RUN
from normviz.experiments.schedule_refinement.multipliers import multipliers
from normviz.experiments.schedule_refinement.network_tasks import _noisy, digits_task
from normviz.experiments.schedule_refinement.refinement_curves import (
    CURVES,
    GUARANTEES,
    POINTS,
    SLIDERS,
    guarantee_figure,
    refinement_figure,
)
from normviz.experiments.schedule_refinement.sweep import ScheduleArm, Sweep
from normviz.figures import Figure
from normviz.frame import Frame, FrameLog
from normviz.schedules import refine_schedule, refinement_weights, theory_learning_rates
from tests.figures.test_every_figure import check_scales

vl_convert = pytest.importorskip("vl_convert")

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def refined_by_hand(norms: Array, power: float) -> Array:
    """w_t times the weights that come after it, divided by the largest, as two loops."""
    w = [float(g) ** -power for g in norms]
    m = [w[t] * math.fsum(w[t + 1 :]) for t in range(len(w))]
    return np.array([value / max(m) for value in m])


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
def test_the_minimum_of_absolute_regression_has_a_subgradient_zero(seed: int) -> None:
    task = ConvexTask("absolute", seed, CPU)
    rows, labels = task.rows.numpy(), task.labels.numpy()
    x = task.minimiser
    residual = rows @ x - labels
    exact = np.abs(residual) < 1e-8
    assert exact.sum() == rows.shape[1], "a vertex of the linear program"
    rest = (np.sign(residual[~exact])[:, None] * rows[~exact]).sum(0)
    signs = np.linalg.solve(rows[exact].T, -rest)
    assert np.abs(signs).max() <= 1 + 1e-8, "signs of the rows that fit exactly, in [-1, 1]"
    assert task.minimum == pytest.approx(float(np.abs(residual).mean()), abs=1e-12)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.1):
        other = x + scale * rng.standard_normal(x.shape)
        assert np.abs(rows @ other - labels).mean() >= task.minimum - 1e-12


def test_the_minimum_of_logistic_regression_has_gradient_zero() -> None:
    task = ConvexTask("logistic", 1, CPU)
    x = torch.from_numpy(task.minimiser).requires_grad_()
    loss = torch.log1p(torch.exp(-task.labels * (task.rows @ x))).mean()
    (gradient,) = torch.autograd.grad(loss, x)
    assert float(gradient.norm()) < 1e-10
    assert float(loss.detach()) == pytest.approx(task.minimum, abs=1e-12)


def test_a_median_is_the_minimum_of_absolute_regression_on_ones() -> None:
    labels = np.array([3.0, -1.0, 7.0, 0.5, 2.0])
    x, value = absolute_minimum(np.ones((5, 1)), labels)
    assert x[0] == pytest.approx(2.0)
    assert value == pytest.approx(np.abs(labels - 2.0).mean())


@pytest.mark.parametrize("kind", ["absolute", "logistic"])
def test_no_batch_has_a_larger_gradient_than_the_bound(kind: str) -> None:
    task = ConvexTask(kind, 2, CPU)
    weights = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights.requires_grad_()
    for step in range(20):
        (g,) = torch.autograd.grad(task.losses(weights, 2, 1, step).sum(), weights)
        assert float(g.norm(dim=1).max()) <= task.G + 1e-9


def test_losses_of_many_networks_are_those_of_each() -> None:
    task = digits_task(1, 0.2, CPU)
    many = torch.stack([task.start(1, 0), task.start(1, 1), 0.5 * task.start(2, 0)])
    assert not torch.equal(many[0], many[1]), "each run has its own start"
    assert torch.equal(task.start(1, 1), task.start(1, 1))
    found = task.losses(many, 1, 1, 4)
    x, y = task._batches[1](1, 4)
    for weights, loss in zip(many, found, strict=True):
        sizes = [(64, 128), (128, 128), (128, 10)]
        h, place = x.flatten(1).double(), 0
        for layer, (a, b) in enumerate(sizes):
            W = weights[place : place + a * b].view(b, a).double()
            bias = weights[place + a * b : place + a * b + b].double()
            place += a * b + b
            h = h @ W.T + bias
            h = h.relu() if layer < 2 else h
        expected = (h.logsumexp(1) - h[torch.arange(len(y)), y]).mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_noisy_labels_are_other_classes() -> None:
    y = torch.arange(10).repeat(400)
    noisy = _noisy(y, 10, 0.4, torch.Generator().manual_seed(0))
    share = float((noisy != y).double().mean())
    assert abs(share - 0.4) < 0.04
    assert int(noisy.min()) == 0
    assert int(noisy.max()) == 9
    assert torch.equal(_noisy(y, 10, 0.0, torch.Generator().manual_seed(0)), y)


# -- both runs ---------------------------------------------------------------------------------------------------------


def small(**values: object) -> Knobs:
    return Knobs.parse(
        {"task": "absolute", "optimizer": "sgd", "steps": 40, "tau": 0.0, "rates": 3, "seeds": 1, **values}
    )


def by_hand(task: ConvexTask, seed: int, run: int, rates: Array) -> tuple[list[float], Array]:
    """Subgradient descent on the batches of a run, in NumPy: norms of the subgradients, and the last point."""
    x, norms = np.zeros(20), []
    for step, rate in enumerate(rates):
        rows, labels = (part.numpy() for part in task._batches[run](seed, step))
        g = (np.sign(rows @ x - labels)[:, None] * rows).mean(0)
        norms.append(float(np.linalg.norm(g)))
        x = x - rate * g
    return norms, x


def test_both_runs_are_subgradient_descent_by_hand() -> None:
    knobs = small(schedules="refined,linear,flat")
    task = ConvexTask("absolute", 0, CPU)
    base = task.D / (task.G * math.sqrt(40))
    linear = 1 - np.arange(1, 41) / 40
    norms, _ = by_hand(task, 0, 0, base * linear)
    log = FrameLog(frames(knobs, "cpu"))
    recorded = log.scalars("norm")["value"].to_numpy()
    np.testing.assert_allclose(recorded, norms, rtol=1e-10)
    shapes = {"refined": refined_by_hand(np.array(norms), 2.0), "linear": linear, "flat": np.ones(40)}
    for kind, shape in shapes.items():
        for i, factor in enumerate((0.5, 1.0, 2.0)):
            _, x = by_hand(task, 0, 1, base * factor * shape)
            gap = float(np.abs(task.rows.numpy() @ x - task.labels.numpy()).mean()) - task.minimum
            (found,) = (e.value[i] for e in log.arrays("by_rate") if e.arm == ARMS[kind])
            assert found == pytest.approx(gap, rel=1e-5), (kind, factor)


def test_adam_takes_l1_norms_and_their_inverse() -> None:
    knobs = small(optimizer="adam", schedules="refined")
    first = FirstRun(knobs, 0, CPU)
    for step in range(40):
        weights = first.weights.detach().numpy().copy()
        rows, labels = (part.numpy() for part in first.task._batches[0](0, step))  # type: ignore[attr-defined]
        g = (np.sign(rows @ weights - labels)[:, None] * rows).mean(0)
        first.step(step)
        assert first.norms[-1] == pytest.approx(float(np.abs(g).sum()), rel=1e-10)
    np.testing.assert_allclose(
        multipliers("refined", knobs, first.norms), refined_by_hand(np.array(first.norms), 1.0), atol=1e-12
    )


def test_multipliers_are_the_formulas() -> None:
    knobs = small()
    t = np.arange(1, 41)
    expected = {
        "linear": 1 - t / 40,
        "cosine": (1 + np.cos(np.pi * (t - 1) / 40)) / 2,
        "inverse_sqrt": np.sqrt(4 / (4 + t)),
        "inverse_time": 4 / (4 + t),
        "flat": np.ones(40),
    }
    for kind, curve in expected.items():
        np.testing.assert_allclose(multipliers(kind, knobs, offset=4.0), curve, atol=1e-12)


def test_guarantees_are_the_closed_forms() -> None:
    knobs, task = small(), ConvexTask("absolute", 0, CPU)
    norms = np.linspace(3.0, 1.0, 40)
    rates = [0.01, 0.02]

    def of(kind: str) -> float:
        return guarantee(kind, knobs, task, norms.tolist(), rates)

    assert of("linear") == pytest.approx(task.D * task.G / math.sqrt(40))
    assert of("refined") == pytest.approx(task.D / math.sqrt((norms**-2.0).sum()))
    bounds = []
    for rate in rates:  # the paper's form: two sums, then a sum over all k of tails
        total, tail = 40 * rate, [rate * (40 - k) for k in range(41)]
        squares = [rate**2 * task.G**2 * (40 - k) for k in range(40)]
        last = sum(rate / (tail[k + 1] * tail[k]) * squares[k] for k in range(39)) / 2
        bounds.append(task.D**2 / (2 * total) + squares[0] / (2 * total) + last)
    assert of("flat") == pytest.approx(min(bounds))


@pytest.mark.parametrize(("data", "values"), [("mnist1d", 40), ("mnist", 784)])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str, values: int) -> None:
    knobs = small(task="digits", data=data, schedules="refined,linear", rates=1)
    task, _ = task_of(knobs, 0, CPU)
    assert task.start(0, 0).shape == (values * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10,)
    digits_task.cache_clear()  # what was cached must not outlive the stand-in
    log = FrameLog(frames(knobs, "cpu"))
    digits_task.cache_clear()
    assert not log.events
    assert set(log.members.values()) == {40}
    assert small(task="text", data=data).missing() == ""


def test_a_schedule_whose_every_rate_explodes_diverges_and_the_others_go_on() -> None:
    knobs = small(task="digits", schedules="linear,flat", rates=1)
    sweep = Sweep(knobs, ["linear", "flat"], (), 0, CPU)
    with torch.no_grad():
        sweep.weights[0].fill_(float("nan"))
    arms = [ScheduleArm(kind, sweep) for kind in ("linear", "flat")]
    with pytest.raises(Exception, match="no learning rate of its grid"):
        arms[0].step(0)
    assert arms[1].step(0) == {}
    assert math.isfinite(float(arms[1].measured(1)["best"]))
    assert math.isinf(float(arms[0].measured(1)["best"]))


def test_a_first_run_that_diverges_leaves_nothing_to_refine_from(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ConvexTask.losses

    def losses(self: ConvexTask, weights: torch.Tensor, seed: int, run: int, step: int) -> torch.Tensor:
        found = real(self, weights, seed, run, step)
        return found * math.inf if run == 0 and step == 5 else found

    monkeypatch.setattr(ConvexTask, "losses", losses)
    log = FrameLog(frames(small(schedules="refined,linear"), "cpu"))
    assert log.diverged == {(FIRST_RUN, 0), (ARMS["refined"], 0)}
    assert log.members[ARMS["linear"], 0] == 40
    refined = next(event for event in log.events if event.arm == ARMS["refined"])
    assert "the first run diverged" in refined.text


# -- charts ------------------------------------------------------------------------------------------------------------


def vega_norms(values: Mapping[str, float]) -> Array:
    """The norm curve that the sliders give, in NumPy."""
    u = np.linspace(0, 1, POINTS)
    start, knee, finish, turn = (values[name] for name in ("start", "knee", "finish", "turn"))
    return np.interp(u, [0.0, knee, turn, 1.0], [start, 1.0, 1.0, finish])


def drawn(figure: Figure, values: Mapping[str, float]) -> dict[str, list[float]]:
    """The values by curve that the browser computes for these sliders: the chart's marks are written as text."""
    assert figure.spec is not None
    assert figure.data is not None
    spec = dict(figure.spec)
    spec["params"] = [
        {"name": p["name"], "value": values.get(p["name"], p.get("value"))} for p in spec["params"]
    ]
    spec["data"] = {"values": figure.data.to_dict("records")}
    spec["mark"] = {"type": "text"}
    spec["transform"] = [
        *spec["transform"],
        {"calculate": "datum.arm + '=' + format(datum.value, '.9e')", "as": "shown"},
    ]
    spec["encoding"] = {"text": {"field": "shown", "type": "nominal"}}
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    found: dict[str, list[float]] = {}
    for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg):
        name, value = html.unescape(text).replace("\u2212", "-").split("=")
        found.setdefault(name, []).append(float(value))
    return found


SETTINGS = [
    {name: value for name, (_, value, *_) in SLIDERS.items()} | {"power": 2.0},
    {"start": 1.0, "knee": 0.2, "finish": 6.0, "turn": 0.6, "power": 1.0},
    {"start": 0.3, "knee": 0.4, "finish": 0.05, "turn": 0.5, "power": 2.0},
]


@pytest.mark.parametrize("values", SETTINGS)
def test_the_schedule_in_the_browser_is_the_librarys(values: dict[str, float]) -> None:
    norms = vega_norms(values)
    t = np.arange(1, POINTS + 1)
    weights = refinement_weights(norms.tolist(), "l2" if values["power"] == 2 else "l1")
    expected = {
        "norm ÷ largest": norms / norms.max(),
        "refined": refine_schedule(weights).numpy(),
        "linear": 1 - t / POINTS,
        "cosine": (1 + np.cos(np.pi * (t - 1) / POINTS)) / 2,
    }
    found = drawn(refinement_figure(), values)
    assert set(found) == set(CURVES) == set(expected)
    for name, curve in expected.items():
        # The window sorts its rows from the last to the first step.
        either = min(np.abs(np.array(found[name])[::way] - curve).max() for way in (1, -1))
        assert either < 1e-6, name


@pytest.mark.parametrize("values", SETTINGS)
def test_guarantees_in_the_browser_are_the_librarys(values: dict[str, float]) -> None:
    norms = vega_norms(values)
    found = drawn(guarantee_figure(), values)
    assert list(found) == list(GUARANTEES)
    expected = [
        theory_learning_rates(POINTS, G=float(norms.max()))[1],
        theory_learning_rates(norms.tolist(), weights=[1.0] * POINTS)[1],
        theory_learning_rates(norms.tolist())[1],
    ]
    assert [value for (value,) in found.values()] == pytest.approx(expected, rel=1e-6)
    assert expected[2] <= expected[1] * (1 + 1e-12) <= expected[0] * (1 + 1e-9)


def test_constant_norms_draw_linear_decay_and_early_falls_a_warm_up() -> None:
    flat = {"start": 1.0, "knee": 0.1, "finish": 1.0, "turn": 0.7, "power": 2.0}
    refined = sorted(drawn(refinement_figure(), flat)["refined"], reverse=True)
    np.testing.assert_allclose(refined, (POINTS - np.arange(1, POINTS + 1)) / (POINTS - 1), atol=1e-8)
    early = drawn(refinement_figure(), flat | {"start": 5.0})["refined"]
    assert 0.05 < min(int(np.argmax(early)), POINTS - 1 - int(np.argmax(early))) / POINTS < 0.15


def log_of_a_run() -> tuple[FrameLog, Knobs]:
    knobs = small(schedules="refined,linear,cosine,inverse_sqrt,flat", seeds=2)
    return FrameLog(frames(knobs, "cpu")), knobs


def test_charts_show_what_was_run() -> None:
    log, knobs = log_of_a_run()
    figures = EXPERIMENT.figures(log, knobs)
    for figure in figures.values():
        assert "nothing is measured" not in figure.alt, figure.title
        assert len(figure.title) <= 40
        assert len(figure.look_for.split()) <= 13
        check_scales(figure)
    grid = figures["grid"].data
    assert grid is not None
    for arm in ("Linear", "Flat"):
        own = [entry.value.astype(float) for entry in log.arrays("by_rate") if entry.arm == arm]
        np.testing.assert_allclose(grid[grid["arm"] == arm]["mean"], np.mean(own, axis=0), rtol=1e-6)
    schedule = figures["schedule"].data
    assert schedule is not None
    linear = schedule[schedule["arm"] == "Linear"]
    np.testing.assert_allclose(linear["mean"], 1 - linear["x"] / 40, atol=1e-6)


# -- claims ------------------------------------------------------------------------------------------------------------


def test_claims_measure_what_they_say() -> None:
    claims = {claim.id: claim for claim in EXPERIMENT.claims}

    def log(**best: tuple[float, ...]) -> FrameLog:
        made = []
        for name, values in best.items():
            kind, _, quantity = name.partition("__")
            arm = ARMS.get(kind, FIRST_RUN)
            made += [
                Frame(step, arm, seed, {quantity or "best": value})
                for seed, value in enumerate(values)
                for step in (0, 1000 if kind != "first" else 0)
            ]
        return FrameLog(made)

    def outcome(id: str, **best: tuple[float, ...]) -> str:
        claim = claims[id]
        preset = PRESETS[claim.preset]
        knobs = Knobs.parse(
            {**preset.knobs, "steps": 1000 if preset.slug in ("worst-case", "logistic") else 300}
        )
        knobs = Knobs.parse({**knobs.model_dump(), "seeds": 3, "steps": claim.given["steps"]})
        scale = log(**best)
        return claim.verdict(scale, knobs).outcome

    assert (
        outcome("refinement-gains-on-text", refined=(1.0, 1.0, 1.0), linear=(1.05, 1.06, 1.05))
        == "reproduced"
    )
    assert (
        outcome("refinement-gains-on-text", refined=(1.05, 1.06, 1.05), linear=(1.0, 1.0, 1.0)) == "opposite"
    )
    assert (
        outcome("refinement-does-no-harm", refined=(1.0, 1.01, 1.0), linear=(1.0, 1.0, 1.0)) == "reproduced"
    )
    rivals = {"flat": (2.0, 2.1, 2.0), "inverse_sqrt": (1.5, 1.5, 1.6), "inverse_time": (3.0, 3.1, 3.0)}
    assert outcome("linear-beats-no-end-at-zero", linear=(1.0, 1.1, 1.0), **rivals) == "reproduced"
    rivals["inverse_sqrt"] = (1.0, 1.1, 1.0)
    assert outcome("linear-beats-no-end-at-zero", linear=(1.0, 1.1, 1.0), **rivals) == "no effect"
    assert outcome("warm-up-appears", refined__peak=(0.1, 0.12, 0.11)) == "reproduced"
    assert outcome("warm-up-appears", refined__peak=(0.0, 0.0, 0.0)) == "no effect"
    assert outcome("vanishing-norms-peak-late", refined__peak=(0.7, 0.72, 0.71)) == "reproduced"
    assert outcome("vanishing-norms-peak-late", refined__peak=(0.0, 0.01, 0.0)) == "no effect"


def test_knobs_count_networks_and_give_advice() -> None:
    knobs = Knobs.parse(PRESETS["worst-case"].knobs)
    assert knobs.networks() == 1 + 9 * (4 + 2 * 2)
    assert knobs.factors()[4] == 1.0
    assert knobs.factors()[-1] / knobs.factors()[0] == 2.0**8
    assert Knobs(optimizer="adam").norm_type() == "l1"
