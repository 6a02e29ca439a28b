"""Find an experiment by what a request or a stored run names it with: its slug or the package it lives in."""

from __future__ import annotations

from importlib import import_module

from normviz.experiments import Experiment, get_experiment

__all__ = ["find_experiment"]


def find_experiment(name: str) -> Experiment:
    """The experiment with that slug, or the one in the package with that dotted name.

    Args:
        name: a slug of :data:`normviz.experiments.SLUGS`, or the dotted name of an importable package that holds an
            ``EXPERIMENT`` (one's own experiment, outside of normviz).

    Raises:
        ValueError: there is no such slug, no such package, or the package holds no experiment.
    """
    if "." not in name:
        return get_experiment(name)
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r} is no dotted name of an experiment package.")
    try:
        found = getattr(import_module(name), "EXPERIMENT", None)
    except (ImportError, ValueError) as error:
        raise ValueError(f"The experiment package {name!r} cannot be imported: {error}.") from error
    if not isinstance(found, Experiment):
        raise ValueError(f"The package {name!r} holds no experiment: it needs a name EXPERIMENT.")
    if found.package != name:
        raise ValueError(f"The experiment in {name!r} says that it lives in {found.package!r}.")
    return found
