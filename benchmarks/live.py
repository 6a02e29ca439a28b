"""Training speed of the live experiment against a bare loop of the same networks, optimizer and batches.

Three paired ratios: with the default probes; with probes and evaluation, as on the page; and inside a worker that a
server polls four times a second and draws for, against the same worker left alone. Runs have the default
number of steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from benchmarks.report import paired_ratio, report
from normviz.engine import WorkerEngine
from normviz.experiments import Run
from normviz.experiments import normalization_statistics as ns
from normviz.experiments.normalization_statistics import frames as experiment
from normviz.norms import make_norm
from normviz.training import build_member, train

STEPS = ns.Knobs().steps
LONG = 1000
NORMS = ("layer", "batch", "power", "power_v")


def setting(norm: str, steps: int = STEPS) -> ns.Knobs:
    return ns.Knobs(norms=(norm,), seeds=1, steps=steps, reference=False)


def bare(norm: str) -> float:
    """Steps per second of a hand-written loop."""
    arms, batches, _ = experiment._language(setting(norm), torch.device("cpu"))
    start = time.perf_counter()
    member = build_member(arms[0], 0, torch.device("cpu"))
    model, optimizer = member.model, member.optimizer
    for step in range(STEPS):
        tokens, targets = batches(0, step)
        loss = cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return STEPS / (time.perf_counter() - start)


def probed(norm: str, *, evaluated: bool) -> float:
    """Steps per second of the training loop with the page's probes, with or without its evaluation."""
    knobs = setting(norm)
    arms, batches, validation = experiment._language(knobs, torch.device("cpu"))
    evaluate = None
    if evaluated:

        def evaluate(member: object) -> object:
            return experiment._evaluate(member, validation=validation)  # type: ignore[arg-type]

    start = time.perf_counter()
    for _ in train(
        arms,
        range(1),
        batches=batches,
        steps=STEPS,
        device=torch.device("cpu"),
        probes=experiment.probes(),
        evaluate=evaluate,  # type: ignore[arg-type]
        eval_every=experiment.eval_every(knobs),
    ):
        pass
    return STEPS / (time.perf_counter() - start)


def polled_over_alone(rounds: int = 12, seconds: float = 1.5) -> dict[str, list[float]]:
    """Ratios of a worker's steps per second to those of a worker left alone.

    ``figures``: the server builds the figures at 4 Hz; ``busy``: it spends the same time at 4 Hz on nothing, which
    tells what of the loss comes from the machine's cores not being independent.
    """
    engine = WorkerEngine(workers=1)
    ratios: dict[str, list[float]] = {"figures": [], "busy": []}
    try:
        run = _long_run(engine)
        cost = min(_seconds(run.figures) for _ in range(5))
        acts: dict[str, Callable[[Run], object]] = {
            "alone": lambda run: None,  # noqa: ARG005
            "figures": lambda run: run.figures(),
            "busy": lambda run: _spin(cost),  # noqa: ARG005
        }
        for turn in range(rounds):
            if run.log.last_step > LONG // 2:
                engine.cancel(run.id)
                run = _long_run(engine)
            names = list(acts)[turn % 3 :] + list(acts)[: turn % 3]
            speed = {name: _speed(run, seconds, acts[name]) for name in names}
            for name, values in ratios.items():
                values.append(speed[name] / speed["alone"])
    finally:
        engine.close()
    return ratios


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _spin(seconds: float) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass


def _long_run(engine: WorkerEngine) -> Run:
    """A run of one GPT that is past its first steps."""
    run = engine.submit(ns.EXPERIMENT, setting("layer", LONG), owner="benchmark")
    while run.log.last_step < 20:
        time.sleep(0.05)
    return run


def _speed(run: Run, seconds: float, act: Callable[[Run], object]) -> float:
    first, start = run.log.last_step, time.perf_counter()
    while time.perf_counter() - start < seconds:
        act(run)
        time.sleep(0.25)
    return (run.log.last_step - first) / (time.perf_counter() - start)


def norm_speed() -> list[list[object]]:
    """Forward and backward of our layers against torch's LayerNorm on tokens (16, 64, 64)."""
    x = torch.randn(16, 64, 64, requires_grad=True)
    dy = torch.randn(16, 64, 64)

    def seconds(norm: torch.nn.Module) -> float:
        start = time.perf_counter()
        for _ in range(30):
            norm(x).backward(dy)
        return time.perf_counter() - start

    torch_norm = torch.nn.LayerNorm(64)
    rows: list[list[object]] = []
    for label, norm in {
        "LayerNorm, backend torch": make_norm("layer", 64),
        "LayerNorm, backend manual": make_norm("layer", 64, backend="manual"),
        "LayerNorm, backend reference": make_norm("layer", 64, backend="reference"),
        "PowerNorm-V": make_norm("power_v", 64, group_scaling=True),
        "PowerNorm": make_norm("power", 64),
        "UnifiedNorm": make_norm("unified", 64),
        "BatchNorm": make_norm("batch", 64),
    }.items():
        ratio = paired_ratio(lambda norm=norm: seconds(norm), lambda: seconds(torch_norm), 7)  # type: ignore[misc]
        rows.append([label, *ratio])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for norm in NORMS:
        for label, evaluated in (("probes", False), ("probes and evaluation", True)):
            ratio = paired_ratio(
                lambda n=norm, e=evaluated: probed(n, evaluated=e), lambda n=norm: bare(n), 3
            )  # type: ignore[misc]
            rows.append([f"{norm}: {label} / bare loop", *ratio])
    what = {"figures": "worker polled at 4 Hz", "busy": "the same time spent on nothing"}
    for name, ratios in polled_over_alone().items():
        rows.append([f"{what[name]} / left alone", statistics.median(ratios), min(ratios), max(ratios)])
    columns = ("steps/s ratio", "median", "lowest", "highest")
    report("live", "Speed of the live experiment (goal 0.95)", columns, rows)
    report("norms_live", "Forward and backward time over torch's LayerNorm", columns, norm_speed())


if __name__ == "__main__":
    main()
