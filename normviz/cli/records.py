"""JSON documents of the command line: what ``--json`` prints for other programs, one document for each command.

All are objects, but for ``list``; names never change their meaning, further ones may be added. A number that is not
finite is the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``; characters beyond ASCII are escaped. Times are seconds.

``list``
    A list of pages, each ``{page, title, topic, status, question, presets, papers}``; a preset is ``{slug, name,
    sentence, knobs}``, a paper ``{slug, title, authors, year, arxiv}``.

``run`` and ``more``
    ``{command, version, run}``. A **run** is ``{id, experiment, title, status, error, device, seconds, knobs,
    environment, final, events, claims}``:

    - ``id``: 12 hexadecimal digits; ``normviz more ID`` goes on with it if it is kept.
    - ``status``: ``"done"``, ``"failed"`` (``error`` says why), ``"interrupted"`` or ``"not started"``.
    - ``knobs``: every knob with its value; ``environment``: versions, device, git revision.
    - ``final``: the last values, ``{scalar: {arm: {seed: value}}}``.
    - ``events``: ``[{step, arm, seed, text, kind}]``; ``kind`` is ``"note"`` or ``"diverged"``.
    - ``claims``: ``[{id, paper, arxiv, statement, preset, identity, unit, measured, outcome, reason, intervals}]``;
      ``measured`` is false where another preset decides the claim. ``outcome`` is ``"reproduced"``, ``"weaker"``,
      ``"no effect"``, ``"opposite"`` or ``"undecided"``. An interval is ``{rival, estimate, low, high, per_seed,
      outcome}``: mean over seeds and its 95 % interval.

``sweep``
    ``{command, version, experiment, axes, runs}``: ``axes`` are the knobs of the grid; each entry of ``runs`` is a run
    as above with ``point``, its values of these knobs. ``sweep --out x.json`` writes the same document.

``reproduce``
    ``{command, version, created, pages, failed}``: ``pages`` have the recorded evidence of each page, as in
    ``evidence/``, every claim with its texts; ``failed`` is ``{page: why}``. ``reproduce --out x.json`` writes the
    same document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from normviz import __version__
from normviz.catalog import PAPERS
from normviz.claims import Claim, Verdict
from normviz.experiments import Experiment, Run

__all__ = ["as_json", "document", "ended_as", "last_values", "run_record", "sweep_record"]


def as_json(value: Any) -> str:
    """A JSON text of plain values; numbers that are not finite become text."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def document(command: str, **values: Any) -> dict[str, Any]:
    """A document of a command."""
    return {"command": command, "version": __version__, **values}


def ended_as(run: Run) -> str:
    """How a run ended, in a word for the reader."""
    if run.status == "cancelled":
        return "interrupted" if len(run.log) else "not started"
    return run.status


def run_record(run: Run) -> dict[str, Any]:
    """A run that has ended; see the module's text."""
    verdicts = run.verdicts() if run.status == "done" else {}
    claims = [_claim_record(c, verdicts[c.id]) for c in run.experiment.claims if c.id in verdicts]
    return {
        "id": run.id,
        "experiment": run.experiment.slug,
        "title": run.title,
        "status": ended_as(run),
        "error": run.error,
        "device": run.device,
        "seconds": run.seconds,
        "knobs": run.knobs.model_dump(mode="json"),
        "environment": dict(run.environment),
        "final": {name: _final(run, name) for name in run.log.scalar_names},
        "events": [event._asdict() for event in run.log.events],
        "claims": claims,
    }


def sweep_record(
    experiment: Experiment, points: Sequence[Mapping[str, Any]], runs: Sequence[Run]
) -> dict[str, Any]:
    """A sweep; see the module's text.

    Args:
        experiment: what was run.
        points: the values of the grid's knobs, one mapping for each run.
        runs: in the same order.
    """
    axes = list(points[0])
    listed = []
    for run in runs:
        record = run_record(run)
        listed.append({"point": {axis: record["knobs"][axis] for axis in axes}, **record})
    return document("sweep", experiment=experiment.slug, axes=axes, runs=listed)


def last_values(run: Run, name: str) -> dict[tuple[str, int], float]:
    """The last value of a scalar, by arm and seed."""
    table = run.log.final(name)
    return dict(zip(zip(table["arm"], table["seed"], strict=True), table["value"].tolist(), strict=True))


def _final(run: Run, name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (arm, seed), value in last_values(run, name).items():
        found.setdefault(arm, {})[str(seed)] = value
    return found


def _claim_record(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    paper = PAPERS.get(claim.paper)  # an experiment of one's own may cite another
    return {
        "id": claim.id,
        "paper": claim.paper,
        "arxiv": paper.arxiv if paper else None,
        "statement": claim.statement,
        "preset": claim.preset,
        "identity": claim.identity,
        "unit": claim.unit,
        "measured": verdict.measured,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "intervals": [
            {
                "rival": interval.rival,
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "per_seed": {str(seed): value for seed, value in interval.per_seed.items()},
                "outcome": interval.outcome,
            }
            for interval in verdict.intervals
        ],
    }


def _finite(value: Any) -> Any:
    """The value with numbers that are not finite as text, as the evidence writes them."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
