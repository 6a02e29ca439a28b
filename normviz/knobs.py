"""Knobs: what can be set in an experiment, as one validated, immutable schema.

The same model drives the page's widgets, the command line's flags, the permalink's check and the notebook call;
nothing reaches an experiment unvalidated. Bounds, unit and help live in the field (:func:`knob`). How long a run takes
is estimated (:meth:`Knobs.work`) and bounded by :attr:`Knobs.work_limit`, which also holds for a link that was edited
by hand.
"""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from normviz.arms import Arms
from normviz.progress import STEPS, Progress
from normviz.validation import nearest

__all__ = ["Control", "KnobError", "Knobs", "Rejection", "duration", "knob"]

Kind = Literal["int", "float", "bool", "choice", "choices", "text"]


class KnobError(ValueError):
    """One or more knob values are not allowed; the message has one sentence for each."""


@dataclass(frozen=True)
class Rejection:
    """A value from a link that was refused: the knob, the value, the sentence for the reader."""

    name: str
    value: object
    sentence: str


@dataclass(frozen=True)
class Control:
    """How one knob is shown and parsed: derived from the field by :meth:`Knobs.controls`."""

    name: str
    kind: Kind
    default: Any
    label: str
    help: str
    unit: str = ""
    section: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    options: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None
    min_choices: int = 1
    hidden: bool = False
    added: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.kind in ("int", "float"):
            return f"{self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"
        if self.kind == "bool":
            return "true or false"
        if self.kind == "text":
            return f"text of at most {self.high:g} characters"
        listed = ", ".join(self.options)
        return f"one of {listed}" if self.kind == "choice" else f"{self.min_choices} or more of {listed}"

    def option_label(self, option: str) -> str:
        """What the reader sees for an option."""
        return (self.labels or {}).get(option, option)


def knob(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    label: str,
    help: str,
    unit: str = "",
    section: str = "",
    step: float | None = None,
    log: bool = False,
    labels: Mapping[str, str] | None = None,
    min_choices: int = 1,
    hidden: bool = False,
    added: bool = False,
) -> Any:
    """A field of a :class:`Knobs` model: numbers take inclusive bounds, tuples of literals a minimal count.

    Args:
        default: the value that shows the experiment's effect in about 15 seconds.
        low, high: inclusive bounds of a number (``high`` alone: the greatest length of a text).
        label, help, unit: what the reader sees.
        section: heading under which the page groups the knob.
        step: step of the slider.
        log: the slider moves in powers of ten.
        labels: what the reader sees for each option of a choice.
        min_choices: fewest options of a choice of several.
        hidden: the page has no widget for it; links, the command line and notebooks may set it.
        added: it came to an experiment whose runs and claims were recorded already, with a default that changes
            nothing, so that at its default it does not count in :meth:`Knobs.key`.
    """
    extra: dict[str, Any] = {
        "label": label,
        "unit": unit,
        "section": section,
        "step": step,
        "log": log,
        "labels": dict(labels) if labels else None,
        "low": low,
        "high": high,
        "min_choices": min_choices,
        "hidden": hidden,
        "added": added,
    }
    bounds: dict[str, Any] = {}
    if isinstance(default, str):
        bounds["max_length"] = None if high is None else int(high)
    elif isinstance(default, tuple):
        bounds["min_length"] = min_choices
    elif not isinstance(default, bool):
        bounds.update(ge=low, le=high, allow_inf_nan=False)
    return Field(default, description=help, json_schema_extra={"knob": extra}, **bounds)


class Knobs(BaseModel):
    """Base of every experiment's knobs: frozen, no unknown names, bounded work.

    Subclasses declare fields with :func:`knob` (those that most experiments have stand in :mod:`normviz.knob_fields`)
    and override :meth:`work` and :meth:`shown_arms`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    work_limit: ClassVar[float] = 600.0
    """Longest :meth:`work` that is accepted, in seconds of one core."""

    def work(self) -> float:
        """Estimated length of the run in seconds of one processor core.

        What every step costs however small its tensors are, and what their elements cost, each times how often it
        happens; the constants are fitted to measured runs of random settings. ``python -m benchmarks.work`` compares
        the estimates with fresh measurements.
        """
        return 0.0

    def missing(self) -> str:
        """What this setting needs and the machine lacks, in a sentence; empty if nothing.

        Such a setting is valid, since a link or a stored run of another machine may have it. No run of it is started.
        """
        return ""

    def estimate(self) -> str:
        """How long the run takes, for the reader: ``"about 14 s on one core"``."""
        return f"{duration(self.work())} on one core"

    def fitting(self, name: str) -> int | None:
        """Largest whole number of one knob, not above its present one, with which the run is short enough.

        None if even the lowest that is allowed is too much. It is found by halving, so it is the largest where a
        higher number never costs less.
        """
        control = type(self).controls()[name]
        low, high = int(control.low or 0), int(getattr(self, name))

        def fits(value: int) -> bool:
            return self.model_copy(update={name: value}).work() <= self.work_limit

        if not fits(low):
            return None
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def costly(self) -> list[str]:
        """Names of the knobs that can be lowered for a shorter run: whole numbers, and choices of several."""
        found = []
        for name, control in type(self).controls().items():
            if control.hidden or control.kind not in ("int", "choices"):
                continue
            value = getattr(self, name)
            least = int(control.low or 0) if control.kind == "int" else value[: max(control.min_choices, 1)]
            if least != value and self.model_copy(update={name: least}).work() < 0.99 * self.work():
                found.append(name)
        return found

    def work_advice(self) -> str:
        """What to lower, with the largest values that fit; appended to the refusal."""
        controls, costly = type(self).controls(), self.costly()
        fits = {name: self.fitting(name) for name in costly if controls[name].kind == "int"}
        enough = [f"{name} = {value}" for name, value in fits.items() if value is not None]
        if not enough:
            return f"Lower several of these: {', '.join(costly)}."
        if len(enough) == 1:
            return f"This change is enough: {enough[0]}."
        return f"Any one of these changes is enough: {', '.join(enough)}."

    def shown_arms(self) -> Arms:
        """The arms of this setting, in the order of the legend, with their looks."""
        return Arms(())

    def members(self) -> int:
        """Networks that are trained: arms x seeds."""
        return len(self.shown_arms()) * len(self.seed_range())

    first_seed: int = knob(
        0,
        0,
        999_999,
        label="First seed",
        help="Seeds count up from here. Other seeds than 0, 1, … repeat an experiment with fresh random numbers.",
        section="Training",
        hidden=True,
    )

    _only: tuple[int, ...] | None = PrivateAttr(default=None)

    def seed_range(self) -> Sequence[int]:
        """The seeds of the run, or those of the part of it that :meth:`for_seeds` asks for."""
        if self._only is not None:
            return self._only
        return range(self.first_seed, self.first_seed + int(getattr(self, "seeds", 1)))

    def for_seeds(self, seeds: Sequence[int]) -> Self:
        """The same setting, of which only these seeds are trained: a part of the run, with the same numbers.

        What a run shows for one seed only is shown for :attr:`first_seed`, whichever part has it.

        Raises:
            ValueError: a seed is not one of the run's.
        """
        whole = range(self.first_seed, self.first_seed + int(getattr(self, "seeds", 1)))
        if not seeds or any(seed not in whole for seed in seeds):
            raise ValueError(
                f"seeds must be one or more of {whole.start} to {whole.stop - 1}, got {list(seeds)}."
            )
        part = self.model_copy()
        part._only = tuple(seeds)
        return part

    def total_steps(self) -> int:
        """Where the progress axis ends for every member; the denominator of the progress bar."""
        return int(getattr(self, "steps", 0))

    def progress(self) -> Progress:
        """What the progress axis counts."""
        return STEPS

    @classmethod
    def open_sections(cls, values: Mapping[str, Any]) -> Collection[str] | None:  # noqa: ARG003
        """Sections that the page unfolds for these widget values; None: the first two."""
        return None

    @model_validator(mode="after")
    def _bounded(self, info: ValidationInfo) -> Self:
        limited = info.context is None or info.context["limited"]
        if limited and (work := self.work()) > self.work_limit:
            raise ValueError(
                f"this setting takes {duration(work)} on one core; the limit is {duration(self.work_limit, '')}. "
                + self.work_advice()
            )
        return self

    @classmethod
    def controls(cls) -> dict[str, Control]:
        """One :class:`Control` for each field, in order of declaration, hidden ones last."""
        controls = [_control(name, info) for name, info in cls.model_fields.items()]
        return {control.name: control for control in sorted(controls, key=lambda c: c.hidden)}

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, limited: bool = True) -> Self:
        """Validate values given as text or typed (command line, notebook, stored run).

        Args:
            values: by the names of the knobs.
            limited: whether the run must not take longer than :attr:`work_limit`. A run that is stored already is
                read without it.

        Raises:
            KnobError: one sentence for each knob that is refused, naming the knob, the value and what is allowed.
        """
        knobs, rejections = cls._validate(values, lenient=False, limited=limited)
        if rejections:
            raise KnobError(" ".join(r.sentence for r in rejections))
        assert knobs is not None
        return knobs

    @classmethod
    def parse_leniently(cls, values: Mapping[str, Any]) -> tuple[Self, list[Rejection]]:
        """Validate the values of a link: what is refused is replaced by its default and reported."""
        knobs, rejections = cls._validate(values, lenient=True)
        assert knobs is not None
        return knobs, rejections

    @classmethod
    def _validate(
        cls, values: Mapping[str, Any], *, lenient: bool, limited: bool = True
    ) -> tuple[Self | None, list[Rejection]]:
        controls = cls.controls()
        rejections: list[Rejection] = []
        given: dict[str, Any] = {}
        for name, value in values.items():
            if name in controls:
                given[name] = _from_text(controls[name], value)
            else:
                close = nearest(str(name), controls)
                hint = f" Nearest: {', '.join(close)}." if close else ""
                rejections.append(Rejection(name, value, f"There is no knob {name!r}.{hint}"))
        while True:
            try:
                return cls.model_validate(given, context={"limited": limited}), rejections
            except ValidationError as error:
                refused = {str(e["loc"][0]): e for e in error.errors() if e["loc"]}
                for name in refused:
                    rejections.append(Rejection(name, values[name], _sentence(controls[name], values[name])))
                    del given[name]
                if not refused:
                    message = error.errors()[0]["msg"].removeprefix("Value error, ")
                    whole = f"{message[:1].upper()}{message[1:]}"
                    rejections.append(Rejection("work", dict(given), whole))
                    given.clear()
                if not lenient:
                    return None, rejections

    def to_query(self) -> dict[str, str]:
        """The knobs that differ from their defaults, as text for a link; ``parse`` reads it back."""
        controls = self.controls()
        return {
            name: _to_text(value)
            for name, value in self.model_dump().items()
            if value != controls[name].default
        }

    def key(self) -> str:
        """Canonical text of all knobs: equal for equal knobs, for finding a stored run.

        Hidden and added knobs count only where they differ from their defaults, so that a run from before they existed
        is found.
        """
        controls = self.controls()
        values = self.model_dump(mode="json")
        late = {name for name, control in controls.items() if control.hidden or control.added}
        kept = {n: v for n, v in values.items() if n not in late or v != controls[n].default}
        return json.dumps(kept, sort_keys=True)


def duration(seconds: float, about: str = "about ") -> str:
    """A length of time for the reader: ``"less than 1 s"``, ``"about 14 s"``, ``"about 21 minutes"``."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"{about}{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{about}{seconds / 60:.0f} minutes"
    return f"{about}{seconds / 3600:.0f} hours"


def _control(name: str, info: Any) -> Control:
    extra = dict((info.json_schema_extra or {}).get("knob", {}))
    kind, options = _kind(info.annotation)
    return Control(
        name=name,
        kind=kind,
        default=info.default,
        label=extra.pop("label", name.replace("_", " ")),
        help=info.description or "",
        options=options,
        **extra,
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        raise TypeError("knobs are never optional: give every knob a default.")
    if origin is Literal:
        return "choice", tuple(map(str, get_args(annotation)))
    if origin is tuple:
        return "choices", tuple(map(str, get_args(get_args(annotation)[0])))
    kinds: dict[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
    return kinds[annotation], ()


def _from_text(control: Control, value: Any) -> Any:
    if control.kind == "choices":
        if isinstance(value, str):
            value = [part for part in value.split(",") if part]
        if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
            return tuple(dict.fromkeys(value))
    return value


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def _sentence(control: Control, value: Any) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    text = f"{control.name} = {str(shown)[:60]} is not allowed: it takes {control.allowed}."
    if control.options and isinstance(value, (str, tuple, list)):
        parts = value.split(",") if isinstance(value, str) else [str(v) for v in value]
        hits = [h for p in parts if p not in control.options for h in nearest(p, control.options)[:1]]
        if hits:
            text += f" Nearest: {', '.join(dict.fromkeys(hits))}."
    return text
