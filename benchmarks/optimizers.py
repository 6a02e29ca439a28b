"""Time of one optimizer step, ours beside the peers that people use, on the parameters of small GPTs.

    python -m benchmarks.optimizers

Peers: ``torch.optim`` (Muon, AdamW foreach and fused, SGD) and, where it is installed, ``pytorch_optimizer`` (Muon,
NorMuon, Conda, GaLore, Fira). All contenders of a family step copies of the same weights with the same gradients, one
after the other in every repeat and in an order that turns, so that a busy machine slows all of them alike; what is
reported is the median time and the median of the ratios within a repeat. The singular value decompositions of Conda,
GaLore and Fira fall outside the timed steps (they happen once in many steps and cost everyone the same LAPACK call).

For Muon and NorMuon the table also states the floor: the multiplications that Newton-Schulz needs, at the rate of this
machine's own matrix product in that precision. Results go to ``benchmarks/results/optimizers.json``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from normviz.environment import environment
from normviz.models import GPT
from normviz.optim import (
    SWAN,
    Conda,
    FiraAdamW,
    GaLoreAdamW,
    Muon,
    NorMuon,
    SinkGD,
    SWANFast,
    fira_param_groups,
    split_matrix_params,
)

RESULTS = Path(__file__).parent / "results" / "optimizers.json"
SIZES = ((64, 2), (128, 4), (256, 6), (512, 12))
"""(width, blocks) of the GPTs."""

REPEATS = 15
BUDGET = 6.0
"""Seconds for one family at one size: the repeats stop there (but not before three)."""

SLICE = 0.02
"""Seconds that one contender steps within one repeat, at least one step."""

NEVER = 10**6
RANK = 16
Build = Callable[[nn.Module], list[Optimizer]]


@dataclass(frozen=True)
class Contender:
    """An optimizer under test: its name, whether it is ours, and how to build it over a model."""

    name: str
    ours: bool
    build: Build


@dataclass(frozen=True)
class Family:
    """Optimizers that do the same work on the same parameters, and may be compared one with the other.

    ``peerless`` families have no peer of the same method: their lines are compared with AdamW for orientation.
    """

    name: str
    parameters: str
    contenders: tuple[Contender, ...]
    newton_schulz: bool = False


def _peer() -> Any:
    try:
        return import_module("pytorch_optimizer")
    except ImportError:
        return None


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return split_matrix_params(model)[0]["params"]


def _flagged(model: nn.Module) -> list[dict[str, Any]]:
    """Groups in pytorch_optimizer's form: it fills its defaults into the dicts and knows ``use_muon`` only."""
    return [{"params": g["params"], "use_muon": g["use_muon"]} for g in split_matrix_params(model)]


def _peer_low_rank(model: nn.Module) -> list[dict[str, Any]]:
    projected, plain = fira_param_groups(model, rank=RANK)
    options = {"rank": RANK, "update_proj_gap": NEVER, "scale": 0.25, "projection_type": "std"}
    return [{"params": projected["params"], **options}, {"params": plain["params"]}]


def _low_rank(model: nn.Module) -> list[dict[str, Any]]:
    return fira_param_groups(model, rank=RANK, update_proj_gap=NEVER)


def families() -> list[Family]:
    """All comparisons; those with ``pytorch_optimizer`` shrink to ours where it is absent."""
    peer = _peer()
    label = "pytorch_optimizer"

    def theirs(name: str, build: Build) -> tuple[Contender, ...]:
        return (Contender(f"{label}.{name}", False, build),) if peer is not None else ()

    bfloat16 = torch.bfloat16
    everything = "all parameters"
    return [
        Family(
            "Muon",
            "block matrices",
            (
                Contender("ours, default", True, lambda m: [Muon(_matrices(m))]),
                Contender("ours, float32", True, lambda m: [Muon(_matrices(m), ns_dtype=torch.float32)]),
                Contender("ours, bfloat16", True, lambda m: [Muon(_matrices(m), ns_dtype=bfloat16)]),
                Contender("torch.optim.Muon, bfloat16", False, lambda m: [torch.optim.Muon(_matrices(m))]),
                *theirs("Muon", lambda m: [peer.Muon([_flagged(m)[0]], weight_decay=0.1)]),
            ),
            newton_schulz=True,
        ),
        Family(
            "NorMuon",
            everything,
            (
                Contender("ours, default", True, lambda m: [NorMuon(split_matrix_params(m))]),
                Contender(
                    "ours, float32",
                    True,
                    lambda m: [NorMuon(split_matrix_params(m), ns_dtype=torch.float32)],
                ),
                Contender(
                    "ours, bfloat16", True, lambda m: [NorMuon(split_matrix_params(m), ns_dtype=bfloat16)]
                ),
                *theirs("NorMuon", lambda m: [peer.NorMuon(_flagged(m))]),
            ),
            newton_schulz=True,
        ),
        Family(
            "Conda",
            "block matrices",
            (
                Contender(
                    "ours",
                    True,
                    lambda m: [Conda([{"params": _matrices(m), "update_proj_gap": NEVER, "scale": 0.25}])],
                ),
                *theirs("Conda", lambda m: [peer.Conda(_matrices(m), update_proj_gap=NEVER, scale=0.25)]),
            ),
        ),
        Family(
            "GaLore",
            everything,
            (
                Contender("ours", True, lambda m: [GaLoreAdamW(_low_rank(m))]),
                *theirs("GaLore", lambda m: [peer.GaLore(_peer_low_rank(m))]),
            ),
        ),
        Family(
            "Fira",
            everything,
            (
                Contender("ours", True, lambda m: [FiraAdamW(_low_rank(m))]),
                *theirs("Fira", lambda m: [peer.Fira(_peer_low_rank(m))]),
            ),
        ),
        Family(
            "Adam",
            everything,
            (
                Contender("ours, the fallback of SinkGD, SWAN, NorMuon", True, _only_fallback),
                Contender(
                    "ours, plain group of Conda, GaLore, Fira", True, lambda m: [Conda(m.parameters())]
                ),
                Contender("torch AdamW, foreach", False, lambda m: [_adamw(m, foreach=True)]),
                Contender("torch AdamW, fused", False, lambda m: [_adamw(m, fused=True)]),
            ),
        ),
        Family(
            "stateless",
            everything,
            (
                Contender("ours, SinkGD", True, lambda m: [SinkGD(split_matrix_params(m))]),
                Contender("ours, SWAN", True, lambda m: [SWAN(split_matrix_params(m))]),
                Contender("ours, SWANFast", True, lambda m: [SWANFast(split_matrix_params(m))]),
                Contender(
                    "torch SGD, foreach", False, lambda m: [torch.optim.SGD(m.parameters(), foreach=True)]
                ),
            ),
        ),
    ]


def _only_fallback(model: nn.Module) -> list[Optimizer]:
    return [SinkGD([{"params": list(model.parameters()), "use_sinkgd": False}])]


def _adamw(model: nn.Module, **options: bool) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), **options)


class Bench:
    """One contender on its own copy of the model, with gradients that are put back before every slice."""

    def __init__(self, contender: Contender, width: int, blocks: int) -> None:
        torch.manual_seed(0)
        self.contender = contender
        model = GPT(256, dim=width, num_layers=blocks, num_heads=4)
        generator = torch.Generator().manual_seed(1)
        self.params = list(model.parameters())
        self.gradients = [1e-2 * torch.randn(p.shape, generator=generator) for p in self.params]
        self.optimizers = contender.build(model)
        self.restore()
        self.steps = 1
        for _ in range(2):
            self.step()
        started = time.perf_counter()
        self.step()
        self.steps = max(1, int(SLICE / (time.perf_counter() - started)))

    def restore(self) -> None:
        """Fresh gradients: some peers change them in place."""
        for p, g in zip(self.params, self.gradients, strict=True):
            p.grad = g.clone() if p.grad is None else p.grad.copy_(g)

    def step(self) -> None:
        """One step of the optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()

    def slice(self) -> float:
        """Seconds per step over one slice."""
        self.restore()
        started = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        return (time.perf_counter() - started) / self.steps


def newton_schulz_flops(shapes: Sequence[tuple[int, ...]], steps: int = 5) -> float:
    """Floating-point operations of ``steps`` iterations: X X^T, A A and B X, each product 2 x its three sizes."""
    total = 0.0
    for shape in shapes:
        short, long = sorted(shape)
        total += steps * (4 * short * short * long + 2 * short**3)
    return total


def matmul_rate(dtype: torch.dtype, size: int = 1024, repeats: int = 7) -> float:
    """Floating-point operations per second of a square product in ``dtype``: the best of the repeats."""
    A = torch.randn(size, size).to(dtype)
    out = torch.empty_like(A)
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(A, A, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def compare(family: Family, width: int, blocks: int) -> list[dict[str, Any]]:
    """The family's rows at one size: median seconds, and the ratio of each peer's time to each of ours."""
    benches = [Bench(contender, width, blocks) for contender in family.contenders]
    times: list[list[float]] = [[] for _ in benches]
    started = time.perf_counter()
    for repeat in range(REPEATS):
        if repeat >= 3 and time.perf_counter() - started > BUDGET:
            break
        for turn in range(len(benches)):
            index = (turn + repeat) % len(benches)
            times[index].append(benches[index].slice())
    rows = []
    for bench, own in zip(benches, times, strict=True):
        ratios = {
            peer.contender.name: statistics.median(b / a for a, b in zip(own, theirs, strict=True))
            for peer, theirs in zip(benches, times, strict=True)
            if bench.contender.ours and not peer.contender.ours
        }
        quartiles = statistics.quantiles(own, n=4)
        rows.append(
            {
                "family": family.name,
                "parameters": family.parameters,
                "width": width,
                "blocks": blocks,
                "optimizer": bench.contender.name,
                "ours": bench.contender.ours,
                "seconds": statistics.median(own),
                "quartiles": [quartiles[0], quartiles[2]],
                "repeats": len(own),
                "peer_time_over_ours": ratios,
            }
        )
    return rows


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in row["peer_time_over_ours"].items())
        print(
            f"  {row['optimizer']:<46s} {1e3 * row['seconds']:9.3f} ms  "
            f"[{1e3 * row['quartiles'][0]:.3f}, {1e3 * row['quartiles'][1]:.3f}]"
            + (f"   faster by {ratios}" if ratios else "")
        )


def _environment() -> dict[str, Any]:
    found: dict[str, Any] = {**environment("cpu"), "threads": torch.get_num_threads()}
    found["processor"] = _processor()
    found["load average"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found["pytorch_optimizer"] = version("pytorch_optimizer") if _peer() is not None else "absent"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores seen" if names else platform.processor()
    return platform.processor()


def main() -> None:
    """Run every family at every size, print the table, write the results."""
    env = _environment()
    print("Optimizer step, " + ", ".join(f"{k} {v}" for k, v in env.items()))
    if env["pytorch_optimizer"] == "absent":
        print("pytorch_optimizer is not installed: its rows are left out (pip install pytorch_optimizer).")
    rates = {name: matmul_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}
    print("matrix product: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in rates.items()))
    rows: list[dict[str, Any]] = []
    floors: list[dict[str, Any]] = []
    for width, blocks in SIZES:
        model = GPT(256, dim=width, num_layers=blocks, num_heads=4)
        count = sum(p.numel() for p in model.parameters())
        flops = newton_schulz_flops([tuple(p.shape) for p in _matrices(model)])
        floor = {"width": width, "blocks": blocks, "parameters": count, "flops": flops}
        floor |= {f"seconds_{name}": flops / rate for name, rate in rates.items()}
        floors.append(floor)
        print(f"\nGPT of width {width}, {blocks} blocks, {count / 1e6:.2f} M parameters")
        for family in families():
            print(f" {family.name} ({family.parameters})")
            if family.newton_schulz:
                least = ", ".join(f"{1e3 * flops / rate:.3f} ms in {name}" for name, rate in rates.items())
                print(f"  floor of Newton-Schulz: {flops / 1e9:.3f} GFLOP, {least}")
            measured = compare(family, width, blocks)
            _print_rows(measured)
            rows += measured
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(
        json.dumps({"environment": env, "matmul_rate": rates, "floors": floors, "rows": rows}, indent=1),
        encoding="utf-8",
    )
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
