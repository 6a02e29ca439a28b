"""A round of FedTiny beside a round of dense federated averaging: time, and exact bytes of one client.

    python -m benchmarks.federated

The network and the ten clients of the page *Federated pruning*, one local epoch per round. FedTiny is timed in a round
that only trains and in one that adjusts every layer, which is more than it ever does at once. Both sides take turns
within every repeat, so that a busy machine slows both. Sparse tensors are stored densely here, so that a round takes no
less time; what a device saves is in the bytes and in the operations, which are counted. Results go to
``benchmarks/results/federated.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.report import paired_ratio, report
from normviz.data import load_digits
from normviz.federated import (
    FedAvg,
    FedTiny,
    SparseModel,
    communication_bytes,
    device_memory,
    dirichlet_partition,
    model_macs,
)
from normviz.models import ConvNet

DENSITY = 0.042
SHAPE = (1, 8, 8)
REPEATS = 5


def network() -> nn.Module:
    """14,458 parameters, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet(1, (16, 32, 32), 10, norm=nn.BatchNorm2d, bias=False)


def clients() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ten clients with skewed labels."""
    data = load_digits(seed=0)
    parts = dirichlet_partition(data.y_train.numpy(), 10, 0.5)
    return [(data.x_train[part], data.y_train[part]) for part in map(torch.from_numpy, parts)]


def tiny(interval: int) -> FedTiny:
    """FedTiny whose selection is done; an interval of 1 adjusts all layers in every round."""
    learner = FedTiny(
        network, clients(), DENSITY, 10, interval, 10**6, granularity="entire", epochs=1, batch_size=32
    )
    return learner.run(0)


def seconds_of_a_round(learner: FedAvg) -> Callable[[], float]:
    """A measurement: wall time of the next round."""

    def measure() -> float:
        start = time.perf_counter()
        learner.run(1)
        return time.perf_counter() - start

    return measure


def pairs_of(learner: FedTiny) -> int:
    """Pairs of index and value that a client uploaded in the last round."""
    return sum(len(grown) for grown in learner.last["grown"].values())


def compare(repeats: int = REPEATS) -> list[list[object]]:
    """One row per kind of round: milliseconds, times dense, bytes up and down, memory, operations."""
    dense = FedAvg(network, clients(), epochs=1, batch_size=32)
    plain = seconds_of_a_round(dense)
    rows: list[list[object]] = [["dense FedAvg", 0.0, 1.0, 1.0, 1.0, *_counted(dense.model, 0, False)]]
    taken: list[float] = []
    for name, learner in {"FedTiny, training": tiny(10**5), "FedTiny, adjusting": tiny(1)}.items():
        own: list[float] = []
        measure = seconds_of_a_round(learner)

        def timed(measure: Callable[[], float] = measure, own: list[float] = own) -> float:
            own.append(measure())
            return own[-1]

        def dense_timed() -> float:
            taken.append(plain())
            return taken[-1]

        ratios = paired_ratio(timed, dense_timed, repeats)
        pairs = pairs_of(learner)
        counted = _counted(learner.model, pairs, pairs > 0)
        rows.append([name, 1e3 * statistics.median(own), *ratios, *counted])
    rows[0][1] = 1e3 * statistics.median(taken)
    return rows


def _counted(model: nn.Module, pairs: int, masks_changed: bool) -> list[object]:
    sent = communication_bytes(model, topk=pairs, masks_changed=masks_changed)
    macs = sum(model_macs(model, SHAPE).values())
    return [sent["up"], sent["down"], device_memory(model, topk=pairs), macs]


def main() -> None:
    """Measure, print the table, write the results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = compare()
    finally:
        torch.set_num_threads(threads)
    kept = SparseModel(network(), DENSITY).density()
    report(
        "federated",
        "A round of FedTiny beside dense federated averaging",
        ("round", "ms", "ratio", "low", "high", "bytes up", "bytes down", "memory", "MACs a sample"),
        rows,
        f"Ten clients, one epoch, density {kept:.3g}; one thread. Bytes of one client, memory without activations.",
    )


if __name__ == "__main__":
    main()
