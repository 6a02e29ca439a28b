"""The setting a command asks for: the experiment, a preset, knobs that override it, a sweep's combinations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from normviz.catalog import PAGES
from normviz.cli.errors import UsageError
from normviz.cli.flags import knob_flags
from normviz.cli.own_files import keys_of_files
from normviz.engine import find_experiment
from normviz.experiments import SLUGS, Experiment
from normviz.knobs import KnobError, Knobs
from normviz.uploads import UploadError
from normviz.validation import nearest

__all__ = ["combinations", "named_experiment", "parse_knobs", "preset_values"]


def named_experiment(name: str | None) -> Experiment:
    """The experiment that a command names.

    Raises:
        UsageError: there is none of that name, or none was named.
    """
    if name is None:
        raise UsageError(f"Name an experiment: {', '.join(SLUGS)}.")
    if name in PAGES and name not in SLUGS:
        raise UsageError(f"The experiment {name!r} is planned, not built yet; `normviz list` shows what is.")
    try:
        return find_experiment(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def preset_values(experiment: Experiment, slug: str | None) -> dict[str, Any]:
    """What a preset sets; nothing without one.

    Raises:
        UsageError: the experiment has no such preset; names the nearest.
    """
    if slug is None:
        return {}
    try:
        return dict(experiment.presets[slug].knobs)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from error


def parse_knobs(schema: type[Knobs], values: Mapping[str, Any], setting: str = "") -> Knobs:
    """Check values; a file of the reader's own is checked and kept, and its key takes its place.

    Args:
        schema: the experiment's knobs.
        values: text or typed.
        setting: put before the sentence, to tell one combination of a sweep from the others.

    Raises:
        UsageError: one sentence for each knob that is refused, or what this setting needs and is not here.
    """
    before = f"{setting}: " if setting else ""
    try:
        knobs = schema.parse(keys_of_files(values, schema.controls()))
    except (KnobError, UploadError) as error:
        raise UsageError(f"{before}{error}") from error
    if sentence := knobs.missing():
        raise UsageError(f"{before}{sentence}")
    return knobs


def combinations(schema: type[Knobs], grid: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All combinations of ``name=value,value`` entries, each a mapping from knob to value as text.

    An entry of a knob with several options is one option, or several joined by "+".

    Raises:
        UsageError: an entry has another form, names no knob, or names one twice.
    """
    controls = schema.controls()
    axes: dict[str, list[Any]] = {}
    for entry in grid:
        name, equals, listed = entry.partition("=")
        name = name.strip().replace("-", "_")
        values = [part.strip() for part in listed.split(",") if part.strip()]
        if not equals or not values:
            long = knob_flags(controls.values(), ())["grid"][-1] if "grid" in controls else ""
            hint = f" The knob of that name is {long}." if long else ""
            raise UsageError(f"--grid takes name=value,value,…, got {entry!r}.{hint}")
        if name not in controls:
            hits = nearest(name, controls)
            near = ", ".join(f"{hit} ({controls[hit].allowed})" for hit in hits) or ", ".join(controls)
            raise UsageError(f"There is no knob {name!r}. Nearest: {near}.")
        if name in axes:
            raise UsageError(f"--grid {name} is given twice: list all its values in one.")
        several = controls[name].kind == "choices"
        axes[name] = [part.split("+") if several else part for part in dict.fromkeys(values)]
    return (dict(zip(axes, point, strict=True)) for point in product(*axes.values()))
