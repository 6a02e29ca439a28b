"""The record of a page's claims: one JSON file with per-seed numbers, settings, grids and versions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from normviz.claims import Claim, Interval, Outcome, Verdict
from normviz.experiments import Experiment
from normviz.variables import evidence_folder

__all__ = [
    "ClaimRecord",
    "Evidence",
    "IntervalRecord",
    "PresetRecord",
    "evidence_folder",
    "fingerprint",
    "read_evidence",
    "rounded",
    "write_evidence",
]

GREATEST = 4_000_000
"""Bytes of the largest file that is read as evidence."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class IntervalRecord(_Record):
    """What was measured against one rival: the number of every seed, and what follows from them."""

    rival: str
    estimate: float
    low: float
    high: float
    per_seed: dict[int, float]
    outcome: Outcome


class ClaimRecord(_Record):
    """One claim's verdict and what it follows from.

    Attributes:
        id: of the claim.
        fingerprint: of the claim's rule, preset and setting when it was judged (:func:`fingerprint`).
        preset: slug of the preset that decided it.
        outcome: of the claim alone.
        corrected: after Holm's correction over the page's claims ("" for identities and what was not measured).
        measured: whether the preset measures the claim at all.
        intervals: one for each rival, the decisive one first.
        diverged: seeds and arms that diverged, as ``"arm, seed"``.
        reason: one sentence.
    """

    id: str
    fingerprint: str
    preset: str
    outcome: Outcome
    corrected: Outcome | Literal[""]
    measured: bool
    intervals: tuple[IntervalRecord, ...]
    diverged: tuple[str, ...]
    reason: str

    def verdict(self) -> Verdict:
        """The verdict as the pages draw it."""
        intervals = tuple(Interval(**interval.model_dump()) for interval in self.intervals)
        return Verdict(self.outcome, intervals, self.reason, measured=self.measured)


class PresetRecord(_Record):
    """A preset as it was run: setting, seeds, and what was tried before.

    Attributes:
        knobs: the whole setting.
        seeds: the verdict's seeds.
        tuning_seeds: seeds on which the grid was searched (none without a grid).
        grid: every value tried, with each arm's mean of the criterion.
        best: the value that each arm was judged at.
        seconds: wall time of its runs, added up; runs that are trained beside each other count each.
        date: day of the measurement, ISO.
        revision: git revision.
    """

    knobs: dict[str, Any]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = ()
    grid: dict[str, dict[str, float]] = {}
    best: dict[str, str] = {}
    seconds: float = 0.0
    date: str = ""
    revision: str = ""


class Evidence(_Record):
    """Everything that was measured for the claims of one page.

    Attributes:
        slug: of the page.
        date: day of the newest measurement, ISO.
        environment: versions, device, git revision of the newest measurement.
        presets: the settings that were run, by the preset's slug.
        claims: the verdicts.
    """

    slug: str
    date: str
    environment: dict[str, str]
    presets: dict[str, PresetRecord]
    claims: tuple[ClaimRecord, ...]

    def claim(self, claim_id: str) -> ClaimRecord | None:
        """The record of a claim."""
        return next((claim for claim in self.claims if claim.id == claim_id), None)


def fingerprint(experiment: Experiment, claim: Claim) -> str:
    """A short text that changes when a claim's words, rule, conditions, preset or setting change.

    How many seeds the preset asks for does not count, and neither does a hidden or added knob at its default: a knob
    that comes new to an experiment changes no claim.
    """
    preset = experiment.presets[claim.preset]
    setting = json.loads(experiment.setting(preset).key())
    parts = {
        "statement": claim.statement,
        "measured": claim.measured,
        "rule": repr(claim.rule),
        "rivals": list(claim.rivals),
        "unit": claim.unit,
        "resolution": claim.resolution,
        "given": {k: claim.given_words if callable(v) else repr(v) for k, v in claim.given.items()},
        "preset": claim.preset,
        "setting": {k: v for k, v in setting.items() if k not in ("seeds", "first_seed")},
        "grid": repr(preset.grid),
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_evidence(slug: str, folder: Path | None = None) -> Evidence | None:
    """The evidence of a page; None if it is missing, damaged or another page's.

    Args:
        slug: of the page.
        folder: where it lies; None: :func:`evidence_folder`.
    """
    path = (folder or evidence_folder()) / f"{slug}.json"
    try:
        if path.stat().st_size > GREATEST:
            return None
        evidence = Evidence.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return evidence if evidence.slug == slug else None


def write_evidence(evidence: Evidence, folder: Path | None = None) -> Path:
    """Write a page's evidence; the file appears whole or not at all.

    Args:
        evidence: what was measured.
        folder: where it is written; None: :func:`evidence_folder`.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    folder = folder or evidence_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{evidence.slug}.json"
    part = target.with_suffix(".part")
    try:
        part.write_text(evidence.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def rounded(per_seed: Mapping[int, float]) -> dict[int, float]:
    """Numbers with seven digits: enough to check every verdict by hand."""
    return {seed: v if not math.isfinite(v) else float(f"{v:.7g}") for seed, v in per_seed.items()}
