"""The claims of the page *Optimizer spectra* on logs made by hand, and the presets that decide them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from normviz.experiments.optimizer_spectra import EXPERIMENT, Knobs
from normviz.experiments.optimizer_spectra.best import chosen_members
from normviz.experiments.optimizer_spectra.claims import CLAIMS
from normviz.experiments.optimizer_spectra.knobs import (
    PLANS,
    member_name,
)
from normviz.frame import Frame, FrameLog
from normviz.testing import merged
from tests.experiments.optimizer_logs import log_at

CLAIM = {claim.id: claim for claim in CLAIMS}


def measured(id: str, log: FrameLog, rival: str = "", **values: Any) -> dict[int, float]:
    """The numbers of the seeds that have one, in a run that ends where the log does."""
    knobs = Knobs(**{"seeds": max(len(log.seeds), 1), "steps": max(log.last_step, 20), **values})
    found = CLAIM[id].rivals[rival](log, knobs)
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def test_speed_up_by_hand() -> None:
    runs = {
        "adamw": {0: [10, 8, 6, 4, 4, 4], 1: [10, 8, 6, 4, 4, 4]},
        "sinkgd": {0: [10, 6, 2, 2, 2, 2], 1: [10, 9, 8, 7, 7, 7]},
    }
    log = log_at("validation_loss", runs)
    # Seed 0: 4 is reached halfway between steps 10 and 20, AdamW has 50 steps. Seed 1: AdamW is at 7 halfway
    # between steps 10 and 20, SinkGD after 50 steps.
    assert measured("sinkgd-speed-up", log) == pytest.approx({0: 50 / 15, 1: 15 / 50})
    assert measured("sinkgd-beats-adam", log) == pytest.approx({0: -2.0, 1: 3.0})
    assert measured("swan-speed-up", log) == {}
    short = log_at("validation_loss", {"adamw": {0: [3, 2]}, "sinkgd": {0: [3, 2]}}, every=20)
    assert measured("sinkgd-speed-up", short) == {}


@pytest.mark.parametrize(
    ("id", "arm", "baseline"),
    [
        ("sinkgd-speed-up", "sinkgd", "adamw"),
        ("swan-speed-up", "swan", "adamw"),
        ("normuon-beats-adam", "normuon", "adamw"),
        ("normuon-beats-muon", "normuon", "muon"),
        ("conda-speed-up", "conda", "adamw"),
    ],
)
def test_which_arms_the_speed_ups_compare(id: str, arm: str, baseline: str) -> None:
    log = log_at("loss", {baseline: {0: [4, 2, 1, 1, 1]}, arm: {0: [4, 1, 1, 1, 1]}})
    assert measured(id, log, task="regression") == {0: 4.0}


@pytest.mark.parametrize(
    ("id", "arm", "baseline", "rival"),
    [
        ("sinkgd-beats-adam", "sinkgd", "adamw", ""),
        ("sinkgd-beats-low-rank", "sinkgd", "galore", "GaLore"),
        ("sinkgd-beats-low-rank", "sinkgd", "fira", "Fira"),
        ("swan-beats-adam", "swan", "adamw", ""),
        ("swan-needs-whitening", "swan", "gradnorm", ""),
        ("swan-needs-gradnorm", "swan", "whitening", ""),
        ("conda-beats-rivals", "conda", "adamw", "AdamW"),
        ("conda-beats-rivals", "conda", "muon", "Muon"),
        ("conda-beats-rivals", "conda", "adafactor", "Adafactor"),
        ("conda-beats-rivals", "conda", "soap", "SOAP"),
        ("fira-beats-galore", "fira", "galore", ""),
        ("fira-beats-lora", "fira", "lora", ""),
        ("fira-matches-full-rank", "fira", "adamw", ""),
    ],
)
def test_which_arms_the_losses_compare(id: str, arm: str, baseline: str, rival: str) -> None:
    log = log_at("validation_loss", {baseline: {0: [9, 3, 3, 3]}, arm: {0: [9, 1, 2, 3]}})
    assert measured(id, log, rival) == {0: -1.0}
    assert measured(id, log_at("validation_loss", {arm: {0: [3, 3, 3]}}), rival) == {}


def test_a_diverged_optimizer_counts_against_itself() -> None:
    log = log_at("validation_loss", {"adamw": {0: [3, 2, 1]}, "sinkgd": {0: [3, 2, 1]}})
    log.append(Frame.diverged(20, "SinkGD, lr 1", 0, "loss is inf"))
    assert measured("sinkgd-beats-adam", log) == {0: math.inf}
    assert measured("sinkgd-speed-up", log) == {0: 0.0}


def test_a_seed_is_judged_at_the_rate_that_the_other_seeds_choose() -> None:
    losses = {
        "AdamW, lr 0.1": {0: [9, 1.0, 1.0, 1.0], 1: [9, 5.0, 5.0, 5.0], 2: [9, 3.0, 3.0, 3.0]},
        "AdamW, lr 0.3": {0: [9, 4.0, 4.0, 4.0], 1: [9, 2.0, 2.0, 2.0], 2: [9, 3.5, 3.5, 3.5]},
        "SinkGD, lr 0.1": {0: [9, 0.0, 0.0, 0.0], 1: [9, 0.0, 0.0, 0.0], 2: [9, 0.0, 0.0, 0.0]},
    }
    log = log_at("validation_loss", losses)
    # Means without seed 0: 4 and 2.75; without seed 1: 2 and 3.75; without seed 2: 3 and 3.
    assert measured("sinkgd-beats-adam", log) == {0: -4.0, 1: -5.0, 2: -3.0}
    knobs = Knobs(seeds=3, steps=30)
    assert chosen_members(log, knobs)["AdamW"] == "AdamW, lr 0.1"
    assert chosen_members(log, knobs, without=0)["AdamW"] == "AdamW, lr 0.3"
    alone = FrameLog(frame for frame in log.frames if frame.seed == 1)
    assert chosen_members(alone, Knobs(seeds=1), without=1)["AdamW"] == "AdamW, lr 0.3"


def test_time_is_steps_times_the_median_step() -> None:
    losses = {"adamw": {0: [4, 2, 1, 1, 1]}, "conda": {0: [4, 1, 1, 1, 1]}}
    times = {"adamw": {0: [2, 2, 90, 2, 90]}, "conda": {0: [4, 4, 4, 4, 4]}}
    log = merged(log_at("validation_loss", losses), log_at("step_ms", times))
    assert measured("conda-time-speed-up", log) == {0: 4 * 2 / 4}


def test_costs_are_ratios_of_medians() -> None:
    log = log_at("optimizer_ms", {"sinkgd": {0: [1, 1, 50]}, "swan": {0: [4, 4, 4]}})
    assert measured("sinkgd-cheaper-than-swan", log) == {0: 0.25}
    log = log_at("step_ms", {"swan": {0: [3, 3, 3]}, "adamw": {0: [2, 2, 9]}})
    assert measured("swan-diagonal-throughput", log) == {0: 1.5}
    assert not CLAIM["swan-diagonal-throughput"].applies(Knobs())


def test_spectra_are_judged_in_the_second_half() -> None:
    runs = {"muon": {0: [9, 9, 0.3, 0.5, 0.4]}, "normuon": {0: [9, 9, 0.1, 0.1, 0.1]}}
    log = log_at("row_cv", runs)
    assert measured("muon-rows-uneven", log) == pytest.approx({0: 0.4})
    assert measured("normuon-rows-even", log) == pytest.approx({0: 0.25})
    for id in ("muon-rows-uneven", "normuon-rows-even", "normuon-keeps-conditioning"):
        assert CLAIM[id].applies(Knobs())
        assert not CLAIM[id].applies(Knobs(matrix="wide"))
    runs = {"muon": {0: [1, 9, 20]}, "conda": {0: [1, 9, 200]}, "adamw": {0: [1, 9, 2e4]}}
    runs |= {"normuon": {0: [1, 9, 40]}}
    log = log_at("condition", {arm: {0: [*values[0], values[0][-1]]} for arm, values in runs.items()})
    assert measured("muon-conditioning", log) == pytest.approx({0: -3.0})
    assert measured("conda-conditioning", log) == pytest.approx({0: -2.0})
    assert measured("normuon-keeps-conditioning", log) == pytest.approx({0: math.log10(2)})


def test_memory_claims_count() -> None:
    log = merged(
        log_at("state_bytes", {"sinkgd": {0: [0.0]}}),
        log_at(
            "state_numbers", {"muon": {0: [100.0]}, "normuon": {0: [113.0]}, "fira": {0: [41.0], 1: [43.0]}}
        ),
        log_at("state_formula", {"fira": {0: [41.0], 1: [41.0]}}),
        log_at("rows", {"normuon": {0: [12.0]}}),
        log_at("training_bytes", {"swan": {0: [8.0]}, "adamw": {0: [16.0]}}),
    )
    assert measured("sinkgd-stateless", log) == {0: 0.0}
    assert measured("normuon-memory", log) == {0: 1.0}
    assert measured("fira-memory", log) == {0: 0.0, 1: 2.0}
    assert measured("swan-memory", log) == {0: 0.5}


def test_fira_is_compared_with_the_middle_between_galore_and_adam() -> None:
    def three(x: float) -> list[float]:
        return [x, x, x]

    log = log_at(
        "validation_loss",
        {
            "adamw": {0: three(1), 1: three(5)},
            "galore": {0: three(3), 1: three(4)},
            "fira": {0: three(1.5), 1: three(4)},
        },
    )
    assert measured("fira-near-adam", log) == {0: -0.5, 1: -0.5}  # no seed is left out, gap or not


def test_conda_with_and_without_new_bases() -> None:
    log = log_at("validation_loss", {"conda": {0: [3, 2, 2, 2]}, "conda_once": {0: [3, 1.75, 1.75, 1.75]}})
    assert measured("conda-robust-to-basis", log) == {0: 0.25}


def test_jitter_is_that_of_the_logarithm() -> None:
    swan, whitening = ([math.exp(0.1 * s + jitter * (s % 2)) for s in range(12)] for jitter in (0.2, 0.6))
    log = log_at("loss", {"swan": {0: swan}, "whitening": {0: whitening}}, every=2)
    late = [np.log(values)[6:] for values in (swan, whitening)]  # steps after 11 of 22
    expected = np.diff(late[0]).std(ddof=1) / np.diff(late[1]).std(ddof=1)
    assert measured("gradnorm-stabilizes", log, steps=22) == pytest.approx({0: expected})


def test_curvature_is_a_ratio_of_final_losses() -> None:
    log = log_at("loss", {"whitening": {0: [1, 0.01, 0.01, 0.01]}, "sgd": {0: [1, 0.1, 0.1, 0.1]}})
    assert measured("whitening-counters-curvature", log, task="regression") == pytest.approx({0: -1.0})


def test_firas_rank_and_factors() -> None:
    log = merged(
        log_at("rank", {"fira": {0: [1, 40, 40]}}),
        log_at("phi_spearman", {"fira": {0: [0, 0.9, 0.8]}}),
        log_at("phi_matrix_spearman", {"fira": {0: [0, 1, 0.5]}}),
    )
    assert measured("fira-full-rank", log, rank=16) == {0: 2.5}
    assert measured("fira-factors-agree", log) == pytest.approx({0: 0.85})
    assert measured("fira-matrix-factors-agree", log) == {0: 0.75}


def test_the_rise_after_a_bad_batch() -> None:
    calm = [5, 5, 5, 5, 5, 5, 5, 5, 2, 2, 2, 2, 2]
    runs = {"fira": {0: [*calm, 3, 2, 2]}, "fira_free": {0: [*calm, 2, 6, 2]}}
    log = log_at("loss", runs, every=1)
    assert measured("fira-limiter", log, steps=20) == {0: (3 - 2) - (6 - 2)}
    assert measured("fira-limiter", log_at("loss", {"fira": {0: calm}}, every=1), steps=20) == {}
    assert CLAIM["fira-limiter"].applies(Knobs(spike=True, optimizers=("fira", "fira_free")))
    assert not CLAIM["fira-limiter"].applies(Knobs(optimizers=("fira", "fira_free")))
    log.append(Frame.diverged(14, member_name("fira_free", 1.0), 0, "loss is inf"))
    assert measured("fira-limiter", log, steps=20) == {0: -math.inf}


def test_the_residual_must_not_rise_in_any_probe() -> None:
    def probe(step: int, member: str, values: list[float]) -> Frame:
        return Frame(step, member, 0, {"sinkhorn_residual": np.array(values)})

    log = log_at(
        "validation_loss", {"SinkGD, lr 1": {0: [1.0, 1.0, 1.0]}, "SinkGD, lr 3": {0: [9.0, 9.0, 9.0]}}
    )
    log.extend(
        [
            probe(0, "SinkGD, lr 1", [1.0, 0.5, 0.25]),
            probe(10, "SinkGD, lr 1", [1.0, 0.5, 0.75]),
            probe(20, "SinkGD, lr 1", [1.0, 0.9, 0.1]),
            probe(10, "SinkGD, lr 3", [0.1, 0.9]),
        ]
    )
    assert measured("sinkgd-residual-falls", log) == pytest.approx({0: 0.25})


def test_the_plan_and_the_sharded_step() -> None:
    plan = f"plan/{PLANS['sorted']}"
    log = FrameLog([Frame(0, "NorMuon, lr 1", 0, {plan: np.array([3.0, 1.0]), "sharded_difference": 2e-16})])
    assert measured("normuon-balanced", log) == {0: 1.5}
    assert measured("normuon-sharded", log) == {0: 2e-16}


def test_claims_are_decided_by_presets_that_have_their_optimizers() -> None:
    for claim in CLAIMS:
        knobs = EXPERIMENT.setting(claim.preset)
        assert claim.applies(knobs), claim.id
        others = Knobs(optimizers=("sgd",), spike=True, task=knobs.task, swan_scheme=knobs.swan_scheme)
        assert not claim.applies(others), claim.id
