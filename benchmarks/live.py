"""Training speed of the live experiment against a bare loop of the same networks, optimizer and batches.

Three paired ratios: with the default probes; with probes and evaluation, as on the page; and inside a worker that a
server polls four times a second and draws for, against the same worker left alone.
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import cross_entropy

from benchmarks.report import paired_ratio, report
from normviz.engine import WorkerEngine
from normviz.experiments import normalization_statistics as ns
from normviz.experiments.normalization_statistics import frames as experiment
from normviz.norms import make_norm
from normviz.training import build_member, train

STEPS = 60
NORMS = ("layer", "batch", "power", "power_v")


def setting(norm: str, steps: int = STEPS) -> ns.Knobs:
    return ns.Knobs(norms=(norm,), seeds=1, steps=steps, reference=False)


def bare(norm: str) -> float:
    """Steps per second of a hand-written loop."""
    arms, batches, _ = experiment._language(setting(norm), torch.device("cpu"))
    member = build_member(arms[0], 0, torch.device("cpu"))
    model, optimizer = member.model, member.optimizer
    start = time.perf_counter()
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


def polled_over_alone(windows: int = 6, seconds: float = 1.5) -> list[float]:
    """Ratios of a worker's steps per second while figures are built at 4 Hz to those in the windows between."""
    ratios = []
    with_engine = WorkerEngine(workers=1)
    try:
        run = with_engine.submit(ns.EXPERIMENT, setting("layer", 1000), owner="benchmark")
        while run.log.last_step < 20:
            time.sleep(0.05)
        for _ in range(windows):
            alone = _speed(run, seconds, poll=False)
            ratios.append(_speed(run, seconds, poll=True) / alone)
            if not run.live:
                run = with_engine.submit(ns.EXPERIMENT, setting("layer", 1000), owner="benchmark")
                while run.log.last_step < 20:
                    time.sleep(0.05)
    finally:
        with_engine.close()
    return ratios


def _speed(run: ns.EXPERIMENT.__class__, seconds: float, *, poll: bool) -> float:  # type: ignore[name-defined]
    first, start = run.log.last_step, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if poll:
            run.figures()
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
            ratio = paired_ratio(lambda n=norm, e=evaluated: probed(n, evaluated=e), lambda n=norm: bare(n))  # type: ignore[misc]
            rows.append([f"{norm}: {label} / bare loop", *ratio])
    ratios = sorted(polled_over_alone())
    rows.append(["worker polled at 4 Hz / left alone", ratios[len(ratios) // 2], ratios[0], ratios[-1]])
    columns = ("steps/s ratio", "median", "lowest", "highest")
    report("live", "Speed of the live experiment (goal 0.95)", columns, rows)
    report("norms_live", "Forward and backward time over torch's LayerNorm", columns, norm_speed())


if __name__ == "__main__":
    main()
