"""Every experiment's seeds can be trained apart: a part of a run has the frames that the whole run has, bit for bit."""

from __future__ import annotations

import pytest

from normviz.experiments import SLUGS, get_experiment
from normviz.frame import Frame
from tests.engine.members import by_member

CLOCK = (
    "step_ms",
    "optimizer_ms",
    "weighting_cost",
    "seconds_by_length",
    "time_exponent",
    "ms_by_tokens",
    "token_ms",
    "sweep_token_ms",
    "sum_ms",
    "fusion_ms",
)
"""Values that say how long something took."""

SMALL: list[tuple[str, dict[str, object]]] = [
    ("normalization-statistics", {"task": "vision", "norms": "batch,layer", "steps": 10}),
    ("self-normalizing", {"steps": 10, "arms": "snn,relu"}),
    ("evolving-layers", {"layers": "B0,S0", "batch_sizes": "8", "steps": 10}),
    (
        "evolving-layers",
        {"mode": "search", "strategies": "pareto", "budget": 1, "population": 3, "trial_steps": 10},
    ),
    ("effective-learning-rate", {"arms": "none,nap", "phases": 1, "period": 20, "remedies": "l2"}),
    (
        "effective-learning-rate",
        {"task": "games", "tasks": 1, "cycles": 1, "task_steps": 200, "agents": "layer"},
    ),
    ("optimizer-spectra", {"task": "regression", "optimizers": "adamw,normuon", "grid": "1", "steps": 20}),
    ("residual-depth", {"depth": 4, "methods": "plain,fixup", "steps": 10}),
    ("residual-depth", {"task": "expansion", "depth": 8, "order": 2, "width": 8, "methods": "plain,inv"}),
    ("attention-entropy", {"kinds": "softmax,nala_cosine", "side": "4", "longest": "1024", "steps": 10}),
    ("lora-limits", {"arms": "exact,taylor,kept", "steps": 10, "length": 64, "longest_exact": "1024"}),
    ("context-adapters", {"arms": "lora,kpa,ipa_noise,full", "steps": 10, "first_steps": 50, "samples": 32}),
    (
        "modular-diffusion",
        {"arms": "orthogonal,lora", "steps": 10, "base_steps": 50, "hidden": 32, "concepts": 2},
    ),
    ("sample-reweighting", {"strategies": "uniform,linupper", "batch_size": 8, "steps": 10}),
    ("sample-reweighting", {"task": "regression", "steps": 10}),
    ("shifting-statistics", {"task": "grid", "methods": "source,alpha", "images": 64, "source_epochs": 1}),
    ("shifting-statistics", {"task": "tasks", "norms": "bn,ada_04", "replay_size": 2}),
    (
        "shifting-statistics",
        {"methods": "source,alpha,core", "images": 64, "batch_size": 16, "source_epochs": 1},
    ),
    ("schedule-refinement", {"task": "text", "schedules": "refined,linear", "rates": 1, "steps": 40}),
    (
        "schedule-refinement",
        {"schedules": "refined,flat", "rates": 3, "steps": 40},
    ),
    ("noisy-labels", {"arms": "plain,storm", "steps": 50, "passes": 1}),
    ("reward-normalization", {"estimators": "bnpo,grpo", "steps": 10, "questions": 4, "group": 2}),
    (
        "federated-pruning",
        {"arms": "fedtiny,feddst", "clients": 3, "pool_size": 2, "interval": 1, "rounds": 3},
    ),
    ("adaptive-data-analysis", {"task": "climb", "queries": 100, "mechanisms": "plain,gaussian"}),
    ("adaptive-data-analysis", {"task": "holdout", "rows": 200, "queries": 100}),
    ("adaptive-data-analysis", {"task": "universe", "rows": 200, "queries": 100}),
    ("adaptive-data-analysis", {"rows": 200, "queries": 100, "budget": 3, "sparse_noise": "laplace"}),
    ("active-learning", {"task": "animals"}),
    (
        "active-learning",
        {"steps": 10, "particles": 8, "classes": 2, "queries": 3, "rivals": "minimax,prior,uniform"},
    ),
    ("conditional-normalization", {"task": "paint", "painters": "sstan,sean", "steps": 10}),
    (
        "conditional-normalization",
        {"models": "late,loan_day", "patches": 200, "epochs": 1, "width": 4, "season": 1.0},
    ),
    ("compatible-representations", {"arms": "lam_1,strict,fastfill", "steps": 10, "new_steps": 20}),
    (
        "vision-modulation",
        {"arms": "attention,frozen,pooled,concat", "host_steps": 10, "filler": 2, "steps": 10},
    ),
    (
        "entropy-decoding",
        {"steps": 10, "prompts": 2, "batch_size": 4, "large_width": 40, "rivals": "random,speculative"},
    ),
    (
        "adaptive-batch-size",
        {"task": "toy", "arms": "small,norm,coordinates", "samples": 1000, "eta": 0.5},
    ),
]


def test_each_experiment_has_a_row() -> None:
    assert {slug for slug, _ in SMALL} == set(SLUGS)


@pytest.mark.slow
@pytest.mark.parametrize(("slug", "values"), SMALL)
def test_parts_have_the_frames_of_the_whole(slug: str, values: dict[str, object]) -> None:
    experiment = get_experiment(slug)
    assert experiment.divisible, "an experiment whose seeds cannot be parted needs no row here"
    knobs = experiment.knobs.parse({**values, "seeds": 2, "first_seed": 3})
    parts: list[Frame] = []
    for seed in (4, 3):
        parts += experiment.frames(knobs.for_seeds([seed]), "cpu")
    whole = by_member(experiment.frames(knobs, "cpu"), CLOCK)
    assert {seed for _, seed in whole} == {3, 4}
    assert by_member(parts, CLOCK) == whole
