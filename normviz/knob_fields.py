"""Fields that most experiments have, with one name, one help text and one section each."""

from __future__ import annotations

from typing import Any

from normviz.digit_sources import DIGIT_SOURCES
from normviz.knobs import knob

__all__ = [
    "batch_size",
    "corpus",
    "digit_data",
    "learning_rate",
    "own_images",
    "own_table",
    "seeds",
    "steps",
    "target",
]

MOST_SEEDS = 10
"""Most seeds of a run: what a page adds them up to, one by one."""


def steps(default: int, high: int, *, low: int = 10, help: str = "Updates of every network.") -> Any:
    """How long every member trains.

    Args:
        default: steps of the default run.
        high: most steps.
        low: fewest.
        help: what the reader sees.
    """
    return knob(default, low, high, label="Steps", help=help, step=10, section="Training")


def seeds(default: int = 2, high: int = MOST_SEEDS) -> Any:
    """Independent repetitions."""
    return knob(
        default,
        1,
        high,
        label="Seeds",
        help="Independent repetitions: they become bands on the charts and intervals in the verdicts. A verdict that "
        "counts needs five.",
        section="Training",
    )


def batch_size(default: int, high: int, *, low: int = 2, help: str = "Examples per step.") -> Any:
    """Examples of one step."""
    return knob(default, low, high, label="Batch size", help=help, section="Training")


def learning_rate(default: float, low: float, high: float, *, help: str) -> Any:
    """Step size of the optimizer, on a logarithmic slider."""
    return knob(default, low, high, label="Learning rate", help=help, log=True, section="Training")


def corpus() -> Any:
    """The text that language models read."""
    return knob(
        "python-docs",
        high=40,
        label="Text",
        help="python-docs, or the key of a text file that was uploaded here.",
        section="Data",
    )


def digit_data(
    *names: str,
    what: str = "What is classified",
    section: str = "Experiment",
    added: bool = True,
    own: str = "",
) -> Any:
    """Which digits are classified; the experiment's ``missing`` answers :func:`~normviz.digit_sources.missing_source`.

    Args:
        names: those that the experiment can take, the default first; none: all of them.
        what: begins the help; a page with other tasks says here that only one of them uses it.
        section: where the page shows it.
        added: as in :func:`~normviz.knobs.knob`.
        own: what readers may bring of their own, in words, where "own" is one of the choices.
    """
    sources = {name: DIGIT_SOURCES[name] for name in names or DIGIT_SOURCES}
    labels = {name: source.label for name, source in sources.items()}
    *first, last = (source.sentence for source in sources.values())
    if own:
        first, last, labels = [*first, last], own, {**labels, "own": "Your own"}
    return knob(
        next(iter(sources)),
        label="Data",
        help=f"{what}: {'; '.join(first)}; or {last}.",
        labels=labels,
        section=section,
        added=added,
    )


def own_images() -> Any:
    """The reader's own images, where the data set is "own"."""
    return knob(
        "",
        high=19,
        label="Own images",
        help="The key of images that were brought here: a zip, or a folder, with one folder of PNG, JPEG or GIF files "
        "per class.",
        section="Experiment",
        hidden=True,
    )


def own_table() -> Any:
    """The reader's own table, where the data set is "own"."""
    return knob(
        "",
        high=18,
        label="Own table",
        help="The key of a CSV file that was brought here, with the names of the columns in its first row.",
        section="Experiment",
        hidden=True,
    )


def target() -> Any:
    """The column of the reader's own table that is classified."""
    return knob(
        "",
        high=60,
        label="Target",
        help="The column of the own table that is to be told from the others.",
        section="Experiment",
        hidden=True,
    )
