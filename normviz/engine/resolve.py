"""Find an experiment by what a request or a stored run names it with: its slug or the package it lives in.

To import a package is to run it, and names come from links, files and command lines. So only packages that somebody
has opted for are imported: those of :data:`normviz.experiments.SLUGS`, those that ``NORMVIZ_EXPERIMENTS`` names
(:mod:`normviz.variables`), and those that an installed distribution declares as entry points::

    [project.entry-points."normviz.experiments"]
    own = "lab.own"
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from normviz.experiments import SLUGS, Experiment, get_experiment
from normviz.variables import experiment_packages

__all__ = ["find_experiment"]

GROUP = "normviz.experiments"


def find_experiment(name: str) -> Experiment:
    """The experiment with that slug, or the one in the package with that dotted name.

    Args:
        name: a slug of :data:`normviz.experiments.SLUGS`, or the dotted name of a registered package that holds an
            ``EXPERIMENT`` (one's own experiment, outside of normviz).

    Raises:
        ValueError: there is no such slug, the package is not registered, is not there, or holds no experiment.
            Nothing is imported that is not registered.
    """
    if "." not in name:
        return get_experiment(name)
    if name not in {f"{GROUP}.{slug.replace('-', '_')}" for slug in SLUGS} | _declared():
        registered = experiment_packages()
        if name not in registered:
            several = ",".join((*registered, name))
            raise ValueError(
                f"The experiment package {name!r} cannot be imported: it is not registered. If it is an experiment "
                f"of yours, set NORMVIZ_EXPERIMENTS={several}"
            )
    try:
        found = getattr(import_module(name), "EXPERIMENT", None)
    except (ImportError, ValueError) as error:
        raise ValueError(f"The experiment package {name!r} cannot be imported: {error}.") from error
    if not isinstance(found, Experiment):
        raise ValueError(f"The package {name!r} holds no experiment: it needs a name EXPERIMENT.")
    if found.package != name:
        raise ValueError(f"The experiment in {name!r} says that it lives in {found.package!r}.")
    return found


@cache
def _declared() -> frozenset[str]:
    return frozenset(entry.value for entry in entry_points(group=GROUP))
