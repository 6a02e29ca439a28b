"""Tables of the command line: verdicts with identities apart, a sweep, the catalog with its presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from normviz.catalog import PAGES, PAPERS, papers_of_page
from normviz.claims import LEAST_SEEDS, OUTCOMES, Claim, Outcome, Verdict
from normviz.cli.records import ended_as
from normviz.experiments import SLUGS, Run, get_experiment

__all__ = ["catalog_table", "final_values", "identity_table", "sweep_table", "tally", "verdict_table"]

_STYLE: dict[Outcome, tuple[str, str]] = {
    "reproduced": ("✓", "green"),
    "weaker": ("↗", "yellow"),
    "no effect": ("–", "dim"),
    "opposite": ("✗", "red"),
    "undecided": ("?", "blue"),
}

_HEADLINES = ("validation_loss", "loss")
"""The value that stands for an arm, the first that a run has; else its first scalar."""


def _source(claim: Claim) -> str:
    paper = PAPERS.get(claim.paper)  # an experiment of one's own may cite another
    return f" ({paper.authors.split(',')[0]} {paper.year}, arXiv {paper.arxiv})" if paper else ""


def verdict_table(
    claims: Sequence[Claim],
    verdicts: Mapping[str, Verdict],
    title: str = "",
    corrected: Mapping[str, str] | None = None,
) -> Table:
    """One row for each measured claim that is no identity: statement, paper's figure, measured number, outcome.

    Args:
        claims: of the experiment.
        verdicts: by claim.
        title: above the table.
        corrected: outcomes corrected for the number of claims, shown where they differ.
    """
    table = Table(title=Text(title) if title else None, title_justify="left", show_lines=True, expand=False)
    for heading, ratio in (("Claim", 4), ("In the paper", 3), ("Measured here", 4), ("Outcome", 3)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for claim in claims:
        verdict = verdicts.get(claim.id)
        if claim.identity or verdict is None or not verdict.measured:
            continue
        mark, colour = _STYLE[verdict.outcome]
        why = f"\n{verdict.reason}" if verdict.outcome == "undecided" else ""
        after = (corrected or {}).get(claim.id, verdict.outcome)
        if after != verdict.outcome:
            why += f"\n{OUTCOMES[after]} when corrected for all claims"  # type: ignore[index]
        table.add_row(
            Text(claim.statement + _source(claim)),
            Text(claim.paper_figure),
            Text(f"{claim.measured_text(verdict)}: {claim.measured}."),
            Text.assemble((f"{mark} {OUTCOMES[verdict.outcome]}", colour), why),
        )
    return table


def identity_table(claims: Sequence[Claim], verdicts: Mapping[str, Verdict]) -> Table:
    """One row for each measured identity: whether it holds. They are checked, and no evidence."""
    title = "Identities (true by construction: checked, and no evidence)"
    table = Table(title=title, title_justify="left", title_style="", expand=False)
    for heading in ("Statement", "Measured here", ""):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        verdict = verdicts.get(claim.id)
        if claim.identity and verdict is not None and verdict.measured:
            holds = verdict.outcome == "reproduced"
            word = ("= holds", "green") if holds else (f"✗ {verdict.reason}", "red")
            table.add_row(
                Text(claim.statement + _source(claim)),
                Text(claim.measured_text(verdict)),
                Text.assemble(word),
            )
    return table


def tally(claims: Sequence[Claim], verdicts: Mapping[str, Verdict]) -> str:
    """How many verdicts of each outcome, of those that were measured, identities apart.

    For instance ``"2 reproduced, 1 undecided; 3 of 3 identities hold"``; with fewer seeds than a verdict of the ledger
    needs it ends with ``" (so far)"``.
    """
    measured = [c for c in claims if c.id in verdicts and verdicts[c.id].measured]
    outcomes = [verdicts[c.id].outcome for c in measured if not c.identity]
    counted = ", ".join(f"{outcomes.count(o)} {words}" for o, words in OUTCOMES.items() if o in outcomes)
    if outcomes and min(verdicts[c.id].seeds for c in measured if not c.identity) < LEAST_SEEDS:
        counted += " (so far)"
    exact = [verdicts[c.id].outcome == "reproduced" for c in measured if c.identity]
    parts = [counted] if counted else []
    if exact:
        parts.append(f"{sum(exact)} of {len(exact)} identities hold")
    return "; ".join(parts) or "nothing measured"


def final_values(run: Run) -> tuple[str, dict[str, float]]:
    """Name and value, for each arm, of what stands for a run: the mean over seeds at the end."""
    names = run.log.scalar_names
    name = next((n for n in (*_HEADLINES, *names) if n in names), "")
    if not name:
        return "", {}
    table = run.log.final(name).groupby("arm", sort=False)["value"].mean()
    return name, {str(arm): float(value) for arm, value in table.items()}


def sweep_table(points: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> Table:
    """One row per combination: its knobs, how it ended, the arms' last values, the verdicts, the run's id."""
    ends = [final_values(run) for run in runs]
    names = {name for name, values in ends if values}
    table = Table(title=f"{len(points)} runs", title_justify="left")
    for heading in (*points[0], "status", f"last {' or '.join(sorted(names))}", "claims", "run"):
        table.add_column(heading, overflow="fold")
    for point, run, (_, values) in zip(points, runs, ends, strict=True):
        knobs = [Text("+".join(v) if isinstance(v, list) else str(v)) for v in point.values()]
        status = ended_as(run)
        if status == "not started":
            table.add_row(*knobs, status)
            continue
        listed = "\n".join(f"{arm} {value:.3g}" for arm, value in values.items())
        table.add_row(*knobs, status, Text(listed), tally(run.experiment.claims, run.verdicts()), run.id)
    return table


def catalog_table() -> Table:
    """The pages with whether they can be run, their presets and their papers."""
    table = Table(show_lines=True)
    table.add_column("Page", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    table.add_column("Presets", overflow="fold")
    table.add_column("Papers", overflow="fold", ratio=1)
    for slug in PAGES:
        papers = "\n".join(f"{p.title} (arXiv {p.arxiv})" for p in papers_of_page(slug))
        built = slug in SLUGS
        status = Text("built", style="green") if built else Text("planned", style="dim")
        presets = "\n".join(get_experiment(slug).presets) if built else ""
        table.add_row(slug, status, Text(presets), Text(papers))
    return table
