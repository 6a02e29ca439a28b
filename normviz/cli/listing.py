"""``normviz list``: the pages, their presets and papers, and which can be run."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from normviz.catalog import PAGES, Page, papers_of_page
from normviz.cli.errors import DONE
from normviz.cli.printing import print_document
from normviz.cli.tables import catalog_table
from normviz.experiments import SLUGS, get_experiment

__all__ = ["list_pages"]


def list_pages(arguments: argparse.Namespace) -> int:
    """Print the catalog as a table or as JSON; :mod:`normviz.cli.records` has the schema."""
    if arguments.json:
        print_document([_record(page) for page in PAGES.values()])
    else:
        Console().print(catalog_table())
    return DONE


def _record(page: Page) -> dict[str, Any]:
    built = page.slug in SLUGS
    presets = get_experiment(page.slug).presets.values() if built else ()
    return {
        "page": page.slug,
        "title": page.title,
        "topic": page.topic,
        "status": "built" if built else "planned",
        "question": page.question,
        "presets": [
            {"slug": p.slug, "name": p.name, "sentence": p.sentence, "knobs": dict(p.knobs)} for p in presets
        ],
        "papers": [
            {"slug": p.slug, "title": p.title, "authors": p.authors, "year": p.year, "arxiv": p.arxiv}
            for p in papers_of_page(page.slug)
        ],
    }
