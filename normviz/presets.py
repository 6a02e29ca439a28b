"""Presets: named settings of an experiment. They are the page's story, and where its claims are decided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from normviz.knobs import Knobs
from normviz.validation import nearest

__all__ = ["Grid", "Preset", "Presets"]


@dataclass(frozen=True)
class Grid:
    """A registered grid: every arm gets its own best value of a knob, found on tuning seeds, before claims are judged.

    Args:
        knob: name of the knob that is tuned, e.g. ``"learning_rate"``.
        values: the values tried.
        criterion: scalar by which an arm's runs are compared, at the end of the run.
        better: ``"lower"`` or ``"higher"`` values of the criterion are better.
        arms: name of the knob that lists the arms.
    """

    knob: str
    values: tuple[float | int | str, ...]
    criterion: str
    better: Literal["lower", "higher"] = "lower"
    arms: str = "arms"


@dataclass(frozen=True)
class Preset:
    """A named setting.

    Args:
        slug: in links, on the command line and in claims.
        name: on the page's button, a few words.
        sentence: what it shows, one sentence for a reader.
        knobs: what it sets; the others keep their defaults.
        grid: what is tuned for each arm before its claims are judged; None: all arms at the setting itself.
    """

    slug: str
    name: str
    sentence: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+", self.slug):
            raise ValueError(f"slug must be of a-z, 0-9 and -, got {self.slug!r}.")


class Presets(Mapping[str, Preset]):
    """An experiment's presets by slug, in the order of the story; the first is the default setting.

    Args:
        presets: one or more, the first without any knob set.

    Raises:
        ValueError: no presets, two of one slug, or a first one that sets knobs.
    """

    def __init__(self, presets: Iterable[Preset]) -> None:
        listed = list(presets)
        self._presets = {preset.slug: preset for preset in listed}
        if not listed or len(self._presets) < len(listed):
            raise ValueError("presets must be one or more with different slugs.")
        if listed[0].knobs:
            raise ValueError(f"the first preset is the default setting: {listed[0].slug!r} must set no knob.")

    def __getitem__(self, slug: str) -> Preset:
        """The preset with that slug.

        Raises:
            KeyError: there is none; the message has the nearest.
        """
        try:
            return self._presets[slug]
        except KeyError:
            listed = ", ".join(nearest(slug, self._presets) or self._presets)
            raise KeyError(f"There is no preset {slug!r}. Nearest: {listed}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._presets)

    def __len__(self) -> int:
        return len(self._presets)

    __hash__ = object.__hash__

    @property
    def default(self) -> Preset:
        """The first: all knobs at their defaults."""
        return next(iter(self._presets.values()))

    def of(self, knobs: Knobs) -> Preset | None:
        """The preset whose setting these knobs are, whatever the number of seeds and the first seed; None: another."""
        ignored = {"seeds", "first_seed"}

        def setting(k: Knobs) -> dict[str, Any]:
            return {name: value for name, value in k.model_dump().items() if name not in ignored}

        given = setting(knobs)
        for preset in self._presets.values():
            if setting(type(knobs).parse(preset.knobs)) == given:
                return preset
        return None
