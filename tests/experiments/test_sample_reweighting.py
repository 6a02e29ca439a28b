from __future__ import annotations

import math
import re
from codecs import encode
from functools import partial

import numpy as np
import pytest
import torch

from normviz.data import TextCorpus
from normviz.experiments.sample_reweighting import EXPERIMENT, Knobs, run
from normviz.experiments.sample_reweighting import frames as frames_module
from normviz.experiments.sample_reweighting.claims import CLAIMS
from normviz.experiments.sample_reweighting.devices import device_values
from normviz.experiments.sample_reweighting.frames import frames
from normviz.experiments.sample_reweighting.knobs import (
    CONTEXT,
    NO_REPEATS,
    STRATEGY_NAMES,
    TEXT_SOURCES,
    arm_name,
)
from normviz.experiments.sample_reweighting.regression import CORRUPTED, REDUNDANT, REGULAR, make_problem
from normviz.experiments.sample_reweighting.sample_rows import NO_BREAK, readable
from normviz.experiments.sample_reweighting.text_mixture import TextMixture
from normviz.experiments.sample_reweighting.weight_curves import SCORES, normalized_losses
from normviz.frame import FrameLog
from normviz.testing import log_of_rows
from normviz.weighting import STRATEGIES, normalize_losses, sample_weights

ALL = tuple(STRATEGY_NAMES)
CLAIM = {claim.id: claim for claim in CLAIMS}
LANGUAGE = Knobs()
REGRESSION = Knobs(task="regression")
TINY = {"steps": 10, "seeds": 1, "batch_size": 8, "warmup": 2}


@pytest.fixture(scope="module")
def language() -> FrameLog:
    return FrameLog(frames(Knobs(strategies=ALL, **TINY), "cpu"))


@pytest.fixture(scope="module")
def regression() -> FrameLog:
    knobs = Knobs(task="regression", strategies=ALL, steps=40, seeds=2, warmup=3)
    return FrameLog(frames(knobs, "cpu"))


# ----------------------------------------------------------------------------------------------- text of mixed quality


@pytest.fixture(scope="module")
def corpus() -> TextCorpus:
    text = "the quick brown fox jumps over the lazy dog, twice. " * 40
    return TextCorpus.from_documents("fox", {"a": text + "A", "b": text.upper()})


def test_sources_of_text(corpus: TextCorpus) -> None:
    mixture = TextMixture(corpus, 20, 200, (0.25, 0.25, 0.25, 0.25), 3)
    tokens, targets, source = mixture(0, 4)
    assert tokens.shape == targets.shape == (200, 20)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    whole = corpus.decode(corpus.tokens)
    of = {name: tokens[source == i] for i, name in enumerate(TEXT_SOURCES)}
    for row in of["clean"]:
        assert corpus.decode(row) in whole
    assert len({corpus.decode(row) for row in of["duplicated"]}) <= 3
    for row in of["foreign"]:
        assert encode(corpus.decode(row), "rot13") in whole
    assert sum(corpus.decode(row) in whole for row in of["shuffled"]) == 0


def test_mixture_is_a_function_of_seed_and_step_with_these_shares(corpus: TextCorpus) -> None:
    shares = (0.2, 0.5, 0.3, 0.0)
    mixture = TextMixture(corpus, 10, 400, shares, 2)
    for a, b in zip(mixture(1, 7), mixture(1, 7), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(mixture(1, 7)[0], mixture(1, 8)[0])
    counts = torch.bincount(torch.cat([mixture(0, s)[2] for s in range(10)]), minlength=4) / 4000
    np.testing.assert_allclose(counts.numpy(), shares, atol=0.03)
    repeated = {corpus.decode(r) for s in range(5) for r in mixture(1, s)[0][mixture(1, s)[2] == 1]}
    assert len(repeated) == 2


def test_held_out_text_was_never_drawn(corpus: TextCorpus) -> None:
    mixture = TextMixture(corpus, 10, 8, (1, 0, 0, 0), 2)
    clean, repeated, shuffled, foreign = mixture.held_out(3, 5)
    val = corpus.resplit(3).windows("val", 10, limit=5)
    assert torch.equal(clean[0], val.tokens)
    assert len(repeated[0]) == 2
    whole = torch.cat([shuffled[0], shuffled[1][:, -1:]], 1)
    assert torch.equal(whole.sort(1).values, torch.cat([val.tokens, val.targets[:, -1:]], 1).sort(1).values)
    assert encode(corpus.decode(foreign[0][0]), "rot13") == corpus.decode(val.tokens[0])


# ------------------------------------------------------------------------------------------------------------ frames


def test_language_frames(language: FrameLog) -> None:
    assert language.arms == list(STRATEGY_NAMES.values())
    assert not language.events
    for arm in language.arms:
        steps = language.scalars("batch_loss")
        assert sorted(steps.loc[steps["arm"] == arm, "step"]) == list(range(10))
    table = language.to_dataframe()
    shares = table[[f"share/{name}" for name in TEXT_SOURCES]].dropna()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    warm = table[table["step"] < 2]
    assert (warm["weight_log_ratio"].dropna() == 0).all()
    np.testing.assert_allclose(warm["loss"], warm["batch_loss"], rtol=1e-6)
    later = table[(table["step"] >= 2) & (table["arm"] == "LinUpper")]["weight_log_ratio"].dropna()
    assert (later > 0).all()


def test_weights_of_logged_samples_follow_from_their_losses(language: FrameLog) -> None:
    knobs = Knobs(strategies=("linupper",), **{**TINY, "warmup": 0, "r": 0.7})
    log = FrameLog(frames(knobs, "cpu"))
    for loss, weight in zip(
        log.array_history("sample_loss"), log.array_history("sample_weight"), strict=True
    ):
        l = loss.value.astype(float)
        h = (2 * l - l.max() - l.min()) / (l.max() - l.min())
        e = np.exp(np.minimum(h + 1, 1) / 0.7)
        np.testing.assert_allclose(weight.value, e / e.sum(), rtol=1e-4)


def test_text_travels_as_character_codes(language: FrameLog) -> None:
    from pydoc_data.topics import topics

    entry = language.arrays("sample_text")[0]
    source = language.arrays("sample_source")[0].value
    assert entry.value.shape == (8, CONTEXT)
    whole = "".join(topics.values()).replace("\n", "⏎").replace("\t", " ")
    clean = [readable(row) for row, s in zip(entry.value, source, strict=True) if s in (0, 1)]
    assert clean
    assert all(text in whole for text in clean)


@pytest.mark.parametrize(
    "setting",
    [
        {**TINY, "strategies": ("uniform", "linupper")},
        {**TINY, "task": "regression", "steps": 12, "samples": 16},
    ],
)
def test_seeds_trained_apart_give_the_same_frames(setting: dict[str, object]) -> None:
    knobs = Knobs(**{**setting, "seeds": 2, "first_seed": 3})
    whole = [frame for frame in frames(knobs, "cpu") if frame.seed == 4]
    alone = list(frames(knobs.for_seeds([4]), "cpu"))
    assert [(f.step, f.arm) for f in alone] == [(f.step, f.arm) for f in whole]
    for a, b in zip(alone, whole, strict=True):
        assert a.values.keys() == b.values.keys()
        for name in a.values.keys() - {"weighting_cost"}:
            np.testing.assert_array_equal(a.values[name], b.values[name])


def test_twins_read_the_same_text_but_for_the_repeats() -> None:
    knobs = Knobs(strategies=("uniform", "linupper"), without_repeats=True, **TINY)
    arms = knobs.shown_arms()
    assert list(arms) == [a + end for end in ("", NO_REPEATS) for a in ("Uniform", "LinUpper")]
    assert arms["LinUpper"].colour == arms["LinUpper" + NO_REPEATS].colour == 0
    assert arms["LinUpper"].dash != arms["LinUpper" + NO_REPEATS].dash
    log = FrameLog(frames(knobs, "cpu"))
    assert log.arms == list(arms)
    shares = log.scalars("share/duplicated").groupby("arm")["value"].max()
    assert shares["Uniform"] > 0.2
    assert shares["Uniform" + NO_REPEATS] == shares["LinUpper" + NO_REPEATS] == 0
    start = log.scalars("heldout_loss").query("step == 0")["value"]
    assert start.nunique() == 1
    without = FrameLog(frames(Knobs(strategies=("uniform",), redundant=0.0, **TINY), "cpu"))
    losses = log.scalars("loss").query("arm == 'Uniform, no repeats'")["value"].to_numpy()
    np.testing.assert_array_equal(losses, without.scalars("loss")["value"].to_numpy())
    for off in (Knobs(without_repeats=True, redundant=0.0), Knobs(without_repeats=True, task="regression")):
        assert not off.has_twins()


def test_annealed_r_starts_flat() -> None:
    ratios = {}
    for schedule in ("constant", "annealed"):
        knobs = Knobs(strategies=("linupper",), schedule=schedule, **{**TINY, "warmup": 0})
        log = FrameLog(frames(knobs, "cpu"))
        ratios[schedule] = log.scalars("weight_log_ratio")["value"].tolist()
    assert ratios["annealed"][0] == pytest.approx(ratios["constant"][0] / 5, rel=1e-5)
    assert ratios["annealed"][-1] > ratios["annealed"][0]


def test_divergence_stops_one_member_only() -> None:
    knobs = Knobs(task="regression", strategies=("linupper",), steps=20, seeds=1, samples=16)
    log = FrameLog(frames(knobs.model_copy(update={"step_size": 400.0}), "cpu"))
    assert len(log.events) == 1
    assert "diverged at step" in log.events[0].text
    assert math.isinf(log.final("loss")["value"].iloc[0])


# -------------------------------------------------------------------------------------------------------- regression


def test_samples_of_the_problem() -> None:
    knobs = Knobs(task="regression", samples=40, redundant=0.5, corrupted=0.1, duplicates=4)
    x, y, source, held_out, theta = make_problem(knobs, 3)
    assert torch.bincount(source).tolist() == [16, 20, 4]
    error = (y - x @ theta).abs()
    assert error[source != CORRUPTED].max() < 1e-12
    assert error[source == CORRUPTED].min() > 0.1
    copies = torch.nn.functional.normalize(x[source == REDUNDANT], dim=1)
    near = (copies @ copies.T > 0.95).sum(1)
    assert (near == 5).all()
    lengths = held_out.norm(dim=1)
    assert lengths.log().std().item() == pytest.approx(0.7, abs=0.06)
    assert (x[source == REGULAR].norm(dim=1).log().abs() < 4).all()


def test_regression_equals_numpy_loop() -> None:
    knobs = Knobs(
        task="regression", strategies=("quadratic",), steps=12, seeds=1, samples=20, warmup=4, r=0.3
    )
    log = FrameLog(frames(knobs, "cpu"))
    x, y, _, held_out, theta_true = (t.numpy() for t in make_problem(knobs, 0))
    theta = np.zeros(x.shape[1])
    eta = 1 / (x**2).sum(1).max()
    gaps, expected, bounds = [], [], []
    for step in range(12):
        expected.append(0.5 * np.mean((held_out @ (theta - theta_true)) ** 2))
        residual = x @ theta - y
        l = 0.5 * residual**2
        h = (2 * l - l.max() - l.min()) / (l.max() - l.min())
        e = np.exp((1 - h**2) / 0.3)
        w = e / e.sum() if step >= 4 else np.full(20, 1 / 20)
        gaps.append((l, w))
        theta = theta - eta * (w * residual) @ x
        correction = np.mean([((b - 1 / 20) * a).sum() for a, b in gaps])
        bounds.append((theta_true**2).sum() / (2 * eta * (step + 1)) - correction)
    measured = log.scalars("heldout_loss")["value"].to_numpy()
    np.testing.assert_allclose(measured[:12], expected, rtol=1e-10)
    np.testing.assert_allclose(log.scalars("bound")["value"], np.array(bounds)[[0, 5, 10]], rtol=1e-10)
    assert len(measured) == 13


def test_regression_bound_holds_and_linupper_tightens_it(regression: FrameLog) -> None:
    table = regression.to_dataframe().dropna(subset=["bound"])
    assert (table["average_gap"] <= table["bound"]).all()
    saving = table[table["arm"].isin(["LinUpper", "Upper"])]["bound_saving"]
    assert (saving >= -1e-12).all()
    assert (table[table["arm"] == "Uniform"]["bound_saving"].abs() < 1e-12).all()


def test_corrupted_targets_have_no_bound() -> None:
    knobs = Knobs(task="regression", strategies=("linupper",), steps=10, seeds=1, corrupted=0.2)
    log = FrameLog(frames(knobs, "cpu"))
    assert "bound" not in log.scalar_names
    assert "heldout_loss" in log.scalar_names


# ----------------------------------------------------------------------------------------------------------- devices


def test_device_values_by_hand() -> None:
    losses = torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=torch.float64)
    values = device_values(losses, "linupper", 0.5, 2)
    assert values["device_gap"] < 1e-12

    def weights(l: np.ndarray) -> np.ndarray:
        h = (2 * l - l.max() - l.min()) / (l.max() - l.min())
        e = np.exp(np.minimum(h + 1, 1) / 0.5)
        return e / e.sum()

    whole = weights(np.array([1.0, 2, 5, 9]))
    local = np.concatenate([weights(np.array([1.0, 2])), weights(np.array([5.0, 9]))]) / 2
    assert values["local_weight_error"] == pytest.approx(0.5 * np.abs(whole - local).sum(), abs=1e-12)
    assert device_values(losses, "linupper", 0.5, 1)["local_weight_error"] == 0
    assert device_values(losses, "uniform", 0.5, 4)["local_weight_error"] == pytest.approx(0, abs=1e-12)


# ----------------------------------------------------------------------------------------------------------- figures


def test_scores_are_those_of_the_library() -> None:
    h = torch.linspace(-1, 1, 41, dtype=torch.float64)
    assert set(STRATEGIES) == set(STRATEGY_NAMES)
    for name, f in STRATEGIES.items():
        np.testing.assert_allclose(SCORES[STRATEGY_NAMES[name]](h.numpy()), f(h, 1.0).numpy(), atol=1e-15)
    losses = np.array([1.0, 2, 3, 5])
    np.testing.assert_allclose(normalized_losses(losses), normalize_losses(torch.tensor(losses)).numpy())
    assert not normalized_losses(np.full(3, 2.0)).any()


def test_figures_of_a_full_log(language: FrameLog, regression: FrameLog) -> None:
    for log, knobs in (
        (language, Knobs(strategies=ALL, **TINY)),
        (regression, Knobs(task="regression", strategies=ALL, steps=40, seeds=2)),
    ):
        for step in (None, 7):
            for figure in EXPERIMENT.figures(log, knobs, step).values():
                assert figure.data is not None
                assert not figure.data.empty
                assert set(figure.data["arm"].str.partition(",")[0]) <= set(knobs.shown_arms())
                assert "nothing is measured" not in figure.alt


def test_browser_computes_the_library_s_weights() -> None:
    """Vega's softmax, run by vl-convert, against sample_weights."""
    losses = np.array([1.0, 2.0, 3.0, 5.0, 4.0], dtype=np.float32)
    values = {"sample_loss": losses, "sample_weight": np.ones(5), "sample_source": np.array([0, 1, 2, 3, 0])}
    log = log_of_rows([(0, "LinUpper", 0, values)])
    knobs = Knobs(strategies=("linupper",), r=0.25)
    svg = EXPERIMENT.figures(log, knobs)["weights"].to_svg()
    assert "max ÷ min ≤ e^(1/r) = 54.6" in svg
    shown = re.findall(r'aria-label="normalised loss h: ([^;]+); weight ÷ uniform: ([^;"]+)', svg)
    points = {(float(h.replace("−", "-")), round(float(w), 3)) for h, w in shown}
    w = 5 * sample_weights(torch.tensor(losses), "linupper", 0.25)
    for h, weight in zip(normalized_losses(losses.astype(float)), w.tolist(), strict=True):
        assert any(abs(h - a) < 1e-3 and abs(weight - b) < 2e-3 for a, b in points), (h, weight)


def test_rows_of_samples(language: FrameLog) -> None:
    figure = EXPERIMENT.figures(language, Knobs(strategies=ALL, **TINY))["samples"]
    assert figure.data is not None
    rows = figure.data[figure.data["arm"] == "LinUpper"]
    assert rows["row"].tolist() == [0, 1, 2, 4, 5, 6]  # of the eight samples one comes three times
    assert rows["passage"].is_unique
    assert rows["text"].str.contains("×3").sum() == 1
    assert (rows["weight"].diff().dropna() <= 1e-9).all()
    assert not rows["text"].str.contains(" ").any()
    assert rows["text"].str.contains(NO_BREAK).all()
    assert readable(np.array([72.0, 10.0, 105.0])) == "H⏎i"


# ------------------------------------------------------------------------------------------------------------ claims


def held_out(values: dict[str, list[float]]) -> FrameLog:
    """A log of the last three evaluations of a run of ten steps."""
    return log_of_rows(
        [
            (step, arm, seed, {"heldout_loss": v})
            for step in (6, 8, 10)
            for arm, per_seed in values.items()
            for seed, v in enumerate(per_seed)
        ]
    )


def per_seed(name: str, log: FrameLog, knobs: Knobs) -> dict[str, dict[int, float]]:
    return {i.rival: dict(i.per_seed) for i in CLAIM[name].verdict(log, knobs).intervals}


def test_language_claims_by_hand() -> None:
    log = held_out(
        {
            "Uniform": [3.0, 3.1],
            "LinUpper": [2.5, 2.4],
            "Quadratic": [2.7, 2.3],
            "Extremes": [3, 3],
            arm_name("uniform", repeats=False): [2.9, 2.9],
            arm_name("linupper", repeats=False): [2.8, 3.0],
        }
    )
    knobs = Knobs(steps=10)
    assert per_seed("linupper-beats-uniform", log, knobs)[""] == pytest.approx({0: -0.5, 1: -0.7})
    rivals = per_seed("linupper-best", log, knobs)
    assert rivals["Quadratic"] == pytest.approx({0: -0.2, 1: 0.1})
    assert rivals["Extremes"] == pytest.approx({0: -0.5, 1: -0.6})
    twins = Knobs(steps=10, without_repeats=True)
    assert per_seed("gain-comes-from-repeats", log, twins)[""] == pytest.approx({0: -0.4, 1: -0.8})
    many = Knobs(steps=10, shuffled=0.1, foreign=0.08)
    assert per_seed("quadratic-with-outliers", log, many)[""] == pytest.approx({0: 0.2, 1: -0.1})
    for name in ("quadratic-with-outliers", "gain-comes-from-repeats"):
        assert not CLAIM[name].verdict(log, knobs).measured
    for other in (Knobs(steps=10, redundant=0.4), REGRESSION):
        assert not CLAIM["linupper-beats-uniform"].verdict(log, other).measured


def test_regression_claims_by_hand() -> None:
    curves = {
        "Uniform": [8.0, 4.0, 2.0, 1.0, 0.5],
        "LinUpper": [8.0, 2.0, 0.5, 0.1, 0.05],
        "Quadratic": [8.0, 7.0, 5.0, 2.0, 1.0],
        "Extremes": [8.0, 6.0, 4.0, 2.0, 1.0],
    }
    rows = [(10 * s, arm, 0, {"heldout_loss": v}) for arm, c in curves.items() for s, v in enumerate(c)]
    log, knobs = log_of_rows(rows), Knobs(task="regression", steps=40, seeds=1)
    assert per_seed("regression-linupper", log, knobs) == {"": {0: 2.0}}
    assert per_seed("regression-quadratic", log, knobs) == {"": {0: pytest.approx(0.75)}}
    fastest = per_seed("regression-linupper-fastest", log, knobs)
    there = 10 + 10 * (2.0 - 1.0) / (2.0 - 0.5)
    assert fastest["Uniform"] == {0: 2.0}
    assert fastest["Quadratic"] == fastest["Extremes"] == {0: pytest.approx(40 / there)}
    corrupted = Knobs(task="regression", corrupted=0.1, steps=40, seeds=1)
    for name in ("regression-linupper", "regression-quadratic", "regression-linupper-fastest"):
        assert not CLAIM[name].verdict(log, corrupted).measured


def test_bound_and_exact_claims_by_hand() -> None:
    rows = [
        (0, "LinUpper", 0, {"average_gap": 2.0, "bound": 8.0, "bound_saving": 0.5, "weight_log_ratio": 2.0}),
        (5, "LinUpper", 0, {"average_gap": 3.0, "bound": 4.0, "bound_saving": 0.25, "weight_log_ratio": 2.5}),
        (5, "Uniform", 0, {"average_gap": 1.0, "bound": 4.0, "bound_saving": 0.0, "device_gap": 1e-7}),
    ]
    log, knobs = log_of_rows(rows), Knobs(task="regression", seeds=1)
    expected = {
        "bound-holds": 0.75,
        "linupper-tightens-bound": 0.25,
        "bounded-weights": 1,
        "devices-add-up": 1e-7,
    }
    for name, value in expected.items():
        assert per_seed(name, log, knobs) == {"": {0: pytest.approx(value)}}
        assert CLAIM[name].verdict(log, knobs).outcome == "reproduced"
        assert CLAIM[name].identity
    assert not CLAIM["bound-holds"].verdict(log, Knobs(task="regression", step_size=1.5)).measured
    broken = log_of_rows([(0, "LinUpper", 0, {"weight_log_ratio": 2.6, "average_gap": 2.0, "bound": 1.0})])
    assert CLAIM["bounded-weights"].verdict(broken, knobs).outcome == "opposite"
    assert CLAIM["bound-holds"].verdict(broken, knobs).outcome == "opposite"


def test_cost_claim_takes_the_median() -> None:
    log = log_of_rows([(s, "LinUpper", 0, {"weighting_cost": c}) for s, c in enumerate([0.5, 0.7, 90.0])])
    knobs = Knobs(seeds=1, steps=10).model_copy(update={"steps": 3})
    assert per_seed("costs-nothing", log, knobs) == {"": {0: 0.7}}


def test_measured_logs_give_verdicts(language: FrameLog, regression: FrameLog) -> None:
    verdicts = EXPERIMENT.verdicts(language, Knobs(strategies=ALL, **TINY))
    assert verdicts["bounded-weights"].outcome == "reproduced"
    assert verdicts["devices-add-up"].outcome == "reproduced"
    assert verdicts["linupper-beats-uniform"].per_seed
    assert 0 < verdicts["costs-nothing"].estimate < 100
    verdicts = EXPERIMENT.verdicts(regression, Knobs(task="regression", strategies=ALL, steps=40))
    assert verdicts["bound-holds"].outcome == "reproduced"
    assert verdicts["linupper-tightens-bound"].outcome == "reproduced"


def test_notebook_call() -> None:
    result = run(
        Knobs(task="regression", strategies=("uniform", "linupper"), steps=10, seeds=1), device="cpu"
    )
    assert result.status == "done"
    assert result.log.last_step == 10
    assert "heldout" in result.figures()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_members_trained_together_get_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA does: the members of an arm in one vmap, each with its own warm-up counter."""
    knobs = Knobs(strategies=("linupper", "quadratic"), **{**TINY, "seeds": 2, "warmup": 3})
    apart = FrameLog(frames(knobs, "cpu"))
    monkeypatch.setattr(frames_module, "train", partial(frames_module.train, together=True))
    together = FrameLog(frames(knobs, "cpu"))
    keys = ["step", "arm", "seed"]
    for name in ("batch_loss", "weight_log_ratio", "share/duplicated", "loss"):
        a, b = (log.scalars(name).set_index(keys)["value"].sort_index() for log in (apart, together))
        np.testing.assert_allclose(a.loc[b.index], b, rtol=2e-3, atol=1e-4)
