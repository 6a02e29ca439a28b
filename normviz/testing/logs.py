"""Logs made by hand, for tests of claims, measures and charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from normviz.frame import Frame, FrameLog

__all__ = ["log_of", "log_of_rows", "log_of_series", "merged"]

Recipe = Any
"""A number, an array, a function of step and seed, one for each step (list, tuple), one by seed (mapping), or such of
such."""


def log_of(
    arms: Mapping[str, Mapping[str, Recipe]],
    *,
    steps: int | Sequence[int] = 0,
    seeds: int | Sequence[int] = 2,
    by_seed: float = 0.0,
    diverged: Mapping[tuple[str, int], int] | Iterable[tuple[str, int]] = (),
    missing: Iterable[tuple[str, int]] = (),
) -> FrameLog:
    """A log of arms whose values are described in short.

    Args:
        arms: for each arm its values by name. A value is a number or an array (the same at every step), a function of
            step and seed, a list or tuple with one value for each step, or a mapping from seed to a value; the last two
            may hold each other. None is not logged.
        steps: the moments of measurement; a number n stands for 0, 1, …, n.
        seeds: the seeds; a number n stands for 0, …, n - 1.
        by_seed: is added to every scalar once for each seed above the first, so that intervals have a width.
        diverged: members (arm and seed) that diverge, with the step at which they do (without one at the last); they
            have no values from there on.
        missing: members that are not in the log.

    Returns:
        Frames in order of step, arm and seed, as one worker sends them.

    Raises:
        ValueError: a list that has not one value for each step, or a member that diverges and is not in the log.

    Example:
        >>> log = log_of({"new": {"loss": [3.0, 1.0]}, "old": {"loss": 2.0}}, steps=[0, 10], seeds=2, by_seed=0.5)
        >>> log.final("loss")["value"].tolist()
        [1.0, 1.5, 2.0, 2.5]
    """
    moments = list(range(steps + 1)) if isinstance(steps, int) else list(steps)
    listed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    ends = dict(diverged) if isinstance(diverged, Mapping) else dict.fromkeys(diverged, moments[-1])
    absent = set(missing)
    members = [(arm, seed) for arm in arms for seed in listed if (arm, seed) not in absent]
    for member in ends:
        if member not in members:
            raise ValueError(f"diverged must name members of the log, got {member!r}.")
    frames = []
    for i, step in enumerate(moments):
        for arm, seed in members:
            end = ends.get((arm, seed))
            if end is not None and step >= end:
                if i == 0 or moments[i - 1] < end:
                    frames.append(Frame.diverged(end, arm, seed, "the training loss is inf"))
                continue
            values = {
                name: _value(name, recipe, i, step, seed, len(moments)) for name, recipe in arms[arm].items()
            }
            shift = by_seed * listed.index(seed)
            kept = {
                name: value + shift if np.ndim(value) == 0 else value
                for name, value in values.items()
                if value is not None
            }
            frames.append(Frame(step, arm, seed, kept))
    return FrameLog(frames)


def log_of_series(
    name: str, runs: Mapping[str, Mapping[int, Sequence[float]]], *, first: int = 0, every: int = 1
) -> FrameLog:
    """A log of one scalar from a series for each member; series may end at different steps.

    Args:
        name: of the scalar.
        runs: by arm and seed, the values at the steps first, first + every, first + 2 every, …
        first: the step of the first value.
        every: steps between two values.

    Returns:
        Frames in order of arm, seed and step.

    Example:
        >>> log = log_of_series("loss", {"new": {0: [3.0, 1.0]}, "old": {0: [2.0]}}, every=10)
        >>> log.scalars("loss")["step"].tolist()
        [0, 10, 0]
    """
    return FrameLog(
        Frame(first + every * i, arm, seed, {name: value})
        for arm, seeds in runs.items()
        for seed, values in seeds.items()
        for i, value in enumerate(values)
    )


def log_of_rows(rows: Iterable[tuple[int, str, int, Mapping[str, Any]]]) -> FrameLog:
    """A log with a frame for each row (step, arm, seed, values), in this order.

    Example:
        >>> log_of_rows([(0, "new", 0, {"loss": 3.0}), (1, "new", 0, {"loss": 1.0})]).last_step
        1
    """
    return FrameLog(Frame(step, arm, seed, values) for step, arm, seed, values in rows)


def merged(*logs: FrameLog) -> FrameLog:
    """One log with the frames of several, one log after the other."""
    return FrameLog(frame for log in logs for frame in log.frames)


def _value(name: str, recipe: Recipe, i: int, step: int, seed: int, moments: int) -> Any:
    """The value at the i-th moment; None for none."""
    by_step = False
    while True:
        if isinstance(recipe, Mapping):
            recipe = recipe.get(seed)
        elif callable(recipe):
            recipe = recipe(step, seed)
        elif isinstance(recipe, (list, tuple)) and not by_step:
            if len(recipe) != moments:
                raise ValueError(f"{name} must have {moments} values, one for each step, got {len(recipe)}.")
            recipe, by_step = recipe[i], True
        else:
            return recipe
