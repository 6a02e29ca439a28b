"""The recorded run of a page: its default preset, thinned out, shown until the first live point comes.

What is kept: scalars at most at :data:`POINTS` moments, arrays at the last moment only, or at some where a chart of the
stage draws their history. A run that is still larger than :data:`MOST_BYTES` loses what the stage does not draw, then
moments, then seeds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from normviz.evidence.record import evidence_folder
from normviz.experiments import Experiment, Run
from normviz.frame import ArrayAt, Frame, FrameLog, LogView, frames_to_table, table_to_frames
from normviz.knobs import KnobError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_BYTES", "Recorded", "recorded_run", "write_recorded"]

MOST_BYTES = 150_000
"""Bytes of the largest recorded run that is written."""

GREATEST = 400_000
"""Bytes of the largest file that is read as a recorded run."""

POINTS = 60
"""Most moments of a scalar that are kept."""

HISTORY = 24
"""Most moments of an array whose history is drawn."""

_LADDER: tuple[tuple[bool, float, int], ...] = (
    (True, 1.0, 10),
    (False, 1.0, 10),
    (False, 0.6, 10),
    (False, 0.6, 3),
    (False, 0.6, 2),
    (False, 0.3, 2),
    (False, 0.3, 1),
    (False, 0.15, 1),
)
"""What is kept, from most to least: quantities beside those of the stage, share of the moments, seeds."""


@dataclass(frozen=True)
class Recorded:
    """A recorded run and the day it was measured, in words."""

    run: Run
    date: str


def recorded_run(experiment: Experiment) -> Recorded | None:
    """The recorded run of a page's default preset; None if it is missing, damaged or of other knobs."""
    path = evidence_folder() / f"{experiment.slug}.parquet"
    try:
        stamp = path.stat()
    except OSError:
        return None
    return _read(path, stamp.st_mtime_ns, experiment) if stamp.st_size <= GREATEST else None


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, experiment: Experiment) -> Recorded | None:  # noqa: ARG001
    try:
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[b"normviz.run"])
        knobs = experiment.knobs.parse(record["knobs"], limited=False)
        log = FrameLog(table_to_frames(table.replace_schema_metadata(None)))
        day = datetime.fromtimestamp(float(record["created"]), UTC)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, KnobError):
        return None
    run = Run(experiment, knobs, id=f"recorded-{experiment.slug}", log=log, status="done")
    run.created = run.started = run.finished = day.timestamp()
    return Recorded(run, f"{day.day} {day:%B %Y}")


def write_recorded(run: Run, folder: Path | None = None) -> Path:
    """Keep a run as its page's recorded run, thinned out to at most :data:`MOST_BYTES`.

    Args:
        run: a run that is done.
        folder: where it is written; None: :func:`normviz.evidence.evidence_folder`.

    Raises:
        ValueError: even one seed with few moments of what the stage draws is larger.
        OSError: the folder is not writable, or the disk is full.
    """
    folder = folder or evidence_folder()
    drawn = _drawn_on_stage(run)
    for whole, share, seeds in _LADDER:
        encoded = _encoded(run, _thinned(run, drawn, whole=whole, share=share, seeds=seeds), seeds)
        if len(encoded) <= MOST_BYTES:
            break
    else:
        raise ValueError(
            f"the recorded run of {run.experiment.slug!r} must have at most {MOST_BYTES:,} bytes, got {len(encoded):,}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{run.experiment.slug}.parquet"
    part = target.with_suffix(".part")
    try:
        part.write_bytes(encoded)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _encoded(run: Run, frames: Iterable[Frame], seeds: int) -> bytes:
    values = run.knobs.model_dump(mode="json")
    if "seeds" in values:
        values["seeds"] = min(values["seeds"], seeds)
    record = json.dumps({"knobs": values, "created": run.created})
    table = frames_to_table(frames).replace_schema_metadata({"normviz.run": record})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=19)
    return buffer.getvalue()


@dataclass
class _Drawn:
    """The quantities that charts asked for."""

    names: set[str] = field(default_factory=set)
    histories: set[str] = field(default_factory=set)
    moments: dict[str, set[int]] = field(default_factory=dict)


class _Noting(LogView):
    """A view that notes what is read from it."""

    def __init__(self, log: FrameLog, drawn: _Drawn, rename: Mapping[str, str] | None = None) -> None:
        super().__init__(log, rename)
        self._drawn, self._newest = drawn, False

    def view(self, rename: Mapping[str, str] | None = None) -> LogView:
        """A view of some arms, which notes what is read from it too."""
        plain = super().view(rename)
        return self if plain is self else _Noting(self._log, self._drawn, plain._rename)

    def scalars(self, name: str) -> pd.DataFrame:
        """A scalar over time."""
        self._drawn.names.add(name)
        return super().scalars(name)

    def arrays(self, name: str, step: int | None = None) -> list[ArrayAt]:
        """The newest array of each member, which needs no history."""
        if step is not None:
            self._drawn.moments.setdefault(name, set()).add(step)
        self._newest = True
        try:
            return super().arrays(name, step)
        finally:
            self._newest = False

    def array_history(self, name: str) -> list[ArrayAt]:
        """Every array with that name."""
        self._drawn.names.add(name)
        if not self._newest:
            self._drawn.histories.add(name)
        return super().array_history(name)


def _drawn_on_stage(run: Run) -> _Drawn:
    from normviz.figures.board import Board

    drawn, knobs = _Drawn(), run.knobs
    sheet = run.experiment.sheet(knobs)
    board = Board(_Noting(run.log, drawn), knobs.shown_arms(), None, knobs.total_steps(), knobs.progress())
    sheet.draw(board, sheet.stage)
    return drawn


def _thinned(run: Run, drawn: _Drawn, *, whole: bool, share: float, seeds: int) -> list[Frame]:
    first = set(run.log.seeds[:seeds])
    frames = [frame for frame in run.log.frames if frame.seed in first]
    steps: dict[str, set[int]] = {}
    newest: dict[tuple[str, int, str, int | None], int] = {}
    for frame in frames:
        for name in frame.values:
            steps.setdefault(name, set()).add(frame.step)
            for moment in (None, *drawn.moments.get(name, ())):
                if moment is None or frame.step <= moment:
                    newest[frame.arm, frame.seed, name, moment] = frame.step
    wanted = {(arm, seed, name, step) for (arm, seed, name, _), step in newest.items()}
    scalars = set(run.log.scalar_names)
    kept: dict[str, set[int]] = {}
    for name, there in steps.items():
        most = POINTS if name in scalars else HISTORY if name in drawn.histories else 0
        kept[name] = _spread(sorted(there), int(most * share)) if whole or name in drawn.names else set()
    listed = []
    for frame in frames:
        values = {
            name: float(np.float32(value)) if isinstance(value, float) else value
            for name, value in frame.values.items()
            if (whole or name in drawn.names)
            and (frame.step in kept[name] or (frame.arm, frame.seed, name, frame.step) in wanted)
        }
        if values or frame.event is not None:
            listed.append(Frame(frame.step, frame.arm, frame.seed, values, frame.event, frame.kind))
    return listed


def _spread(steps: list[int], most: int) -> set[int]:
    """At most so many of the steps, evenly spread, first and last among them."""
    if most < 1:
        return set()
    at = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return {steps[i] for i in at}
