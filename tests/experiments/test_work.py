"""How long a run takes: the estimate of every page, what it refuses, and what it must let pass."""

from __future__ import annotations

import math
from typing import Any

import pytest

from normviz.experiments import SLUGS, get_experiment
from normviz.knobs import KnobError, Knobs, duration

MOST = 600.0


def settings(slug: str) -> list[Knobs]:
    """All presets, and every option of every choice at the defaults."""
    schema, presets = get_experiment(slug).knobs, get_experiment(slug).presets
    found = [schema.parse(preset.knobs) for preset in presets.values()]
    for name, control in schema.controls().items():
        if control.kind == "choice":
            found += [schema.parse({name: option}, limited=False) for option in control.options]
    return found


@pytest.mark.parametrize("slug", SLUGS)
def test_an_estimate_is_finite_and_positive_and_grows_with_seeds_and_steps(slug: str) -> None:
    schema = get_experiment(slug).knobs
    lengths = {"steps", "samples", "rounds", "queries", "epochs", "images", "budget", "period", "task_steps"}
    grew = 0
    for knobs in settings(slug):
        assert math.isfinite(knobs.work())
        assert knobs.work() > 0
        assert schema.work_limit == MOST
        for name in lengths & set(schema.model_fields):
            work = [knobs.model_copy(update={name: v}).work() for v in (20, 40, 80)]
            assert work == sorted(work)
            grew += work[0] < work[1] < work[2]
        if "seeds" in schema.model_fields:
            one, two, four = (knobs.model_copy(update={"seeds": seeds}).work() for seeds in (1, 2, 4))
            assert two == pytest.approx(2 * one)
            assert four == pytest.approx(4 * one)
            assert knobs.for_seeds(knobs.seed_range()[:1]).work() == pytest.approx(one)
    assert grew > 0


@pytest.mark.parametrize("slug", SLUGS)
def test_every_run_that_evidence_asks_for_is_short_enough(slug: str) -> None:
    schema = get_experiment(slug).knobs
    for preset in get_experiment(slug).presets.values():
        grid = preset.grid
        values = [{grid.knob: value} for value in grid.values] if grid is not None else [{}]
        for value in values:
            assert schema.parse({**preset.knobs, **value, "seeds": 5}).work() <= MOST


TEXT_KERNELS = ("softmax", "elu1", "relu", "focused", "performer", "pola", "nala_cosine")
STRATEGIES = ("uniform", "linupper", "quadratic", "extremes", "upper")
AGENTS = ("none", "layer", "nap", "decay", "cyclic", "fresh")
TEN_NORMS = (
    "layer",
    "batch",
    "power",
    "power_v",
    "power_v_plain",
    "unified",
    "unified_filtered",
    "ema",
    "rms",
    "group",
)
MEASURED: list[tuple[str, dict[str, Any], float]] = [
    ("evolving-layers", {"mode": "search", "nodes": 16, "threshold": 0.1, "seeds": 5, "budget": 280}, 637),
    ("evolving-layers", {"mode": "search", "nodes": 4, "threshold": 0.8, "seeds": 2, "budget": 100}, 49),
    (
        "attention-entropy",
        {"task": "text", "kinds": TEXT_KERNELS, "depth": 8, "width": "16", "batch_size": 32, "steps": 200},
        543,
    ),
    (
        "attention-entropy",
        {"task": "text", "kinds": TEXT_KERNELS, "depth": 8, "width": "16", "batch_size": 4, "steps": 1000},
        886,
    ),
    (
        "normalization-statistics",
        {"task": "recurrent", "norms": TEN_NORMS, "batch_size": 2, "steps": 1000},
        242,
    ),
    ("residual-depth", {"depth": 256, "steps": 300, "width": 8, "batch_size": 8}, 274),
    ("residual-depth", {"depth": 16, "steps": 1000, "seeds": 5, "width": 8, "batch_size": 8}, 172),
    ("sample-reweighting", {"strategies": STRATEGIES, "steps": 1000, "batch_size": 8, "seeds": 5}, 368),
    (
        "effective-learning-rate",
        {"task": "games", "agents": AGENTS, "tasks": 5, "task_steps": 5000, "learn_every": 1},
        1405,
    ),
]
"""Settings of many small calls, which operations alone estimate far too low, and their processor seconds."""


@pytest.mark.parametrize(("slug", "values", "seconds"), MEASURED)
def test_settings_of_many_small_calls_are_estimated_within_a_factor_of_three(
    slug: str, values: dict[str, Any], seconds: float
) -> None:
    work = get_experiment(slug).knobs.parse(values, limited=False).work()
    assert seconds / 3 < work < 3 * seconds
    if work > MOST:
        with pytest.raises(KnobError, match="the limit is 10 minutes"):
            get_experiment(slug).knobs.parse(values)


def test_the_reader_sees_a_length_of_time() -> None:
    shown = {0.3: "less than 1 s", 14.2: "about 14 s", 1260: "about 21 minutes", 9000: "about 2 hours"}
    assert {seconds: duration(seconds) for seconds in shown} == shown
    assert duration(600, "") == "10 minutes"
    assert get_experiment("normalization-statistics").knobs().estimate().endswith(" s on one core")


def test_a_refusal_names_the_estimate_the_limit_and_what_to_lower() -> None:
    schema = get_experiment("sample-reweighting").knobs
    heavy = {"steps": 1000, "seeds": 10, "batch_size": 64}
    with pytest.raises(KnobError) as refused:
        schema.parse(heavy)
    long = schema.parse(heavy, limited=False)
    assert str(refused.value).startswith(
        f"This setting takes {long.estimate()}; the limit is 10 minutes. Any one of these changes is enough: "
    )
    assert "steps = " in str(refused.value)
    assert "seeds = " in str(refused.value)
    fits = long.fitting("steps")
    assert fits is not None
    assert schema.parse({**heavy, "steps": fits}).work() <= MOST
    with pytest.raises(KnobError):
        schema.parse({**heavy, "steps": fits + 1})


def test_where_no_one_change_is_enough_several_are_named() -> None:
    schema = get_experiment("residual-depth").knobs
    controls = schema.controls()
    heavy: dict[str, Any] = {"depth": 256, "steps": 1000, "seeds": 10, "batch_size": 256, "width": 128}
    heavy |= {"methods": controls["methods"].options, "learning_rates": controls["learning_rates"].options}
    with pytest.raises(KnobError, match=r"Lower several of these: .*depth.*steps"):
        schema.parse(heavy)
    assert schema.parse(heavy, limited=False).fitting("seeds") is None
