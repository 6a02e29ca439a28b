"""The documentation site: a page for each paper, made from the catalog, the docstrings and the evidence.

MkDocs calls the hooks :func:`on_config` and :func:`on_files`; the guides beside it are written by hand.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from normviz.catalog import PAGES, PAPERS, TOPICS, Paper
from normviz.claims import OUTCOMES
from normviz.evidence import read_evidence
from normviz.experiments import SLUGS, get_experiment

ROLE = re.compile(r":[a-z]+:`~?(?:\.*)([^`<]+)`")
"""A cross-reference as the docstrings write it."""

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
"""The heading of a docstring's example; the tool that shows them knows the plural."""


class PlainNames(griffe.Extension):
    """Writes docstrings as MkDocs can show them: cross-references as code, examples under the heading it knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{found[1]}`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub("Examples:", text.replace("``", "`"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Order the pages: guides first, then the methods by topic."""
    methods: list[Any] = ["methods/index.md"]
    for topic, title in TOPICS.items():
        papers = [paper for paper in PAPERS.values() if paper.topic == topic]
        methods.append({title: [f"methods/{paper.slug}.md" for paper in papers]})
    guides = ["command-line.md", "own-data.md", "serving.md", "provenance.md", "words.md"]
    config.nav = ["index.md", "install.md", {"Methods": methods}, *guides]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: one per paper and their table."""
    for paper in PAPERS.values():
        files.append(File.generated(config, f"methods/{paper.slug}.md", content=method_page(paper)))
    files.append(File.generated(config, "methods/index.md", content=methods_table()))
    return files


def method_page(paper: Paper) -> str:
    """What the paper's methods are, what was measured for its claims, and its code."""
    page = PAGES[paper.page]
    modules = dict.fromkeys(_module(name) for name in paper.methods)
    parts = [
        f"# {paper.title}",
        f"{paper.authors}, {paper.year}, [arXiv {paper.arxiv}]({paper.url}). "
        f"Shown live on the page *{page.title}*: {page.question}",
        *_evidence(paper),
        *(_shown(module) for module in modules),
    ]
    return "\n\n".join(parts) + "\n"


def methods_table() -> str:
    """All papers by topic."""
    parts = ["# Methods"]
    for topic, title in TOPICS.items():
        rows = [
            f"| [{paper.title}]({paper.slug}.md) | {', '.join(f'`{name}`' for name in paper.methods)} |"
            for paper in PAPERS.values()
            if paper.topic == topic
        ]
        parts.append("\n".join([f"## {title}", "", "| paper | names |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _module(name: str) -> str:
    """The module that defines a public name such as ``normviz.norms.PowerNorm``."""
    package, _, attribute = name.rpartition(".")
    module: str = getattr(import_module(package), attribute).__module__
    return module


def _shown(module: str) -> str:
    options = ("show_root_heading: true", "heading_level: 2", "show_root_full_path: true")
    return "\n".join([f"::: {module}", "    options:", *(f"      {option}" for option in options)])


def _evidence(paper: Paper) -> list[str]:
    """The recorded verdicts of the paper's claims."""
    if paper.page not in SLUGS:
        return []
    recorded = read_evidence(paper.page)
    rows = []
    for claim in get_experiment(paper.page).claims:
        record = recorded.claim(claim.id) if recorded is not None and claim.paper == paper.slug else None
        if record is None:
            continue
        outcome = ("holds" if record.outcome == "reproduced" else "fails") if claim.identity else ""
        first = record.intervals[0]
        measured = f"{first.estimate:.3g} {claim.unit}".strip()
        rows.append(
            f"| {_cell(claim.statement)} | {measured} | {outcome or OUTCOMES[record.outcome]} "
            f"| {_cell(claim.paper_figure)} |"
        )
    if not rows:
        return []
    head = ["| claim | measured here | outcome | in the paper |", "|---|---|---|---|"]
    return ["## What was measured", "\n".join([*head, *rows])]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
