"""Experiments: what is run on each page, found by slug; importing this loads no PyTorch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from normviz.catalog import PAGES
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import Run, Status, run_experiment
from normviz.validation import nearest

__all__ = ["SLUGS", "Experiment", "Run", "Status", "get_experiment", "run_experiment"]

SLUGS: tuple[str, ...] = tuple(
    slug for slug in PAGES if (Path(__file__).parent / slug.replace("-", "_") / "__init__.py").is_file()
)
"""Slugs of the experiments that can be run, in page order: the pages of the catalog that have a folder here."""


def get_experiment(slug: str) -> Experiment:
    """The experiment with that slug.

    Raises:
        ValueError: there is none; the message has the nearest slugs.
    """
    if slug not in SLUGS:
        close = nearest(slug, SLUGS)
        hint = f" Nearest: {', '.join(close)}." if close else f" There are: {', '.join(SLUGS)}."
        raise ValueError(f"There is no experiment {slug!r}.{hint}")
    experiment: Experiment = import_module(f"normviz.experiments.{slug.replace('-', '_')}").EXPERIMENT
    return experiment
