"""The page *Attention entropy*: both tasks, every kernel, claims on hand-made logs, figures, limits."""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normviz.attention import attention_weights, positive_sequence_entropy
from normviz.data import load_digit_source
from normviz.experiments.attention_entropy import EXPERIMENT, Knobs
from normviz.experiments.attention_entropy.closed_forms import (
    cpu_seconds,
    entropy_by_norm,
    explicit_softmax,
    exponent,
    growth,
    slope_error,
)
from normviz.experiments.attention_entropy.frames import pooled, resized_digits
from normviz.experiments.attention_entropy.kernels import LinearKernel, RecurrentKernel
from normviz.experiments.attention_entropy.knobs import ARMS
from normviz.experiments.attention_entropy.query_norm import entropy_curves, query_row_figure
from normviz.experiments.attention_entropy.recorded import FUSED, NORMS, lengths
from normviz.frame import Frame, FrameLog
from normviz.testing import log_of

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
ALL = tuple(ARMS)
LINEAR = ALL[1:]
TINY = {"width": "16", "depth": 1, "steps": 10, "seeds": 1, "batch_size": 4, "longest": "1024"}


@pytest.fixture(scope="module", params=["pixels", "text"])
def tiny(request: pytest.FixtureRequest) -> tuple[Knobs, FrameLog]:
    knobs = Knobs(task=request.param, kinds=ALL, side="4", context=16, **TINY)  # type: ignore[arg-type]
    return knobs, FrameLog(EXPERIMENT.frames(knobs, "cpu"))


def test_every_kernel_trains_on_every_task(tiny: tuple[Knobs, FrameLog]) -> None:
    knobs, log = tiny
    assert log.events == []
    assert log.arms == list(knobs.shown_arms().names)
    losses = log.scalars("loss")
    assert (losses.groupby("arm").size() == 10).all()
    for name in ("entropy", "entropy_response", "query_norm", "validation_loss"):
        assert set(log.scalars(name)["arm"]) == set(knobs.trained_arms().names)
    assert ("accuracy" in log.scalar_names) == (knobs.task == "pixels")
    assert {e.value.shape for e in log.arrays("attention_map")} == {(16, 16)}
    for entry in log.arrays("attention_map"):
        total = entry.value.sum(1)  # the 1e-6 in the denominator takes from rows of tiny similarity
        assert (total < 1 + 1e-5).all()
        # In text the first token sees itself alone, to which ReLU's features may have no similarity at all.
        assert (total[knobs.task == "text" :] > 0.9).all()
        assert (total >= 0).all()
    response = log.scalars("entropy_response").groupby("arm")["value"].max()
    assert response["Softmax"] < -1e-3
    assert abs(response["ReLU"]) < 1e-5
    gaps = log.scalars("generation_gap")
    norm_aware = {ARMS[kind] for kind in ALL if kind.startswith("nala")}
    assert set(gaps["arm"]) == (set() if knobs.task == "pixels" else norm_aware)
    assert (gaps["value"] < 1e-3).all()


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("causal", [False, True])
def test_kernels_apply_the_weights_they_tell(kind: str, causal: bool) -> None:
    torch.manual_seed(3)
    kernel = LinearKernel(kind, 2, 4, causal=causal)
    q, k, v = torch.randn(3, 2, 2, 12, 4).unbind()
    weights = kernel.weights(q, k)
    if kind == "pola":
        v[..., 2:] = 0
        expected = weights @ v
        found = kernel(q, k, v)
        torch.testing.assert_close(found[..., :2], expected[..., :2], atol=1e-4, rtol=1e-3)
    else:
        torch.testing.assert_close(kernel(q, k, v), weights @ v, atol=1e-4, rtol=1e-3)


def test_ablations_leave_out_what_they_say() -> None:
    """Against loops: a power that is the same for every norm; negative coordinates that count as zero."""
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 3, 4, generator=generator, dtype=torch.float64)
    fixed = LinearKernel("nala_fixed", 1, 4, lam=2.0, tau=0.5).weights(q, k)[0, 0].numpy()
    clipped = LinearKernel("nala_clipped", 1, 4, lam=2.0, tau=0.5).weights(q, k)[0, 0].numpy()
    for i, j in np.ndindex(3, 3):
        d = q[0, 0, i].numpy() / math.sqrt(float((q[0, 0, i] ** 2).sum()))
        power = 2 * (0.5 + math.tanh(math.sqrt(float((q[0, 0, i] ** 2).sum()))))
        with_angles, positive = [], []
        for key in k[0, 0].numpy():
            unit = key / math.sqrt(float((key**2).sum()))
            turn = [
                math.pi / 4 * (math.tanh(20 * a) - math.tanh(20 * b)) for a, b in zip(d, unit, strict=True)
            ]
            terms = zip(d, key, turn, strict=True)
            with_angles.append(sum(abs(a) ** 3 * abs(b) ** 2 * math.cos(t) for a, b, t in terms))
            positive.append(sum(max(a, 0) ** power * max(b, 0) ** 2 for a, b in zip(d, key, strict=True)))
        assert fixed[i, j] == pytest.approx(with_angles[j] / 3 / (sum(with_angles) / 3 + 1e-6), rel=1e-9)
        assert clipped[i, j] == pytest.approx(positive[j] / 3 / (sum(positive) / 3 + 1e-6), rel=1e-9)
    doubled = LinearKernel("nala_fixed", 1, 4, lam=2.0, tau=0.5).weights(2 * q, k)[0, 0].numpy()
    np.testing.assert_allclose(doubled, fixed, rtol=1e-9)


@pytest.mark.parametrize("kind", ["nala_cosine", "nala_sign", "nala_fixed", "nala_clipped"])
def test_entropy_by_norm_takes_all_constants(kind: str) -> None:
    """Products of cosine features that should be zero come out below it by rounding, which has no entropy."""
    for lam, tau, alpha, seed in product((1.0, 3.0, 6.0), (0.1, 2.0), (1.0, 20.0, 100.0), (0, 1)):
        entropy = entropy_by_norm(kind, seed, lam=lam, tau=tau, alpha=alpha)
        assert bool(np.isfinite(entropy).all()), (lam, tau, alpha)


def test_maps_are_those_of_the_first_seed() -> None:
    knobs = Knobs(kinds=("relu",), side="4", first_seed=3, **{**TINY, "seeds": 2})  # type: ignore[arg-type]
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert {entry.seed for entry in log.array_history("attention_map")} == {3}
    full, early = EXPERIMENT.figures(log, knobs), EXPERIMENT.figures(log, knobs, 0, ["maps", "rows"])
    assert [early[name].moment for name in ("maps", "rows")] == ["step 0", "step 0"]
    assert full["maps"].moment == "step 10"
    assert all(figure.data is not None and len(figure.data) for figure in full.values())


@pytest.mark.usefixtures("small_mnist")
def test_mnist_can_take_the_place_of_the_digits() -> None:
    knobs = Knobs(data="mnist", kinds=("softmax", "relu"), side="4", **TINY)  # type: ignore[arg-type]
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert not log.events
    assert set(log.scalars("accuracy")["arm"]) == {"Softmax", "ReLU"}
    maps = log.arrays("attention_map")
    assert [entry.value.shape for entry in maps] == [(16, 16)] * 2
    whole = load_digit_source("mnist").x_test.reshape(-1, 1, 4, 7, 4, 7).mean((3, 5))
    small = resized_digits("mnist", 4, 0).x_test
    assert small.shape == whole.shape
    together = np.corrcoef(small.flatten().numpy(), whole.flatten().numpy())[0, 1]
    assert together > 0.95  # a triangle of weights instead of equal ones
    assert Knobs(task="text", data="mnist").missing() == ""


def test_fused_softmax_is_timed_but_not_trained() -> None:
    knobs = Knobs(kinds=("softmax", "relu"))
    assert knobs.shown_arms().names == ("Softmax", "ReLU", FUSED)
    assert knobs.trained_arms().names == ("Softmax", "ReLU")
    assert knobs.shown_arms()[FUSED].colour == knobs.shown_arms()["Softmax"].colour
    assert knobs.members() == 4
    assert FUSED not in Knobs(kinds=("relu",)).shown_arms()


def test_performer_draws_do_not_shift_the_network() -> None:
    starts = []
    for kind in ("relu", "performer"):
        torch.manual_seed(5)
        LinearKernel(kind, 2, 8)
        starts.append(torch.rand(3))
    torch.testing.assert_close(*starts, atol=0, rtol=0)
    torch.manual_seed(5)
    one, two = LinearKernel("performer", 2, 8), LinearKernel("performer", 2, 8)
    torch.testing.assert_close(one.projection, two.projection, atol=0, rtol=0)


def test_recurrent_kernel_continues_where_it_was() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 9, 4, dtype=torch.float64).unbind()
    whole = LinearKernel("nala_cosine", 2, 4, causal=True)
    recurrent = RecurrentKernel(whole.feature_map)
    pieces = [recurrent(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]) for t in range(9)]
    torch.testing.assert_close(torch.cat(pieces, 2), whole(q, k, v), atol=1e-8, rtol=1e-8)


def test_entropies_of_random_queries_are_near_the_card() -> None:
    """The card's table is one draw of the keys; five draws must surround it."""
    table = {  # at |q| = 0.1, 0.3, 1, 3
        "softmax": (4.154, 4.116, 3.706, 1.902),
        "relu": (3.938,) * 4,
        "elu1": (4.142, 4.142, 4.141, 4.138),
        "nala_cosine": (3.709, 3.613, 3.396, 3.306),
        "nala_sign": (3.706, 3.611, 3.395, 3.305),
    }
    at = [NORMS.index(n) for n in (0.1, 0.3, 1.0, 3.0)]
    for kind, expected in table.items():
        mean = np.mean([entropy_by_norm(kind, seed)[at] for seed in range(5)], axis=0)
        np.testing.assert_allclose(mean, expected, atol=0.15)


def test_softmax_slope_is_the_variance() -> None:
    assert slope_error(0) < 1e-6


def test_exponent_is_the_slope_of_a_power_law() -> None:
    n = np.array([512, 1024, 2048])
    assert exponent(n, 3e-7 * n**1.7) == pytest.approx(1.7)
    assert math.isnan(exponent([512], np.ones(1)))


def test_memory_grows_by_one_and_by_two() -> None:
    at = (64, 128, 256)
    _, linear = growth(LinearKernel("relu", 1, 8), at, 8, 0, torch.device("cpu"))
    _, square = growth(explicit_softmax, at, 8, 0, torch.device("cpu"))
    assert exponent(at, linear) < 1.1
    assert exponent(at, square) > 1.7
    tensors = tuple(torch.ones(1, 1, 8, 4) for _ in range(3))
    assert cpu_seconds(explicit_softmax, tensors) > 0


def test_pooled_maps_keep_rows_of_sum_one() -> None:
    weights = np.arange(1.0, 101).reshape(10, 10)
    weights /= weights.sum(1, keepdims=True)
    small = pooled(weights, 4)  # groups of 3, 3, 3, 1
    assert small.shape == (4, 4)
    np.testing.assert_allclose(small.sum(1), 1, rtol=1e-6)
    assert small[0, 1] == pytest.approx(weights[:3, 3:6].sum() / 3)
    assert small[3, 3] == pytest.approx(weights[9, 9])
    np.testing.assert_allclose(pooled(weights, 10), weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("heavy", "knob"),
    [
        ({"side": "16", "depth": 8, "steps": 60, "seeds": 2}, "depth"),
        ({"task": "text", "context": 256, "depth": 6}, "context"),
        ({"side": "16"}, "steps"),
    ],
)
def test_what_exceeds_the_work_is_refused_with_the_largest_that_fits(
    heavy: dict[str, object], knob: str
) -> None:
    setting = {"kinds": ALL, "seeds": 3, "steps": 200, **heavy}
    with pytest.raises(ValidationError, match="the limit is 10 minutes") as refused:
        Knobs(**setting)  # type: ignore[arg-type]
    found = re.search(rf" {knob} = (\d+)", str(refused.value))
    assert found is not None
    value = int(found[1])
    assert getattr(Knobs(**{**setting, knob: value}), knob) == value  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="the limit is 10 minutes"):
        Knobs(**{**setting, knob: value + 1})  # type: ignore[arg-type]


def test_lengths_that_are_timed() -> None:
    assert lengths(2048) == (512, 1024, 2048)


def test_weights_and_entropy_agree_with_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 3, 4, generator=generator, dtype=torch.float64)
    weights = attention_weights(q, k, "nala_sign")[0, 0].numpy()
    for i, j in np.ndindex(3, 3):
        row = []
        norm = math.sqrt(sum(float(x) ** 2 for x in q[0, 0, i]))
        for key in k[0, 0]:
            pairs = [(float(a), float(b)) for a, b in zip(q[0, 0, i], key, strict=True)]
            power = 3 * (0.5 + math.tanh(norm))
            row.append(sum((abs(a) / norm) ** power * abs(b) ** 3 for a, b in pairs if a * b > 0))
        assert weights[i, j] == pytest.approx(row[j] / 3 / (sum(row) / 3 + 1e-6), rel=1e-9)


@pytest.mark.parametrize(("steepness", "kind"), [(0, "nala_sign"), (5, "nala_cosine"), (20, "nala_cosine")])
def test_curves_in_the_browser_are_those_of_the_kernels(steepness: int, kind: str) -> None:
    """At tau = 1/2 the power of the norm r is lam (1/2 + tanh r): the curve's entropy must be the kernel's at r."""
    table = (
        entropy_curves().query("`keys` == 16 and lam == 2 and steepness == @steepness").dropna(subset="power")
    )
    norm = 0.6931  # tanh is 0.6: power 2.2
    at = table.iloc[(table["power"] - 2.2).abs().argmin()]
    measured = []
    for draw in range(2):
        rng = np.random.default_rng((draw, 16))
        d = rng.normal(size=(60, 16))
        q = torch.tensor(norm * d / np.linalg.norm(d, axis=1, keepdims=True))[None, None]
        k = torch.tensor(rng.normal(size=(16, 16)))[None, None]
        options = {"alpha": float(steepness)} if steepness else {}
        weights = attention_weights(q, k, kind, lam=2.0, **options)
        measured.append(float(positive_sequence_entropy(weights).mean()))
    assert at["entropy"] == pytest.approx(np.mean(measured), abs=2e-3)


@pytest.mark.parametrize(("kind", "name"), [("softmax", "Softmax"), ("elu1", "elu+1"), ("relu", "ReLU")])
def test_plain_curves_are_those_of_the_kernels(kind: str, name: str) -> None:
    table = entropy_curves().query("`keys` == 16 and kind == @name")
    measured = []
    for draw in range(2):
        rng = np.random.default_rng((draw, 16))
        d = rng.normal(size=(60, 16))
        q = torch.tensor(4.0 * d / np.linalg.norm(d, axis=1, keepdims=True))[None, None]
        k = torch.tensor(rng.normal(size=(16, 16)))[None, None]
        options = {"scale": 1.0} if kind == "softmax" else {}
        measured.append(float(positive_sequence_entropy(attention_weights(q, k, kind, **options)).mean()))
    assert table["entropy"].iloc[-1] == pytest.approx(np.mean(measured), abs=1e-3)


def test_row_in_the_browser_has_the_entropies_of_the_kernels() -> None:
    """The drawing program evaluates the expressions; its labels tell the entropies at |q| = 1, query 1."""
    figure = query_row_figure()
    found = dict(re.findall(r">([^<>]+), entropy ([0-9.]+)<", figure.to_svg()))
    assert figure.data is not None
    one = figure.data[figure.data["query"] == 1].sort_values("rank", kind="stable")
    q = torch.tensor(one["d"].to_numpy().reshape(24, 8)[:1].copy())[None, None]
    k = torch.tensor(one["k"].to_numpy().reshape(24, 8).copy())[None, None]
    kinds = {"Softmax": "softmax", "elu+1": "elu1", "ReLU": "relu", "FLatten": "focused"}
    kinds |= {"NaLa cosine": "nala_cosine", "NaLa sign": "nala_sign"}
    assert found.keys() == kinds.keys()
    for name, kind in kinds.items():
        options = {"scale": 1.0} if kind == "softmax" else {}
        entropy = positive_sequence_entropy(attention_weights(q, k, kind, **options))
        assert float(found[name]) == pytest.approx(float(entropy), abs=0.011)


# ---- claims


def curves(name: str, values: dict[str, list[float]], steps: list[int]) -> FrameLog:
    """Scalar ``name`` at these steps for each arm, seeds 0 and 1 alike."""
    return log_of({arm: {name: series} for arm, series in values.items()}, steps=steps)


def arrays(name: str, values: dict[str, list[float]], step: int) -> FrameLog:
    """Array ``name`` of each arm, seeds 0 and 1 alike."""
    return log_of({arm: {name: np.array(value, dtype=float)} for arm, value in values.items()}, steps=[step])


def numbers(claim: str, log: FrameLog, knobs: Knobs) -> dict[str, float]:
    """Of seed 0, by rival."""
    return {i.rival: i.per_seed[0] for i in CLAIMS[claim].verdict(log, knobs).intervals}


def test_claims_of_the_curves_look_at_the_norms_of_the_paper() -> None:
    shapes = {"NaLa cosine": [4.0, 3.5, 3.4, 3.45, 3.0, 9.0, 9.0, 9.0], "ReLU": [3, 3, 3.25, 3, 3, 9, 9, 9]}
    log = arrays("entropy_by_norm", shapes, 0)
    assert numbers("cosine-falls", log, Knobs()) == {"": pytest.approx(0.05, abs=1e-6)}
    assert CLAIMS["cosine-falls"].verdict(log, Knobs()).outcome == "opposite"
    assert numbers("relu-forgets-the-norm", log, Knobs()) == {"": 0.25}
    assert CLAIMS["relu-forgets-the-norm"].verdict(log, Knobs()).outcome == "opposite"
    assert not CLAIMS["sign-falls"].verdict(log, Knobs()).measured


def test_claims_of_the_second_half_and_of_the_whole_run() -> None:
    series = {"Softmax": [-3, -0.5, -1, -2], "NaLa cosine": [9, 9, -1, -2], "ReLU": [0, -0.5, 0.1, 0]}
    knobs = Knobs(steps=40)
    log = curves("entropy_response", series, [0, 10, 20, 30])
    log.append(Frame(40, "Softmax", 0))
    assert numbers("softmax-sharpens", log, knobs) == {"": -0.5}
    assert numbers("cosine-sharpens", log, knobs) == {"": -1.5}
    assert numbers("relu-does-not-sharpen", log, knobs) == {"": 0.5}
    both = FrameLog(
        Frame(step, "Softmax", seed, {"entropy_q_correlation": -0.5, "entropy_k_correlation": 0.2})
        for seed in (0, 1)
        for step in (0, 20, 40)
    )
    assert numbers("keys-matter-less", both, knobs) == {"": pytest.approx(0.3)}


def test_the_race_is_against_each_rival_at_its_task() -> None:
    score = {"NaLa cosine": [0, 80, 90], "elu+1": [0, 70, 80], "ReLU": [0, 90, 90], "FLatten": [0, 80, 80]}
    knobs = Knobs(steps=20, kinds=("elu1", "relu", "focused", "nala_cosine"))
    log = curves("accuracy", score, [0, 10, 20])
    assert numbers("beats-linear", log, knobs) == {"elu+1": 10, "ReLU": -5, "FLatten": 5}
    assert CLAIMS["beats-linear"].verdict(log, knobs).outcome == "opposite"
    assert numbers("long-beats-linear", log, Knobs(steps=20, side="16")) == {"elu+1": 10, "ReLU": -5}
    assert not CLAIMS["long-beats-linear"].verdict(log, knobs).measured
    loss = {"NaLa cosine": [3, 2, 2], "elu+1": [3, 2.5, 2.5], "ReLU": [3, 2, 2], "Softmax": [3, 1, 1]}
    text = Knobs(task="text", steps=20)
    log = curves("validation_loss", loss, [0, 10, 20])
    assert numbers("language-beats-linear", log, text) == {"elu+1": -0.5, "ReLU": 0.0}
    assert numbers("language-beats-softmax", log, text) == {"": 1.0}
    assert not CLAIMS["language-beats-softmax"].verdict(log, knobs).measured


def test_a_diverged_arm_loses_the_race() -> None:
    steps = [0, 10, 20]
    log = curves("accuracy", {"NaLa cosine": [0, 80, 90], "NaLa, fixed power": [0, 1, 2]}, steps)
    for seed in (0, 1):
        log.append(Frame.diverged(15, "NaLa cosine", seed, "the loss is inf"))
    knobs = Knobs(steps=20, kinds=("nala_cosine", "nala_fixed"))
    assert numbers("norm-helps", log, knobs) == {"": -math.inf}
    assert CLAIMS["norm-helps"].verdict(log, knobs).outcome == "opposite"


def test_claims_of_cost_look_at_the_longest_sequence() -> None:
    cost = {"NaLa cosine": [5.0, 10.0], "Softmax": [5.0, 100.0], FUSED: [5.0, 20.0]}
    knobs = Knobs()
    saved = numbers("saves-memory", arrays("bytes_by_length", cost, knobs.steps), knobs)
    assert saved == {"": pytest.approx(90.0)}
    faster = numbers("faster-at-length", arrays("seconds_by_length", cost, knobs.steps), knobs)
    assert faster == {"softmax with its matrix": -1.0, "fused softmax": pytest.approx(-math.log10(2))}
