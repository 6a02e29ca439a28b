"""The evidence of all pages in few lines: counts of outcomes, and the README's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from normviz.claims import OUTCOMES, Outcome
from normviz.evidence.record import Evidence, read_evidence
from normviz.experiments import SLUGS, Experiment, get_experiment

__all__ = ["Summary", "summary_of", "verdicts_table"]


@dataclass(frozen=True)
class Summary:
    """How many claims of a page came to each outcome, identities apart.

    Attributes:
        outcomes: of the measured claims that are no identities.
        corrected: the same after Holm's correction.
        holding: identities that hold.
        identities: identities that were checked.
        seeds: fewest seeds of a verdict.
        date: of the newest measurement.
    """

    outcomes: Counter[Outcome]
    corrected: Counter[Outcome]
    holding: int
    identities: int
    seeds: int
    date: str


def summary_of(experiment: Experiment, evidence: Evidence) -> Summary:
    """Count the outcomes of a page."""
    exact = {claim.id for claim in experiment.claims if claim.identity}
    judged = [record for record in evidence.claims if record.measured and record.id not in exact]
    identities = [record for record in evidence.claims if record.measured and record.id in exact]
    return Summary(
        outcomes=Counter(record.outcome for record in judged),
        corrected=Counter(record.corrected or record.outcome for record in judged),
        holding=sum(record.outcome == "reproduced" for record in identities),
        identities=len(identities),
        seeds=min((len(evidence.presets[record.preset].seeds) for record in judged), default=0),
        date=evidence.date,
    )


def verdicts_table(slugs: Iterable[str] = SLUGS, folder: Path | None = None) -> str:
    """The README's table: one row for each page that has evidence, as Markdown.

    Args:
        slugs: of the pages.
        folder: where the evidence lies; None: :func:`normviz.evidence.evidence_folder`.
    """
    heads = ["page", *OUTCOMES.values(), "identities that hold", "seeds", "measured"]
    rows, total, holding, exact = [], Counter[Outcome](), 0, 0
    for slug in slugs:
        experiment, evidence = get_experiment(slug), read_evidence(slug, folder)
        if evidence is None:
            continue
        s = summary_of(experiment, evidence)
        total, holding, exact = total + s.outcomes, holding + s.holding, exact + s.identities
        counts = [s.outcomes[outcome] for outcome in OUTCOMES]
        cells = [experiment.title, *counts, f"{s.holding} of {s.identities}", s.seeds, s.date]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    if not rows:
        return "No evidence has been recorded yet: `make evidence` does it."
    counts = [total[outcome] for outcome in OUTCOMES]
    rows.append(f"| all | {' | '.join(map(str, counts))} | {holding} of {exact} | | |")
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows])
