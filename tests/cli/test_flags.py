"""Flags: every knob of every experiment can be set, whatever its name and whatever options the command has."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.cli.arguments import parsers
from normviz.cli.flags import given_knobs, knob_flags
from normviz.cli.settings import combinations, parse_knobs
from normviz.experiments import SLUGS, get_experiment
from normviz.knobs import Control

REAL = "normalization-statistics"


def words(control: Control, flag: str) -> list[str]:
    """The flag with the knob's default value."""
    if control.kind == "bool":
        return [flag if control.default else f"--no-{flag.removeprefix('--')}"]
    listed = control.default if isinstance(control.default, tuple) else (control.default,)
    return [flag, *map(str, listed)]


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("slug", SLUGS)
def test_every_knob_of_every_experiment_has_its_flags(slug: str, command: str) -> None:
    schema = get_experiment(slug).knobs
    parser, commands = parsers([command, slug])
    options, _ = parsers([command])
    taken = set(options._subparsers._group_actions[0].choices[command].flags())  # type: ignore[union-attr]
    flags = knob_flags(schema.controls().values(), taken)
    for which in (0, -1):  # the shortest flag, the long one
        line: list[str] = []
        for control in schema.controls().values():
            line += words(control, flags[control.name][which])
        parsed, unknown = parser.parse_known_args([command, slug, *line, "--device", "cpu"])
        assert not unknown
        assert parsed.device == "cpu"
        assert set(given_knobs(parsed)) == set(schema.controls())
        assert parse_knobs(schema, given_knobs(parsed)) == schema()
    text = commands[command].format_help()
    assert all(flag in text for listed in flags.values() for flag in listed)


def test_a_knob_with_the_name_of_an_option_has_the_long_flag() -> None:
    parser, _ = parsers(["sweep", "optimizer-spectra"])
    line = ["sweep", "optimizer-spectra", "--knob-grid", "1", "--grid", "steps=20,40", "--grid", "grid=1,3"]
    parsed, unknown = parser.parse_known_args(line)
    assert not unknown
    assert parsed.grid == ["steps=20,40", "grid=1,3"]
    assert given_knobs(parsed) == {"grid": "1"}
    points = list(combinations(get_experiment("optimizer-spectra").knobs, parsed.grid))
    assert [(p["steps"], p["grid"]) for p in points] == [("20", "1"), ("20", "3"), ("40", "1"), ("40", "3")]
    parser, _ = parsers(["run", "optimizer-spectra"])
    assert given_knobs(parser.parse_args(["run", "optimizer-spectra", "--grid", "3"])) == {"grid": "3"}


NAMES = st.from_regex(
    r"(knob_|no_|knob_no_|no_knob_)?(grid|out|x|seeds|preset|device|store|help)", fullmatch=True
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(NAMES, st.sampled_from(["bool", "int"]), max_size=12),
    st.sets(st.sampled_from(["--grid", "--out", "--no-store", "--help", "--preset", "--device", "--no-x"])),
)
def test_no_two_meanings_share_a_flag(knobs: dict[str, str], taken: set[str]) -> None:
    controls = [Control(name, kind, 0, name, "") for name, kind in knobs.items()]  # type: ignore[arg-type]
    flags = knob_flags(controls, taken)
    every = list(taken)
    for control in controls:
        own = flags[control.name]
        assert own[-1] == f"--knob-{control.name.replace('_', '-')}", "every knob has its long flag"
        every += own
        if control.kind == "bool":
            every += [f"--no-{flag.removeprefix('--')}" for flag in own]
    assert max(Counter(every).values(), default=1) == 1
    free = [c for c in controls if c.kind == "int" and not c.name.startswith(("no_", "knob_"))]
    others = {f"no_{c.name}" for c in controls if c.kind == "bool"}
    for control in free:
        short = f"--{control.name.replace('_', '-')}"
        if short not in taken and control.name not in others:
            assert flags[control.name][0] == short, "the short flag is there where it is free"


def test_several_options_with_spaces_or_commas() -> None:
    parser, _ = parsers(["run", REAL])
    for several in (["layer", "power"], ["layer,power"], ["layer,", "power"]):
        parsed = parser.parse_args(
            ["run", REAL, "--norms", *several, "--no-reference", "--learning-rate", "5e-3"]
        )
        knobs = parse_knobs(get_experiment(REAL).knobs, given_knobs(parsed)).model_dump()
        assert (knobs["norms"], knobs["reference"], knobs["learning_rate"]) == (
            ("layer", "power"),
            False,
            5e-3,
        )


def test_combinations() -> None:
    schema = get_experiment(REAL).knobs
    points = list(
        combinations(schema, ["learning-rate=1e-3, 1e-2", "norms=layer,power+batch", "reference=true"])
    )
    assert points == [
        {"learning_rate": rate, "norms": norms, "reference": "true"}
        for rate in ("1e-3", "1e-2")
        for norms in (["layer"], ["power", "batch"])
    ]
    assert all(parse_knobs(schema, point).model_dump()["reference"] is True for point in points)
    assert list(combinations(schema, ["steps=10,10"])) == [{"steps": "10"}]
