"""What Normalize-and-Project costs per training step, as a ratio to the same step without projection.

    python -m benchmarks.nap

Every pair trains two copies of one network on the same batch in turns, on one thread, and counts the thread's own CPU
time, so that a busy machine disturbs little. *Loop* is the plain way to write the projection (norm and scaling of one
tensor after the other), for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.report import paired_ratio, report
from normviz.models import GPT
from normviz.module_roles import projected_weights
from normviz.norms import NaPConvNet, NaPMLP, NormProjector

REPEATS = 31
SLICE = 0.06
"""Seconds of one measurement."""


@dataclass(frozen=True)
class Case:
    """A network and its batch."""

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]


def cases() -> list[Case]:
    def images(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: (torch.randn(64, *shape), torch.randint(10, (64,)))

    def tokens() -> tuple[Tensor, Tensor]:
        return torch.randint(256, (8, 64)), torch.randint(256, (8, 64))

    return [
        Case("MLP 2 x 128", lambda: NaPMLP(64, 10, (128, 128)), images(64)),
        Case("MLP 4 x 512", lambda: NaPMLP(64, 10, (512,) * 4), images(64)),
        Case("ConvNet 16-32", lambda: NaPConvNet(3, 10), images(3, 32, 32)),
        Case(
            "GPT 4 x 128",
            lambda: GPT(256, dim=128, num_layers=4, num_heads=4, max_length=64),
            tokens,
        ),
    ]


def loop_projection(model: nn.Module) -> Callable[[], None]:
    """The projection of every hidden weight, one tensor after the other."""
    weights = list(projected_weights(model).values())
    radii = [float(weight.detach().norm()) for weight in weights]

    @torch.no_grad()
    def project() -> None:
        for weight, radius in zip(weights, radii, strict=True):
            weight.mul_(radius / weight.norm())

    return project


def library_projection(model: nn.Module, every: int = 1) -> Callable[[], None]:
    return NormProjector(model, every=every, scale_offset="free").project_


class Trainer:
    """A network that trains on one batch; called, it gives the seconds of a step."""

    def __init__(self, case: Case, projection: Callable[[nn.Module], Callable[[], None]] | None) -> None:
        torch.manual_seed(0)
        self.model = case.model()
        self.x, self.y = case.batch()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.project = projection(self.model) if projection else None
        self.steps = 1
        for _ in range(3):
            self.step()
        started = time.thread_time()
        self.step()
        self.steps = max(2, int(SLICE / (time.thread_time() - started)))

    def step(self) -> None:
        loss = cross_entropy(self.model(self.x).flatten(0, -2), self.y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.project is not None:
            self.project()

    def __call__(self) -> float:
        started = time.thread_time()
        for _ in range(self.steps):
            self.step()
        return (time.thread_time() - started) / self.steps


def main() -> None:
    """Compare and report."""
    torch.set_num_threads(1)
    variants: dict[str, Callable[[nn.Module], Callable[[], None]]] = {
        "every step": library_projection,
        "every 10 steps": lambda model: library_projection(model, 10),
        "loop, every step": loop_projection,
    }
    rows: list[list[object]] = []
    for case in cases():
        plain = Trainer(case, None)
        tensors = len(projected_weights(plain.model))
        for name, projection in variants.items():
            median, low, high = paired_ratio(Trainer(case, projection), plain, REPEATS)
            rows.append([case.name, tensors, name, median, low, high])
    report(
        "nap",
        "Training step with projection over the step without",
        ["network", "tensors", "projection", "median", "lowest", "highest"],
        rows,
        f"Forward, backward, Adam, projection; CPU time of one thread; {REPEATS} pairs of {SLICE} s. Batch of 64 "
        "images (64 pixels, ConvNet 3 x 32 x 32) or 8 x 64 tokens.",
    )


if __name__ == "__main__":
    main()
