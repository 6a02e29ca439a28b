"""Adaptive batch sizes in data-parallel training: moments pooled over real gloo processes equal the single process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from normviz.adaptive import (
    AdaptiveBatchSize,
    GradientMoments,
    combine_moments,
    per_sample_gradients,
    variance_from_microbatches,
)
from normviz.optim import AdaGradNorm

N, D, STEPS = 400, 5, 12


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(N, 1, generator=generator, dtype=torch.float64)
    return x, x @ torch.linspace(-1, 1, D, dtype=torch.float64).unsqueeze(1) + noise


def model() -> nn.Module:
    net = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    generator = torch.Generator().manual_seed(1)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return net


def indices(step: int, batch: int) -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(100 + step))[:batch]


def shards_of(batch: Tensor, world: int) -> list[Tensor]:
    """Unequal shards: the last rank takes most of the batch, and all but one sample of the first one."""
    first = len(batch) // (2 * world)
    cuts = [max(first, 1)] * (world - 1)
    return list(batch.split([*cuts, len(batch) - sum(cuts)]))


def run(rank: int, world: int) -> dict[str, Any]:
    """Training where every rank sees its own shard of each batch and the moments are pooled."""
    x, y = data()
    net = model()
    optimizer = AdaGradNorm(net.parameters(), lr=0.5)
    sizes = AdaptiveBatchSize(eta=0.9, initial_batch_size=4, max_batch_size=N)
    path, counts = [], []
    for step in range(STEPS):
        own = shards_of(indices(step, sizes.batch_size), world)[rank]
        grads = per_sample_gradients(net, nn.functional.mse_loss, x[own], y[own])
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, GradientMoments.of(grads))
        pooled = combine_moments(gathered)
        counts.append([shard.count for shard in gathered])
        for p, g in zip(net.parameters(), pooled.mean, strict=True):
            p.grad = g
        path.append(sizes.step(pooled))
        optimizer.step()
    return {
        "params": [p.detach() for p in net.parameters()],
        "sizes": path,
        "counts": counts,
        "suggestions": [result.suggestion for result in sizes.history],
        "micro": micro(rank, world),
    }


def micro(rank: int, world: int) -> list[Tensor]:
    """Every rank's mean gradient is one micro-batch of 16."""
    x, y = data()
    net = model()
    own = torch.arange(N)[16 * rank : 16 * rank + 16]
    nn.functional.mse_loss(net(x[own]), y[own]).backward()
    pooled = []
    for p in net.parameters():
        assert p.grad is not None
        parts = [torch.empty_like(p) for _ in range(world)]
        dist.all_gather(parts, p.grad)
        pooled.append(torch.stack([part.detach() for part in parts]))
    return variance_from_microbatches(pooled, 16).var


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(run(rank, world), os.path.join(folder, f"rank{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes computed."""
    world = 2
    folder: Path = tmp_path_factory.mktemp("pooled")
    spawn(worker, args=(world, str(folder)), nprocs=world)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def single() -> dict[str, Any]:
    """The same run with the whole batch at once, gradients by autograd sample by sample."""
    x, y = data()
    net = model()
    optimizer = AdaGradNorm(net.parameters(), lr=0.5)
    size, path, suggestions = 4, [], []
    for step in range(STEPS):
        rows = []
        for i in indices(step, size):
            net.zero_grad()
            nn.functional.mse_loss(net(x[i : i + 1]), y[i : i + 1]).backward()
            rows.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        G = torch.stack(rows).numpy()
        g = G.mean(0)
        for p, part in zip(
            net.parameters(),
            torch.from_numpy(g).split([p.numel() for p in net.parameters()]),
            strict=True,
        ):
            p.grad = part.view_as(p)
        if size < N:
            s = ((G - g) ** 2).sum() / (len(G) - 1) / (0.81 * (g @ g))
            suggestions.append(float(s))
            size = int(min(max(size, -(-s // 1)), N))
        path.append(size)
        optimizer.step()
    return {"params": [p.detach() for p in net.parameters()], "sizes": path, "suggestions": suggestions}


def test_pooled_processes_equal_the_single_one(ranks: list[dict[str, Any]]) -> None:
    expected = single()
    assert expected["sizes"][-1] > 10 * 4, "the batch grows"
    for result in ranks:
        assert result["sizes"] == expected["sizes"]
        assert result["suggestions"] == pytest.approx(expected["suggestions"], rel=1e-9)
        for a, b in zip(result["params"], expected["params"], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_shards_were_unequal_and_one_had_a_single_sample(ranks: list[dict[str, Any]]) -> None:
    counts = ranks[0]["counts"]
    assert 1 in counts[0]
    assert any(len(set(row)) > 1 for row in counts)


def test_all_ranks_agree_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    for result in ranks[1:]:
        assert result["suggestions"] == ranks[0]["suggestions"]
        for a, b in zip(result["params"], ranks[0]["params"], strict=True):
            assert torch.equal(a, b)


def test_one_micro_batch_per_rank(ranks: list[dict[str, Any]]) -> None:
    x, y = data()
    net, world = model(), len(ranks)
    means = []
    for k in range(world):
        net.zero_grad()
        nn.functional.mse_loss(net(x[16 * k : 16 * k + 16]), y[16 * k : 16 * k + 16]).backward()
        means.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for i, var in enumerate(ranks[0]["micro"]):
        center = sum(m[i] for m in means) / world
        expected = 16 * sum((m[i] - center) ** 2 for m in means) / (world - 1)
        torch.testing.assert_close(var, expected, rtol=0, atol=1e-12)
