"""The page *LoRA limits*: task, training, costs, tables against independent derivations; claims on made logs."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from normviz.adapters import critical_radius, feature_rank, polynomial_relative_error, required_degree
from normviz.adapters.exp_polynomial import exp_polynomial
from normviz.experiments.lora_limits import EXPERIMENT, PRESETS, Knobs
from normviz.experiments.lora_limits.adapter_task import CHANNELS, AdapterTask, build_task
from normviz.experiments.lora_limits.cost_fit import exponent
from normviz.experiments.lora_limits.degree_table import columns, needed_degrees, relative_errors
from normviz.experiments.lora_limits.frames import certificate_ratios
from normviz.experiments.lora_limits.gradient_cost import cost_at, counted
from normviz.experiments.lora_limits.knobs import CHEBYSHEV, EXACT, KEPT, TAYLOR
from normviz.experiments.lora_limits.learners import Learner, Polynomial
from normviz.experiments.lora_limits.limit_curves import (
    COLUMNS_OF,
    STRETCH,
    THRESHOLD,
    critical_norm_figure,
    rank_figure,
    spectrum_figure,
    spectrum_of,
)
from normviz.experiments.lora_limits.recorded import DEGREES
from normviz.frame import Frame, FrameLog
from tests.figures.test_every_figure import check_scales

vl_convert = pytest.importorskip("vl_convert")

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"length": 64, "steps": 10, "seeds": 1, "longest_exact": "1024", "longest": "4096"}


@pytest.fixture(scope="module")
def log() -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**SMALL), "cpu"))


def task_of(**values: Any) -> tuple[Knobs, AdapterTask]:
    knobs = Knobs(**{**SMALL, **values})
    return knobs, build_task(knobs, 3, CPU)


def softmax_attention(q: Any, k: Any, v: Any, tau: float) -> Any:
    """Row by row, without a matrix."""
    rows = []
    for query in q:
        weights = [math.exp(tau * float(np.dot(query, key))) for key in k]
        rows.append(sum(w * value for w, value in zip(weights, v, strict=True)) / sum(weights))
    return np.array(rows)


# ---- the task


@pytest.mark.parametrize(("scale", "adapt"), [("practice", "qv"), ("theory", "qkv")])
def test_student_and_teacher_have_their_radii(scale: str, adapt: str) -> None:
    knobs, task = task_of(scale=scale, adapt=adapt, start_radius=1.3, teacher_radius=4.0, head_dim=3)
    assert task.tau == pytest.approx(1 / 3 if scale == "theory" else 3**-0.5)
    x = task.x.numpy()
    q, k = (x @ task.weights[name].numpy().T for name in "qk")
    longest = max(math.hypot(*row) for row in q) * max(math.hypot(*row) for row in k)
    assert task.tau * longest == pytest.approx(1.3, rel=1e-12)
    assert task.radius == pytest.approx(4.0, rel=1e-6)
    assert Learner("exact", knobs, task, 3).radius() == pytest.approx(1.3, rel=1e-12), (
        "adapters start at zero"
    )


def test_a_teacher_like_the_student_differs_in_its_values_alone() -> None:
    _, task = task_of(start_radius=2.0, teacher_radius=0.5)
    x = task.x.numpy()
    q, k = (x @ task.weights[name].numpy().T for name in "qk")
    f = np.exp(task.tau * q @ k.T)
    f /= f.sum(1, keepdims=True)
    solved, *_ = np.linalg.lstsq(f @ x, task.target.numpy(), rcond=None)
    np.testing.assert_allclose(f @ x @ solved, task.target.numpy(), atol=1e-9)


def test_the_loss_is_that_of_attention_counted_row_by_row() -> None:
    knobs, task = task_of()
    learner = Learner("exact", knobs, task, 3)
    q, k, v = (task.x.numpy() @ task.weights[name].numpy().T for name in "qkv")
    output = softmax_attention(q, k, v, task.tau)
    found = learner.gradients()
    np.testing.assert_allclose(found.output.numpy(), output, atol=1e-12)
    expected = 0.5 * ((output - task.target.numpy()) ** 2).sum()
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)


# ---- training


@pytest.mark.parametrize("adapt", ["qv", "qkv"])
def test_training_in_closed_form_is_training_by_autograd(adapt: str) -> None:
    knobs, task = task_of(adapt=adapt, rank=2, learning_rate=0.05)
    learner = Learner("exact", knobs, task, 3)
    pairs = {n: [p.detach().clone().requires_grad_() for p in pair] for n, pair in learner.adapters.items()}
    adam = torch.optim.Adam([p for pair in pairs.values() for p in pair], lr=0.05)
    losses = []
    for _ in range(5):
        W = dict(task.weights)
        for name, (A, B) in pairs.items():
            W[name] = W[name] + knobs.alpha / 2 * B @ A
        q, k, v = (task.x @ W[name].T for name in "qkv")
        loss = 0.5 * (torch.softmax(task.tau * q @ k.T, 1) @ v - task.target).square().sum()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(2 * loss.item() / task.target.numel())
    assert [learner.update() for _ in range(5)] == pytest.approx(losses, rel=1e-9)
    for name, pair in pairs.items():
        for ours, theirs in zip(learner.adapters[name], pair, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-7, atol=1e-10)


def test_arms_of_a_seed_start_alike_and_the_kept_degree_is_even() -> None:
    knobs, task = task_of()
    one, kept = Learner("taylor", knobs, task, 3), Learner("kept", knobs, task, 3)
    for name in "qv":
        assert torch.equal(one.adapters[name][0], kept.adapters[name][0])
    first = kept.polynomial()
    assert first is not None
    assert first.degree == 2 * math.ceil(required_degree(0.8, 1e-3) / 2)
    assert first.rank == math.comb(2 + first.degree, 2)
    with torch.no_grad():
        for parameter in kept.adapters["q"]:
            parameter.fill_(1.0)
    assert kept.radius() > 2
    assert kept.polynomial() == first


def test_norms_beyond_the_most_columns_end_an_arm_with_its_reason() -> None:
    knobs, task = task_of(head_dim=4, rank=4, start_radius=4.0, teacher_radius=8.0)
    learner = Learner("taylor", knobs, task, 3)
    assert learner.polynomial() is None
    with pytest.raises(ValueError, match="need more than 1500 monomials"):
        learner.update()
    frames = FrameLog(EXPERIMENT.frames(Knobs(**{**SMALL, "head_dim": 4, "start_radius": 4.0}), "cpu"))
    assert (TAYLOR, 0) in frames.diverged
    assert (EXACT, 0) not in frames.diverged


# ---- costs


def test_operations_are_counted_as_the_products_are_written_down() -> None:
    knobs, task = task_of(adapt="qkv")
    learner = Learner("exact", knobs, task, 3)
    L, d, r = 64, 2, 1
    projections = 3 * 2 * L * CHANNELS * d
    adapters = 3 * (
        2 * d * r * CHANNELS + 2 * L * d * r + 2 * L * r * CHANNELS + 2 * L * CHANNELS * r + 2 * d * L * r
    )
    assert counted(learner.gradients) == projections + adapters + 6 * 2 * L * L * d
    polynomial = Polynomial("taylor", 4, 15)
    chain = 4 * L * 15 * d * (4 + 2 * d) + 4 * L * 15  # output, K, r Q, 2 d column products, dV; row sums
    assert counted(lambda: learner.gradients(polynomial)) == projections + adapters + chain


def test_cost_at_a_length_has_a_time_and_the_operations_of_that_length() -> None:
    knobs, task = task_of()
    weights = Learner("exact", knobs, task, 3).weights()
    costs = [cost_at(task, weights, "lowrank", length, 0) for length in (128, 256)]
    assert all(seconds > 0 for seconds, _ in costs)
    assert costs[1][1] / costs[0][1] == pytest.approx(2, rel=1e-2)


def test_exponent_is_that_of_the_longest_lengths() -> None:
    lengths = 2.0 ** np.arange(8, 14)
    cost = np.where(lengths < 2048, 1.0, 3e-7 * lengths**1.5)
    assert exponent(np.stack([lengths, cost], 1), 4) == pytest.approx(1.5)
    assert exponent(np.stack([lengths, cost], 1), 32) < 1.4
    assert math.isnan(exponent(np.array([[256.0, 1.0]]), 4))


# ---- tables and charts in the browser


@pytest.mark.parametrize("kind", ["taylor", "chebyshev"])
def test_tabulated_errors_and_degrees_are_the_librarys(kind: str) -> None:
    radii = (0.3, 1.0, 2.5, 6.0)
    errors = relative_errors(kind, np.array(radii), 12)
    for row, radius in zip(errors, radii, strict=True):
        for degree in (0, 1, 4, 9, 12):
            expected = polynomial_relative_error(exp_polynomial(kind, degree, radius), radius)
            assert row[degree] == pytest.approx(expected, rel=2e-2, abs=1e-12)
    for eps in (1e-1, 1e-3):
        assert needed_degrees(kind, radii, eps) == tuple(required_degree(R, eps, kind) for R in radii)


def test_a_degree_above_the_table_is_not_a_number() -> None:
    assert math.isnan(needed_degrees("taylor", (40.0,), 1e-4)[0])
    assert math.isnan(columns(3, math.nan))
    assert columns(3, 4.0) == feature_rank(3, 4)


def in_vega(expression: str, rows: list[dict[str, float]], params: Mapping[str, Any]) -> list[float]:
    """What Vega computes for these rows."""
    spec = {
        "data": {"values": rows},
        "params": [{"name": name, "value": value} for name, value in params.items()],
        "transform": [{"calculate": f"({expression}) + ''", "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    svg = vl_convert.vegalite_to_svg(spec)
    return [float(html.unescape(t)) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


@pytest.mark.parametrize("d", [2, 3, 4])
def test_columns_and_scale_in_the_browser(d: int) -> None:
    degrees = [0, 1, 6, 31]
    found = in_vega(COLUMNS_OF, [{"g": g} for g in degrees], {"d": d})
    assert found == pytest.approx([feature_rank(d, g) for g in degrees])
    # |S| <= tau d Gamma²: the root of the radius over Gamma is the root of tau d
    assert in_vega(STRETCH, [{"g": 0}], {"d": d, "scale": "1/√d"}) == pytest.approx(
        [math.sqrt(d / math.sqrt(d))]
    )
    assert in_vega(STRETCH, [{"g": 0}], {"d": d, "scale": "1/d"}) == [1.0]


def test_critical_norms_are_the_librarys_to_a_step_of_the_table() -> None:
    data = critical_norm_figure().data
    assert data is not None
    for dim, k in ((3, 8), (3, 12), (4, 12), (2, 7)):
        row = data[(data["arm"] == "Taylor") & (data["dim"] == dim) & (data["k"] == k) & (data["e"] == -3.0)]
        assert float(row["s"].iloc[0]) == pytest.approx(math.sqrt(critical_radius(2**k, dim)), abs=0.06)
    threshold = data[data["arm"] == THRESHOLD]
    np.testing.assert_allclose(threshold["s"], np.sqrt(np.log(2.0 ** threshold["k"])))


def test_spectrum_of_equal_scores_has_one_value_and_larger_norms_lift_its_tail() -> None:
    flat = spectrum_of(1e-9, 2)
    assert flat[0] == 1.0
    assert flat[1:].max() < 1e-8
    near, far = spectrum_of(0.5, 2), spectrum_of(6.0, 2)
    assert (far[1:12] > near[1:12]).all()


@pytest.mark.parametrize("make", [rank_figure, spectrum_figure, critical_norm_figure])
def test_charts_of_the_limit_are_quiet(make: Any, capfd: pytest.CaptureFixture[str]) -> None:
    figure = make()
    check_scales(figure)
    drawn = {**figure.spec, "data": {"values": figure.data.to_dict("records")}, "width": 330}
    svg = vl_convert.vegalite_to_svg(drawn, show_warnings=True)
    assert "Taylor" in svg
    assert "WARN" not in "".join(capfd.readouterr())


# ---- frames


def test_costs_grow_to_every_length_and_the_certificate_is_above_the_error(log: FrameLog) -> None:
    knobs = Knobs(**SMALL)
    for arm, kind in ((EXACT, "exact"), (TAYLOR, "taylor")):
        tables = [e.value for e in log.array_history("operations_by_length") if e.arm == arm]
        assert tables[-1][:, 0].tolist() == list(knobs.lengths(kind))
        assert len(tables[0]) < len(tables[-1])
    found = 0
    for arm in (TAYLOR, CHEBYSHEV):
        true, bound = (
            {e.step: e.value for e in log.array_history(name) if e.arm == arm}
            for name in ("true_error", "certificate")
        )
        for step, values in true.items():
            assert len(values) == len(DEGREES)
            kept = np.isfinite(bound[step]) & np.isfinite(values)
            assert (values[kept] <= bound[step][kept]).all()
            found += int(kept.sum())
    assert found > 20


def test_every_arm_says_what_its_norms_need(log: FrameLog) -> None:
    last = {name: log.final(name).set_index("arm")["value"] for name in ("radius", "degree", "rank", "norm")}
    for arm in (EXACT, TAYLOR, CHEBYSHEV):
        kind = "chebyshev" if arm == CHEBYSHEV else "taylor"
        degree = required_degree(last["radius"][arm], 1e-3, kind)
        assert last["degree"][arm] == degree
        assert last["rank"][arm] == feature_rank(2, degree)
        assert last["norm"][arm] ** 2 == pytest.approx(last["radius"][arm])
    degrees = log.scalars("degree")
    assert degrees[degrees["arm"] == KEPT]["value"].nunique() == 1


def test_ratios_leave_out_what_is_not_certified_or_only_rounding() -> None:
    assert certificate_ratios([math.inf, 4.0, 1.0, 6.0], [1.0, 2.0, 1e-15, math.nan]) == [2.0]


def test_the_walk_stops_at_the_moment_and_says_the_limits(log: FrameLog) -> None:
    knobs = Knobs(**SMALL)
    figure = EXPERIMENT.figures(log, knobs, 5, ["walk"])["walk"]
    data = figure.data
    assert data is not None
    assert figure.moment == "step 5"
    assert data[data["part"] == "trail"]["order"].max() == 5
    assert set(data[data["part"] == "now"]["arm"]) == set(knobs.shown_arms())
    assert float(data[data["part"] == "norm"]["x"].iloc[0]) == pytest.approx(
        math.sqrt(math.log(64)), abs=1e-3
    )
    on_curve = data[(data["part"] == "curve") & (data["arm"] == TAYLOR)]
    now = data[(data["part"] == "now") & (data["arm"] == TAYLOR)].iloc[0]
    below, above = (
        on_curve[on_curve["x"] <= now["x"]]["y"].max(),
        on_curve[on_curve["x"] >= now["x"]]["y"].min(),
    )
    assert below <= now["y"] <= above


def test_costs_are_relative_to_the_exact_method(log: FrameLog) -> None:
    figure = EXPERIMENT.figures(log, Knobs(**SMALL), None, ["cost"])["cost"]
    data = figure.data
    assert data is not None
    at = data[(data["arm"] == EXACT) & (data["x"] == 1024)]
    assert at["mean"].tolist() == pytest.approx([1.0, 1.0])
    assert set(data[data["label"] != ""]["kind"]) == {"counted operations", "time"}


def test_a_certificate_is_drawn_for_the_seeds_that_have_one() -> None:
    frames = [
        Frame(0, TAYLOR, seed, {"true_error": np.full(6, 1e-3), "certificate": np.array([math.inf, *row])})
        for seed, row in enumerate(([math.inf, 8.0, 4.0, 2.0, 1.0], [6.0, 4.0, 3.0, 2.0, 1.0]))
    ]
    data = EXPERIMENT.figures(FrameLog(frames), Knobs(), None, ["errors"])["errors"].data
    assert data is not None
    bound = data[data["arm"] == f"{TAYLOR}, certificate"]
    assert bound["x"].tolist() == list(DEGREES[1:])
    assert bound["mean"].tolist() == [6.0, 6.0, 3.5, 2.0, 1.0]
    assert (bound["low"].iloc[1], bound["high"].iloc[1]) == (4.0, 8.0)


# ---- claims


def made(**arrays: Any) -> FrameLog:
    """A run of two seeds that ended, with these values of arms at the end."""
    frames = []
    for seed in (0, 1):
        for arm, values in arrays.items():
            name = {"exact": EXACT, "taylor": TAYLOR, "chebyshev": CHEBYSHEV, "kept": KEPT}[arm]
            frames.append(Frame(0, name, seed, {k: v for k, v in values.items() if k == "exact_loss"}))
            frames.append(Frame(120, name, seed, values))
    return FrameLog(frames)


def estimate(name: str, frames: FrameLog, preset: str = "drift") -> Any:
    knobs = EXPERIMENT.setting(PRESETS[preset]).model_copy(update={"seeds": 2, "steps": 120})
    return CLAIMS[name].verdict(frames, knobs)


def test_claims_of_costs_read_exponents_and_a_ratio() -> None:
    long = 2.0 ** np.arange(8, 17)
    exact = np.stack([long[:5], 1e-9 * long[:5] ** 2], 1)
    lowrank = np.stack([long, 1e-8 * long], 1)
    frames = made(
        exact={"seconds_by_length": exact, "operations_by_length": exact},
        taylor={"seconds_by_length": lowrank, "operations_by_length": lowrank},
    )
    for name, expected in (
        ("exact-time", 2.0),
        ("lowrank-time", 1.0),
        ("exact-operations", 2.0),
        ("lowrank-operations", 1.0),
        ("lowrank-is-faster", math.log10(0.1 * 4096)),
    ):
        verdict = estimate(name, frames, "long-sequences")
        assert verdict.estimate == pytest.approx(expected, rel=1e-5), name
        assert verdict.outcome == "reproduced", name


def test_curves_are_compared_in_percent_at_their_worst_moment() -> None:
    frames = made(exact={"exact_loss": 0.5}, taylor={"exact_loss": 0.502}, chebyshev={"exact_loss": 0.49})
    verdict = estimate("curves-agree", frames)
    assert {i.rival: round(i.estimate, 6) for i in verdict.intervals} == {TAYLOR: 0.4, CHEBYSHEV: 2.0}
    assert verdict.outcome == "opposite"


def test_claims_of_errors_read_their_degrees() -> None:
    taylor = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    frames = made(
        exact={"operations": 100.0},
        taylor={
            "true_error": taylor,
            "eps_by_degree": 10 * taylor,
            "gradient_error": 1e-3,
            "operations": 500.0,
        },
        chebyshev={"true_error": 3 * taylor, "eps_by_degree": taylor},
        kept={"gradient_error": 0.2},
    )
    assert estimate("error-falls-with-degree", frames).estimate == pytest.approx(4.0, rel=1e-5)
    assert estimate("taylor-errs-less", frames).estimate == pytest.approx(math.log10(3), rel=1e-5)
    assert estimate("chebyshev-certifies-more", frames).estimate == pytest.approx(1.0, rel=1e-5)
    past = {
        name: estimate(name, frames, "past-the-limit")
        for name in ("kept-degree-is-too-low", "past-the-limit-no-gain")
    }
    assert past["kept-degree-is-too-low"].estimate == pytest.approx(math.log10(200))
    assert past["past-the-limit-no-gain"].estimate == pytest.approx(math.log10(5))
