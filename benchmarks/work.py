"""Measure what runs cost and compare it with the seconds that their knobs estimate: random valid settings of each page.

``python -m benchmarks.work [--settings N] [--cap SECONDS] [--pages SLUG ...] [--write FILE]`` trains one seed of every
setting for at most ``cap`` seconds of processor time and extends what it took to the whole run by the share of the axis
that was reached. Time is processor time of this process on one thread, so other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from normviz.experiments import SLUGS, Experiment, get_experiment
from normviz.knobs import Control, KnobError, Knobs

CAP = 3.0
"""Seconds of processor time that are spent on one setting."""


def draw(control: Control, chance: random.Random) -> object:
    """A random value of a knob, any allowed one; numbers with wide bounds on a logarithmic scale."""
    if control.kind in ("int", "float"):
        low, high = float(control.low or 0.0), float(control.high or 0.0)
        wide = low > 0 and high / low > 20
        value = math.exp(chance.uniform(math.log(low), math.log(high))) if wide else chance.uniform(low, high)
        if control.kind == "int":
            return min(max(round(value), math.ceil(low)), math.floor(high))
        return min(max(value, low), high)
    if control.kind == "bool":
        return chance.random() < 0.5
    if control.kind == "choice":
        return chance.choice(control.options)
    if control.kind == "choices":
        count = chance.randint(max(control.min_choices, 1), len(control.options))
        return tuple(chance.sample(control.options, count))
    return control.default


def settings(schema: type[Knobs], number: int, chance: random.Random) -> Iterator[Knobs]:
    """Random settings that are allowed and can run here, in turn near the default (some knobs differ) and anywhere."""
    controls = [control for control in schema.controls().values() if not control.hidden]
    found = tries = 0
    while found < number:
        tries += 1
        if tries > 200 * number:
            raise RuntimeError(f"{schema.__module__}: of {tries} random settings only {found} were allowed.")
        share = 0.3 if found % 2 else 1.0
        values = {c.name: draw(c, chance) for c in controls if chance.random() < share}
        try:
            knobs = schema.parse(values)
        except KnobError:
            continue
        if knobs.missing():
            continue
        found += 1
        yield knobs


def measure(experiment: Experiment, knobs: Knobs, cap: float = CAP) -> tuple[float, float]:
    """Seconds of processor time of the whole run, and the share of it that was trained to know them."""
    seeds: Sequence[int] = knobs.seed_range()
    part = knobs.for_seeds(seeds[:1]) if experiment.divisible else knobs
    factor = len(seeds) / len(part.seed_range())
    arms = set(part.shown_arms().names)
    total = part.total_steps() * part.members()
    at: dict[tuple[str, int], int] = {}
    begin = time.process_time()
    first: tuple[float, int] | None = None
    now, done = begin, 0
    finished = True
    frames = experiment.frames(part, "cpu")
    for frame in frames:
        now = time.process_time()
        if frame.arm in arms:
            member = (frame.arm, frame.seed)
            at[member] = max(at.get(member, 0), frame.step)
            if (sum_ := sum(at.values())) > done:
                done = sum_
                first = first or (now, done)
        if now - begin > cap and first is not None and done > first[1]:
            finished = False
            break
    if finished or first is None:
        return (time.process_time() - begin) * factor, 1.0
    rate = (now - first[0]) / (done - first[1])
    return (first[0] - begin + rate * max(total - first[1], 0)) * factor, done / total


def main(arguments: Sequence[str] | None = None) -> None:
    """Print for each page how estimates compare with measured seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.work", description=__doc__)
    parser.add_argument("--settings", type=int, default=12, help="random settings per page")
    parser.add_argument("--cap", type=float, default=CAP, help="seconds of processor time per setting")
    parser.add_argument("--seed", type=int, default=0, help="of the random settings")
    parser.add_argument("--pages", nargs="*", default=list(SLUGS), help="slugs; default: all")
    parser.add_argument("--write", type=Path, help="file for every setting, one JSON object a line")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chance = {slug: random.Random(f"{slug} {options.seed}") for slug in options.pages}
    drawn = {s: settings(get_experiment(s).knobs, options.settings, chance[s]) for s in options.pages}
    ratios: dict[str, list[float]] = {slug: [] for slug in options.pages}
    for _ in range(options.settings):
        for slug in options.pages:
            knobs = next(drawn[slug])
            seconds, share = measure(get_experiment(slug), knobs, options.cap)
            ratios[slug].append(knobs.work() / seconds)
            if options.write:
                row: dict[str, Any] = {
                    "page": slug,
                    "estimate": knobs.work(),
                    "seconds": seconds,
                    "share": share,
                }
                row["knobs"] = knobs.to_query()
                with options.write.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(f"{'page':32}{'lowest':>8}{'median':>8}{'highest':>8}{'within 2':>10}")
    for slug, found in ratios.items():
        near = sum(0.5 <= ratio <= 2 for ratio in found) / len(found)
        print(f"{slug:32}{min(found):8.2f}{statistics.median(found):8.2f}{max(found):8.2f}{near:10.0%}")


if __name__ == "__main__":
    main()
