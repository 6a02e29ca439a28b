"""Presets: the default first, found by slug and by their setting, refused with the nearest."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.knobs import Knobs, knob
from normviz.presets import Grid, Preset, Presets


class LabKnobs(Knobs):
    rate: float = knob(0.1, 0.01, 1.0, label="Rate", help="Step size.")
    seeds: int = knob(2, 1, 10, label="Seeds", help="Seeds.")
    arms: tuple[Literal["a", "b", "c"], ...] = knob(("a", "b"), label="Arms", help="Which.")


PLAIN = Preset("plain", "Plain", "As it is.")
FAST = Preset("fast", "Fast", "A large step.", {"rate": 0.5}, Grid("rate", (0.1, 0.5), "loss"))
SOME = Preset("some", "Some", "Fewer arms and more seeds.", {"arms": ("c",), "seeds": 5})
PRESETS = Presets([PLAIN, FAST, SOME])


def test_in_the_order_of_the_story() -> None:
    assert list(PRESETS) == ["plain", "fast", "some"]
    assert list(PRESETS.values()) == [PLAIN, FAST, SOME]
    assert len(PRESETS) == 3
    assert PRESETS.default is PLAIN
    assert PRESETS["fast"] is FAST
    assert hash(PRESETS) == hash(PRESETS)


@pytest.mark.parametrize("preset", [PLAIN, FAST, SOME], ids=lambda p: p.slug)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds=st.integers(1, 10), first=st.integers(0, 999_999))
def test_a_setting_is_its_preset_whatever_the_seeds(preset: Preset, seeds: int, first: int) -> None:
    setting = LabKnobs.parse(
        {**LabKnobs.parse(preset.knobs).model_dump(), "seeds": seeds, "first_seed": first}
    )
    assert PRESETS.of(setting) is preset


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rate=st.floats(0.01, 1.0), arms=st.lists(st.sampled_from("abc"), min_size=1, unique=True))
def test_another_setting_is_no_preset(rate: float, arms: list[str]) -> None:
    found = PRESETS.of(LabKnobs(rate=rate, arms=tuple(arms)))  # type: ignore[arg-type]
    expected = {(0.1, ("a", "b")): PLAIN, (0.5, ("a", "b")): FAST, (0.1, ("c",)): SOME}
    assert found is expected.get((rate, tuple(arms)))


def test_what_is_refused() -> None:
    with pytest.raises(KeyError, match=r"no preset 'fats'\. Nearest: fast"):
        PRESETS["fats"]
    with pytest.raises(KeyError, match="plain, fast, some"):
        PRESETS["zzzzzz"]
    assert "fats" not in PRESETS
    for presets in ([], [PLAIN, PLAIN]):
        with pytest.raises(ValueError, match="one or more with different slugs"):
            Presets(presets)
    with pytest.raises(ValueError, match="'fast' must set no knob"):
        Presets([FAST, PLAIN])
    for slug in ("", "Best Rates", "a_b", "ä"):
        with pytest.raises(ValueError, match="slug must be of a-z, 0-9 and -"):
            Preset(slug, "N", "S.")
