"""The experiment behind the page *Adaptive batch size*: its problems, arms, tests and closed forms."""

from __future__ import annotations

import math
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normviz.adaptive import (
    AdaptiveBatchSize,
    augmented_inner_product_test,
    coordinatewise_norm_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
    per_sample_gradients,
)
from normviz.digit_sources import DIGIT_SOURCES
from normviz.experiments import adaptive_batch_size as ab
from normviz.experiments.adaptive_batch_size import toy
from normviz.experiments.adaptive_batch_size.exact_curves import FIVE, STAIRCASE
from normviz.experiments.adaptive_batch_size.exact_fan import DRAWS, FAN_STEPS, fan_rows
from normviz.experiments.adaptive_batch_size.fan_picture import REACH, WIDER
from normviz.experiments.adaptive_batch_size.gradient_fan import ARROWS, fan_of
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, TESTS, Knobs
from normviz.experiments.adaptive_batch_size.landscape import contour
from normviz.experiments.adaptive_batch_size.learners import Learner, rate_exponent
from normviz.experiments.adaptive_batch_size.problems import least_logistic_loss, problem_of
from normviz.experiments.adaptive_batch_size.sizes import DIGITS_TESTED
from normviz.frame import FrameLog
from normviz.knobs import KnobError

CPU = torch.device("cpu")
Array = NDArray[np.float64]


@cache
def run_of(task: str, **knobs: Any) -> tuple[FrameLog, Knobs]:
    """A small run."""
    setting = Knobs(**{"task": task, "samples": 2000, "seeds": 1, **knobs})
    return FrameLog(ab.EXPERIMENT.frames(setting, "cpu")), setting


def vega(expression: str, **names: float) -> Any:
    """What an expression of the browser gives, in Python."""
    condition = expression.split(" ? ", 1)
    if len(condition) == 2:
        yes, no = condition[1].split(" : ", 1)
        return vega(yes if vega(condition[0], **names) else no, **names)
    code = expression.replace("datum.", "").replace("&&", "and")
    functions = {
        "pow": pow,
        "max": max,
        "cos": math.cos,
        "sin": math.sin,
        "sqrt": math.sqrt,
        "atan2": math.atan2,
        "PI": math.pi,
        "null": None,
    }
    return eval(code, {"__builtins__": {}}, {**functions, **names})


# -- problems ----------------------------------------------------------------------------------------------------------


def test_gradient_and_noise_of_the_toy_are_those_of_many_samples() -> None:
    generator = np.random.default_rng(3)
    a = generator.standard_normal((400_000, 2)) * np.sqrt(toy.CURVATURE)
    y = a @ toy.TARGET + toy.NOISE * generator.standard_normal(len(a))
    x = np.array([-0.5, 1.5])
    grads = a * (a @ x - y)[:, None]
    np.testing.assert_allclose(grads.mean(0), toy.gradient(x), atol=0.02)
    assert grads.var(0, ddof=1).sum() == pytest.approx(toy.total_variance(x), rel=0.02)
    half_squares = ((a @ x - y) ** 2).mean() / 2
    assert half_squares - toy.NOISE**2 / 2 == pytest.approx(toy.gap(x), rel=0.02)


def test_contours_have_their_level() -> None:
    x, y = contour(0.7)
    np.testing.assert_allclose([toy.gap(point) for point in zip(x, y, strict=True)], 0.7, rtol=1e-12)


def test_least_logistic_loss_is_a_minimum() -> None:
    """Plain gradient descent in NumPy comes to the same loss, from above."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((500, 3))
    y = (generator.random(500) < 1 / (1 + np.exp(-x @ np.array([1.0, -2.0, 0.5])))).astype(float)
    w = np.zeros(3)
    for _ in range(4000):
        w -= x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(x)
    z = x @ w
    loss = float(np.mean(np.logaddexp(0, z) - y * z))
    assert least_logistic_loss(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(loss, abs=1e-10)


def test_labels_follow_their_probabilities() -> None:
    problem = problem_of("logistic", 3, 1000, CPU)
    assert problem.least is not None
    assert problem.truth is not None
    assert problem.least < 0.5 < math.log(2)
    assert problem.truth == pytest.approx(problem.least, abs=0.03)
    assert 0.45 < float(problem.y.mean()) < 0.55


@pytest.mark.parametrize("task", ["logistic", "digits", "toy"])
def test_samples_are_the_seeds(task: str) -> None:
    one, other = problem_of(task, 3, 1000, CPU), problem_of(task, 4, 1000, CPU)
    assert not torch.equal(one.x, other.x)
    again = problem_of.__wrapped__(task, 3, 1000, CPU)
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.y, again.y)
    first, second = (list(p.start().parameters()) for p in (one, again))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_size_of_the_held_out_digits() -> None:
    assert len(problem_of("digits", 0, 1000, CPU).y_test) == DIGITS_TESTED


@pytest.mark.parametrize(("data", "values"), [("mnist1d", 40), ("mnist", 784)])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str, values: int) -> None:
    knobs = Knobs(task="digits", data=data, arms=("small", "norm"), samples=1000, seeds=1, max_batch=64)
    problem_of.cache_clear()  # what was cached must not outlive the stand-in
    problem = problem_of("digits", 0, 1000, CPU, data)
    assert sum(p.numel() for p in problem.start().parameters()) == values * 64 + 64 + 64 * 10 + 10
    assert 4 * len(problem.y_test) == len(problem.y)
    log = FrameLog(islice(ab.EXPERIMENT.frames(knobs, "cpu"), 20))
    problem_of.cache_clear()
    assert not log.events
    assert set(log.members) == {(ARM_NAMES[kind], 0) for kind in knobs.kinds()}
    assert np.isfinite(log.scalars("accuracy")["value"]).all()
    assert log.arrays("fan")
    assert Knobs(data=data).missing() == ""


def test_the_largest_batch_is_cut_to_the_samples_and_on_mnist_to_a_thousand() -> None:
    most = {
        data: Knobs(task="digits", data=data, max_batch=2048).largest_batch(4000) for data in DIGIT_SOURCES
    }
    assert most == {"digits": 2048, "mnist1d": 2048, "mnist": 1000}
    assert Knobs(task="digits", max_batch=2048).largest_batch(1437) == 1437
    assert Knobs(data="mnist", max_batch=2048).largest_batch(20_000) == 2048


# -- arms --------------------------------------------------------------------------------------------------------------


def test_all_arms_see_the_samples_in_one_order() -> None:
    knobs = Knobs(task="toy", samples=1000, seeds=1, initial_batch=4)
    problem = problem_of("toy", 1, 1000, CPU)
    arms = [Learner(kind, problem, knobs, 1) for kind in ("small", "large", "norm", "adagrad")]
    orders = []
    for arm in arms:
        order: list[int] = []
        for batch in arm._batches:
            order += batch
            if len(order) >= 1000:
                break
        orders.append(order[:1000])
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(1000))


def test_growing_arm_is_a_numpy_loop() -> None:
    """AdAdaGrad-Norm on the two numbers, 25 steps: sizes, tests and points in NumPy."""
    knobs = Knobs(task="toy", arms=("norm",), samples=20_000, seeds=1, eta=0.6, initial_batch=4)
    problem = problem_of("toy", 5, 20_000, CPU)
    learner = Learner("norm", problem, knobs, 5)
    order = torch.randperm(20_000, generator=learner._sampler.generator.clone_state()).numpy()  # type: ignore[union-attr]
    a, y = problem.x.numpy(), problem.y.numpy()
    x, accumulated, size, start = toy.START.copy(), 0.01, 4, 0
    for _ in range(25):
        rows = order[start : start + size]
        grads = a[rows] * (a[rows] @ x - y[rows])[:, None]
        g = grads.mean(0)
        variance = ((grads - g) ** 2).sum(0).sum() / (len(rows) - 1)
        s = variance / (0.6**2 * (g @ g))
        learner.step(start)
        found = learner.found
        assert found["suggestion"] == pytest.approx(s, rel=1e-9)
        assert found["noise"] == pytest.approx(variance / len(rows), rel=1e-9)
        assert found["allowed"] == pytest.approx(0.36 * (g @ g), rel=1e-9)
        accumulated += float(g @ g)
        x = x - g / (math.sqrt(accumulated) + 1e-10)
        start += len(rows)
        size = min(max(size, math.ceil(s)), 2048)
        np.testing.assert_allclose(learner.point(), x, rtol=1e-9, atol=1e-12)
        assert learner.batch_size == size
        assert size < 2048, "the last test leaves nothing behind"
    assert size > 40


@pytest.mark.parametrize("kind", TESTS)
def test_no_test_is_made_at_the_largest_size_or_between_intervals(kind: str) -> None:
    knobs = Knobs(task="toy", samples=4000, seeds=1, max_batch=64, test_interval=3, eta=0.3)
    learner = Learner(kind, problem_of("toy", 2, 4000, CPU), knobs, 2)
    assert learner.controller is not None
    tested = []
    for _ in range(30):
        largest = learner.batch_size >= 64
        before = len(learner.controller.history)
        learner.step(0)
        made = len(learner.controller.history) > before
        assert not (largest and (made or learner.found))
        tested += [learner.steps] if made else []
    assert tested
    assert all(step % 3 == 0 for step in tested)


def test_a_run_ends_with_its_samples() -> None:
    log, knobs = run_of("toy", arms=("small", "large", "norm"), eta=0.5)
    final = log.final("steps").set_index("arm")["value"]
    assert final[ARM_NAMES["small"]] == 2000 / 8
    assert final[ARM_NAMES["large"]] == 1
    assert 1 < final[ARM_NAMES["norm"]] < 2000 / 8
    assert set(log.members.values()) == {knobs.samples}


def test_marks_are_shared_and_show_what_was_newest() -> None:
    knobs = Knobs(task="toy", samples=1200, seeds=1, arms=("norm",), eta=0.4)
    learner = Learner("norm", problem_of("toy", 7, 1200, CPU), knobs, 7)
    assert knobs.mark_every() == 10
    at = 0
    shown: dict[int, Any] = {}
    sizes: dict[int, tuple[int, int]] = {}
    while at < 1200:
        learner.measured = {"steps": float(learner.steps)}
        size = learner.batch_size
        learner.step(at)
        for sample in range(at, at + learner.seen):
            sizes[sample] = (size, learner.steps - 1)
        shown |= {frame.step: frame.values for frame in learner.passed()}
        at += learner.seen
    assert list(shown) == list(range(10, 1200, 10))
    for mark, values in shown.items():
        assert values["batch"] == sizes[mark][0]
        assert ("steps" in values) == (mark % 30 == 0)
        assert values.get("steps", sizes[mark][1]) == sizes[mark][1]


def test_a_batch_size_never_shrinks_and_tests_agree() -> None:
    log, _ = run_of("logistic", arms=("norm", "adagrad", "coordinates"))
    for arm in log.arms:
        table = log.scalars("batch")
        assert (np.diff(table[table["arm"] == arm]["value"]) >= 0).all(), arm
    assert log.final("shrinks")["value"].max() == 0
    assert log.scalars("split_error")["value"].max() < 1e-9
    assert log.scalars("coordinates_over_norm")["value"].min() >= 1 - 1e-9
    shares = log.scalars("share_along")["value"] + log.scalars("share_across")["value"]
    np.testing.assert_allclose(shares, 1, atol=1e-9)


def test_accuracy_and_gap_are_those_of_the_model() -> None:
    problem = problem_of("logistic", 6, 1000, CPU)
    knobs = Knobs(arms=("large",), samples=4000, seeds=1, first_seed=6)
    last = [f for f in ab.EXPERIMENT.frames(knobs, "cpu") if "accuracy" in f.values][-1]
    learner = Learner("large", problem, knobs, 6)
    for at in (0, 2048):
        learner.step(at)
    w = learner.point()
    z = problem.x.numpy() @ w
    loss = float(np.mean(np.logaddexp(0, z) - problem.y.numpy() * z))
    assert problem.least is not None
    assert last.values["gap"] == pytest.approx(loss - problem.least, rel=1e-9)
    right = (problem.x_test.numpy() @ w > 0) == (problem.y_test.numpy() > 0.5)
    assert last.values["accuracy"] == pytest.approx(100 * right.mean(), abs=1e-9)


def test_exponent_of_known_averages() -> None:
    assert rate_exponent([1.0] * 400) == pytest.approx(0, abs=1e-12)
    assert rate_exponent([1.0, *[0.0] * 399]) == pytest.approx(-1, abs=1e-12)
    roots = [math.sqrt(k) - math.sqrt(k - 1) for k in range(1, 401)]  # their mean is 1/√K
    assert rate_exponent(roots) == pytest.approx(-0.5, abs=1e-9)
    assert math.isnan(rate_exponent([1.0] * 7))


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_fan_keeps_lengths_angles_and_distances() -> None:
    generator = torch.Generator().manual_seed(1)
    grads = [
        torch.randn(40, 3, 2, generator=generator, dtype=torch.float64) + 0.5,
        torch.randn(40, 4, generator=generator, dtype=torch.float64),
    ]
    flat = np.concatenate([g.flatten(1).numpy() for g in grads], axis=1)
    mean = flat.mean(0)
    fan = fan_of(grads).numpy()
    length = np.linalg.norm(mean)
    np.testing.assert_allclose(np.linalg.norm(fan, axis=1), np.linalg.norm(flat, axis=1) / length, rtol=1e-9)
    np.testing.assert_allclose(fan[:, 0], flat @ mean / length**2, rtol=1e-9, atol=1e-12)
    far = np.linalg.norm(flat - mean, axis=1) / length
    np.testing.assert_allclose(np.linalg.norm(fan - [1, 0], axis=1), far, rtol=1e-9)
    found = norm_test(grads, 0.5)
    from_picture = np.sum((fan - [1, 0]) ** 2) / (len(fan) - 1) / len(fan)
    assert found.variance / 40 / found.grad_norm_sq == pytest.approx(from_picture, rel=1e-9)


def test_fan_in_two_dimensions_is_turned_only() -> None:
    grads = torch.tensor([[3.0, 1.0], [3.0, -1.0], [1.0, 2.0], [1.0, -2.0]], dtype=torch.float64)
    turned = fan_of([grads]).numpy()
    np.testing.assert_allclose(turned[:, 0], [1.5, 1.5, 0.5, 0.5])
    np.testing.assert_allclose(np.abs(turned[:, 1]), [0.5, 0.5, 1.0, 1.0], atol=1e-12)
    signs = np.sign(turned[:, 1])
    assert abs(signs @ [1, -1, 1, -1]) == 4


def test_fan_of_no_mean_is_refused_and_has_at_most_so_many_arrows() -> None:
    with pytest.raises(ValueError, match="mean that is not 0"):
        fan_of([torch.tensor([[1.0], [-1.0]])])
    assert fan_of([torch.ones(100, 3)]).shape == (ARROWS, 2)


def test_arrows_are_cut_at_the_edge_and_the_rings_are_the_test() -> None:
    log, knobs = run_of("toy", arms=("norm",), eta=0.5)
    figure = ab.EXPERIMENT.figures(log, knobs, names=["fan"])["fan"]
    assert figure.data is not None
    arrows = figure.data[figure.data["part"] == "sample"]
    assert arrows["y2"].abs().max() <= REACH + 1e-3
    assert (arrows["x2"] - 1).abs().max() <= REACH * WIDER + 1e-3
    facts = log.arrays("fan_facts")[-1].value
    rings = figure.data[figure.data["part"] == "ring"].groupby("name")["y"].max()
    assert sorted(rings) == pytest.approx(
        sorted([0.5, min(REACH, 0.5 * math.sqrt(facts[1] / facts[0]))]), rel=1e-3
    )


def test_the_staircase_of_several_seeds_never_falls() -> None:
    log, knobs = run_of("toy", arms=("norm", "adagrad"), eta=0.5, seeds=3)
    data = ab.EXPERIMENT.figures(log, knobs, names=["staircase"])["staircase"].data
    assert data is not None
    for arm in knobs.shown_arms():
        assert (np.diff(data[data["arm"] == arm]["mean"]) >= 0).all()


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "noise", "b"), [(0.35, 1.5, 16), (0.9, 0.4, 2), (0.1, 5.0, 256)])
def test_the_browser_computes_the_norm_test(eta: float, noise: float, b: int) -> None:
    rows = fan_rows()
    samples = rows[rows["part"] == "sample"]
    xs, ys = [], []
    for row in samples.itertuples():
        datum: dict[str, Any] = {
            "part": row.part,
            "i": row.i,
            "z1": row.z1,
            "z2": row.z2,
            "noise": noise,
            "b": b,
        }
        x, y = (vega(FAN_STEPS[0][name], **datum) for name in ("gx", "gy"))
        xs += [] if x is None else [x]
        ys += [] if y is None else [y]
    grads = np.array([1.0, 0.0]) + noise * DRAWS[:b]
    np.testing.assert_allclose(np.stack([xs, ys], 1), grads, rtol=1e-12)
    means = {"mx": np.mean(xs), "my": np.mean(ys), "vx": np.var(xs, ddof=1), "vy": np.var(ys, ddof=1)}
    second = {name: vega(text, **means) for name, text in FAN_STEPS[1].items()}
    s = vega(FAN_STEPS[2]["s"], eta=eta, **second)
    result = norm_test([torch.from_numpy(grads)], eta)
    assert s == pytest.approx(result.suggestion, rel=1e-9)
    assert second["norm"] ** 2 == pytest.approx(result.grad_norm_sq, rel=1e-9)


@pytest.mark.parametrize(
    ("eta", "noise", "b0"), [(0.5, 2.0, 8), (0.9, 3.0, 2), (0.99, 0.5, 64), (0.2, 4.0, 16)]
)
def test_the_staircase_is_the_rule_applied_again_and_again(eta: float, noise: float, b0: int) -> None:
    R, b = 10**noise, float(b0)
    for k in range(17):
        usual, exact = (vega(text, eta=eta, noise=noise, b0=b0, k=k) for text in STAIRCASE.values())
        assert usual == pytest.approx(b, rel=1e-9)
        assert exact == pytest.approx(b0 if k == 0 else max(b0, R / eta**2), rel=1e-9)
        b = max(b, R / (eta**2 * (1 + R / b)))


def test_the_staircase_is_what_the_controller_does_on_average() -> None:
    """Gradients of many samples with known mean and noise: one test, from a batch of 64."""
    generator = torch.Generator().manual_seed(0)
    d, R, eta = 1000, 100.0, 0.5
    sizes = []
    for _ in range(50):
        noise = torch.randn(64, d, generator=generator, dtype=torch.float64) * math.sqrt(R / d)
        noise[:, 0] += 1.0
        controller = AdaptiveBatchSize(eta=eta, initial_batch_size=64)
        sizes.append(controller.step([noise]))
    expected = vega(STAIRCASE["usual test"], eta=eta, noise=2.0, b0=64, k=1)
    assert np.mean(sizes) == pytest.approx(expected, rel=0.03)


def test_five_tests_are_the_librarys() -> None:
    """Samples with exactly this noise: four points at the mean plus and minus both directions."""
    along, across, phi = 2.0, 1.5, 30.0
    g = np.array([math.cos(math.radians(phi)), math.sin(math.radians(phi))])
    side = np.array([-g[1], g[0]])
    scale = math.sqrt(3 / 2)  # four samples, two of them vary: the variance's divisor is 3
    offsets = scale * np.stack([along * g, -along * g, across * side, -across * side])
    grads = [torch.from_numpy(g + offsets)]
    expected = {
        "norm": norm_test(grads, 0.5),
        "inner product": inner_product_test(grads, 0.7),
        "orthogonality": orthogonality_test(grads, 1.2),
        "augmented": augmented_inner_product_test(grads, 0.7, 1.2),
        "coordinate-wise": coordinatewise_norm_test(grads, 0.5),
    }
    assert list(expected) == list(FIVE)
    for name, text in FIVE.items():
        value = vega(text, along=along, across=across, phi=phi, eta=0.5, theta=0.7, nu=1.2)
        assert value == pytest.approx(expected[name].suggestion, rel=1e-9), name


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"eta": 0.0},
        {"eta": -0.5},
        {"initial_batch": 1},
        {"quantile": 0.2},
        {"test_interval": 0},
        {"arms": ()},
        {"arms": "norms"},
        {"max_batch": 2},
    ],
)
def test_refused_with_a_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(KnobError, match=next(iter(wrong))):
        Knobs.parse(wrong)


def test_one_sample_and_batch_norm_are_refused_by_what_runs() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        norm_test([torch.ones(1, 3)])
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError, match="1"):
        per_sample_gradients(model, torch.nn.functional.mse_loss, torch.ones(4, 3), torch.ones(4, 3))
