"""Logs of optimizers made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normviz.experiments.optimizer_spectra.knobs import (
    member_name,
)
from normviz.frame import FrameLog
from normviz.testing import log_of_series


def log_at(name: str, runs: Mapping[str, Mapping[int, Sequence[float]]], *, every: int = 10) -> FrameLog:
    """A log of one scalar from ``{optimizer or member: {seed: values at steps 0, every, …}}``."""
    named = {arm if ", lr " in arm else member_name(arm, 1.0): seeds for arm, seeds in runs.items()}
    return log_of_series(name, named, every=every)
