"""The page *Attention entropy*: both tasks, every kernel, claims on hand-made logs, figures, limits."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normviz.attention import attention_weights, positive_sequence_entropy
from normviz.experiments.attention_entropy import EXPERIMENT, Knobs
from normviz.experiments.attention_entropy.closed_forms import (
    cpu_seconds,
    entropy_by_norm,
    explicit_softmax,
    exponent,
    growth,
    slope_error,
)
from normviz.experiments.attention_entropy.frames import pooled
from normviz.experiments.attention_entropy.kernels import LinearKernel, RecurrentKernel
from normviz.experiments.attention_entropy.knobs import ARMS, arm_names
from normviz.experiments.attention_entropy.scales import FUSED, NORMS, lengths
from normviz.figures.query_norm import entropy_curves, query_row_figure
from normviz.frame import Frame, FrameLog

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
ALL = tuple(ARMS)
LINEAR = ALL[1:]
TINY = {"width": "16", "depth": 1, "steps": 10, "seeds": 1, "batch_size": 4, "longest": "1024"}


def test_first_frames_come_before_any_work() -> None:
    first = list(itertools.islice(EXPERIMENT.frames(Knobs(), "cpu"), 3))
    assert [(f.step, f.arm, f.seed) for f in first] == [(0, "Softmax", 0), (0, "Softmax", 1), (0, "elu+1", 0)]
    assert all(f.values == {} for f in first)


@pytest.fixture(scope="module", params=["pixels", "text"])
def tiny(request: pytest.FixtureRequest) -> tuple[Knobs, FrameLog]:
    knobs = Knobs(task=request.param, kinds=ALL, side="4", context=16, **TINY)  # type: ignore[arg-type]
    return knobs, FrameLog(EXPERIMENT.frames(knobs, "cpu"))


def test_every_kernel_trains_on_every_task(tiny: tuple[Knobs, FrameLog]) -> None:
    knobs, log = tiny
    assert log.events == []
    assert log.arms == [*arm_names(knobs), FUSED]
    losses = log.scalars("loss")
    assert (losses.groupby("arm").size() == 10).all()
    for name in ("entropy", "entropy_response", "query_norm", "validation_loss"):
        assert set(log.scalars(name)["arm"]) == set(arm_names(knobs))
    assert ("accuracy" in log.scalar_names) == (knobs.task == "pixels")
    assert {e.value.shape for e in log.arrays("attention_map")} == {(16, 16)}
    for entry in log.arrays("attention_map"):
        total = entry.value.sum(1)  # the 1e-6 in the denominator takes from rows of tiny similarity
        assert (total < 1 + 1e-5).all()
        assert (total > 0.9).all()
    response = log.scalars("entropy_response").groupby("arm")["value"].max()
    assert response["Softmax"] < -1e-3
    assert abs(response["ReLU"]) < 1e-5
    gaps = log.scalars("generation_gap")
    assert set(gaps["arm"]) == (set() if knobs.task == "pixels" else {"NaLa cosine", "NaLa sign"})
    assert (gaps["value"] < 1e-3).all()


def test_figures_of_empty_and_full_logs(tiny: tuple[Knobs, FrameLog]) -> None:
    knobs, log = tiny
    empty = EXPERIMENT.figures(FrameLog(), knobs)
    assert all("nothing is measured" in f.alt for name, f in empty.items() if name != "by_norm")
    full = EXPERIMENT.figures(log, knobs)
    assert list(full) == list(empty)
    assert all(f.data is not None and len(f.data) for f in full.values())
    early = EXPERIMENT.figures(log, knobs, 0)
    assert early["maps"].title.endswith("(step 0)")
    assert full["maps"].title.endswith("(step 10)")
    assert early["rows"].title.endswith("(step 0)")
    labels = full["seconds"].data["label"]
    assert (labels != "").sum() == len(ALL) + 1


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


def log_of(name: str, values: dict[str, list[float]]) -> FrameLog:
    """Scalar ``name`` at steps 0, 1, … for each arm, seeds 0 and 1 alike."""
    return FrameLog(
        Frame(step, arm, seed, {name: value})
        for arm, series in values.items()
        for seed in (0, 1)
        for step, value in enumerate(series)
    )


def test_claims_of_the_curves() -> None:
    curves = {"NaLa cosine": [4.0, 3.5, 3.4, 3.45, 3.0, 9.0, 9.0, 9.0], "ReLU": [3, 3, 3.25, 3, 3, 9, 9, 9]}
    log = FrameLog(
        Frame(0, arm, seed, {"entropy_by_norm": np.array(curve)})
        for arm, curve in curves.items()
        for seed in (0, 1)
    )
    assert CLAIMS["cosine-falls"].measure(log, Knobs()) == pytest.approx({0: 0.05, 1: 0.05}, abs=1e-6)
    assert CLAIMS["cosine-falls"].verdict(log, Knobs()).outcome == "not reproduced"
    assert CLAIMS["relu-forgets-the-norm"].measure(log, Knobs()) == pytest.approx({0: 0.25, 1: 0.25})
    assert CLAIMS["sign-falls"].measure(log, Knobs()) == {}


def test_claims_of_the_second_half() -> None:
    series = {"Softmax": [-3, -0.5, -2], "NaLa cosine": [9, 9, -1, -2], "ReLU": [0, -0.5, 0.1, 0]}
    log = log_of("entropy_response", {arm: [float(x) for x in values] for arm, values in series.items()})
    assert CLAIMS["softmax-sharpens"].measure(log, Knobs()) == {0: -0.5, 1: -0.5}
    assert CLAIMS["cosine-sharpens"].measure(log, Knobs()) == {0: -1.5, 1: -1.5}
    assert CLAIMS["relu-does-not-sharpen"].measure(log, Knobs()) == {0: 0.5, 1: 0.5}
    both = FrameLog(
        Frame(0, "Softmax", 0, {"entropy_q_correlation": -0.5, "entropy_k_correlation": 0.2}) for _ in "ab"
    )
    assert CLAIMS["keys-matter-less"].measure(both, Knobs()) == pytest.approx({0: 0.3})


def test_race_claims_belong_to_their_task() -> None:
    log = log_of("accuracy", {"NaLa cosine": [0, 80, 90], "elu+1": [0, 70, 80], "ReLU": [0, 90, 90]})
    assert CLAIMS["beats-elu"].measure(log, Knobs()) == {0: 10.0, 1: 10.0}
    assert CLAIMS["beats-relu"].measure(log, Knobs()) == {0: -5.0, 1: -5.0}
    assert CLAIMS["beats-elu"].measure(log, Knobs(task="text")) == {}
    loss = log_of("validation_loss", {"NaLa cosine": [3, 2, 2], "elu+1": [3, 2.5, 2.5], "Softmax": [3, 1, 1]})
    assert CLAIMS["language-beats-elu"].measure(loss, Knobs(task="text")) == {0: -0.5, 1: -0.5}
    assert CLAIMS["language-beats-softmax"].measure(loss, Knobs(task="text")) == {0: 1.0, 1: 1.0}
    assert CLAIMS["language-beats-elu"].measure(loss, Knobs()) == {}


def test_claims_of_cost_look_at_the_longest_sequence() -> None:
    arrays = {"NaLa cosine": [5.0, 10.0], "Softmax": [5.0, 100.0]}
    log = FrameLog(
        Frame(9, arm, 0, {"bytes_by_length": np.array(a), "seconds_by_length": np.array(a)})
        for arm, a in arrays.items()
    )
    assert CLAIMS["saves-memory"].measure(log, Knobs()) == pytest.approx({0: 90.0})
    assert CLAIMS["faster-at-length"].measure(log, Knobs()) == pytest.approx({0: -1.0})


def test_no_claim_speaks_of_an_empty_log() -> None:
    assert {v.outcome for v in EXPERIMENT.verdicts(FrameLog(), Knobs()).values()} == {"undecided"}


@pytest.mark.parametrize(
    ("heavy", "knob", "pattern"),
    [
        ({"side": "16", "depth": 8, "steps": 60, "seeds": 1}, "depth", r"at most (\d+) block"),
        ({"side": "16"}, "side", r"side of (\d+) pixels"),
        ({"task": "text", "context": 256, "depth": 6}, "context", r"text length of (\d+)"),
        ({"side": "16"}, "steps", r"(\d+) steps"),
    ],
)
def test_what_exceeds_the_work_is_refused_with_the_largest_that_fits(
    heavy: dict[str, object], knob: str, pattern: str
) -> None:
    setting = {"kinds": ALL, "seeds": 3, "steps": 200, **heavy}
    with pytest.raises(ValidationError, match="What fits") as refused:
        Knobs(**setting)  # type: ignore[arg-type]
    found = re.search(pattern, str(refused.value))
    assert found is not None
    value = found[1] if knob == "side" else int(found[1])
    assert getattr(Knobs(**{**setting, knob: value}), knob) == value  # type: ignore[arg-type]
    more = {
        "side": "16",
        "depth": int(found[1]) + 1,
        "context": int(found[1]) + 8,
        "steps": int(found[1]) + 1,
    }
    with pytest.raises(ValidationError, match="What fits"):
        Knobs(**{**setting, knob: more[knob]})  # type: ignore[arg-type]


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


def test_server_side_loads_no_torch() -> None:
    code = (
        "import sys; from normviz.experiments.attention_entropy import EXPERIMENT, Knobs; from normviz.frame import "
        "FrameLog; EXPERIMENT.figures(FrameLog(), Knobs()); import normviz.figures.query_norm; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
