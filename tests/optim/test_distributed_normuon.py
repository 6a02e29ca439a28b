"""The distributed step against the single-process one: played through in one process, and in real gloo processes."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from normviz.optim import DistributedNorMuon, NorMuon, assign_owners, neuron_normalize, newton_schulz
from normviz.optim import simulate_sharded_step as simulate
from tests.optim.test_muon import gaussian

MATRICES: list[tuple[int, ...]] = [(7, 5), (4, 9), (7, 5), (4, 2, 3, 3), (2, 6), (7, 5)]
VECTORS: list[tuple[int, ...]] = [(3,), (5,)]
STEPS = 4


# ------------------------------------------------------------------------------------- dealing and simulation


def test_owners_by_hand() -> None:
    assert assign_owners([(4, 4), (8, 4), (4, 8)], 2) == [0, 0, 1]
    assert assign_owners([(2, 2)] * 5, 3) == [0, 1, 2, 0, 1]  # stable: equal shapes in their order
    assert assign_owners([], 4) == []
    with pytest.raises(ValueError, match="world_size"):
        assign_owners([(2, 2)], 0)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=12),
    world_size=st.integers(1, 6),
)
def test_owners_are_balanced(shapes: list[tuple[int, int]], world_size: int) -> None:
    owners = assign_owners(shapes, world_size)
    counts = [owners.count(rank) for rank in range(world_size)]
    assert sum(counts) == len(shapes)
    assert max(counts) - min(counts) <= 1
    # Rank r owns the sorted positions k with k mod world_size = r.
    ordered = sorted(zip(shapes, owners, strict=True), key=lambda pair: pair[0], reverse=True)
    assert [owner for _, owner in ordered] == [k % world_size for k in range(len(shapes))]


OPTIONS = [
    {},
    {"scale": "rms", "lr": 0.1, "weight_decay": 0.2},
    {"scale": "none", "nesterov": False, "momentum": 0.8, "beta2": 0.7, "ns_steps": 3},
]


@pytest.mark.parametrize("shape", [(7, 5), (4, 9), (6, 6), (1, 3)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("options", OPTIONS)
def test_simulated_step_equals_the_single_step(
    shape: tuple[int, int], world_size: int, options: dict[str, Any]
) -> None:
    p = nn.Parameter(gaussian(*shape))
    optimizer = NorMuon([p], **options)
    W, state = p.detach().clone(), dict[str, Tensor]()
    for step in range(3):
        g = gaussian(*shape, seed=10 + step)
        p.grad = g.clone()
        optimizer.step()
        W, state = simulate(W, g, state, world_size, **options)
        torch.testing.assert_close(W, p.detach(), rtol=0, atol=1e-12)
    assert set(state) == {"momentum_buffer", "second_momentum_buffer"}
    for key, value in state.items():
        torch.testing.assert_close(value, optimizer.state[p][key], rtol=0, atol=1e-12)


def test_simulation_modifies_nothing() -> None:
    W, g = gaussian(5, 4), gaussian(5, 4, seed=1)
    _, state = simulate(W, g, {}, 2)
    before = copy.deepcopy((W, g, state))
    simulate(W, g, state, 3)
    torch.testing.assert_close((W, g, state), before, rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["official", "rms", "none"])
def test_local_norms_by_hand(scale: str) -> None:
    """Each shard keeps its own Frobenius norm; rms counts its own rows; the shape factor stays that of the whole."""
    g = gaussian(7, 3)
    got, _ = simulate(
        torch.zeros_like(g), g, {}, 3, lr=1.0, scale=scale, shard_local_norm=True, nesterov=False
    )
    O = newton_schulz(0.05 * g)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        H, _ = neuron_normalize(O[rows], torch.zeros(len(O[rows]), 1, dtype=g.dtype), 0.95)
        length = float(O[rows].norm())
        if scale == "rms":
            length = 0.2 * (len(O[rows]) * 3) ** 0.5
        if scale == "official":
            length *= (7 / 3) ** 0.5
        torch.testing.assert_close(-got[rows], H * length / H.norm(), rtol=1e-9, atol=0)
    exact, _ = simulate(torch.zeros_like(g), g, {}, 3, lr=1.0, scale=scale, nesterov=False)
    assert (scale == "rms") == torch.allclose(got, exact)  # first step: equal row RMS, so only rms agrees


@pytest.mark.parametrize(
    ("W", "g", "world_size", "options", "word"),
    [
        (torch.ones(3), torch.ones(3), 2, {}, "matrices"),
        (torch.ones(3, 2), torch.ones(2, 3), 2, {}, "matrices"),
        (torch.ones(3, 2), torch.ones(3, 2), 0, {}, "world_size"),
        (torch.ones(3, 2), torch.ones(3, 2), 2, {"lr": -1.0}, "lr"),
        (torch.ones(3, 2), torch.ones(3, 2), 2, {"scale": "x"}, "scale"),
        (torch.ones(3, 2), torch.ones(3, 2), 2, {"ns_steps": 100}, "ns_steps"),
        (torch.ones(3, 2), torch.ones(3, 2), 2, {"beta2": 1.0}, "beta2"),
    ],
)
def test_simulation_refuses(
    W: Tensor, g: Tensor, world_size: int, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        simulate(W, g, {}, world_size, **options)


# ------------------------------------------------------------------------------------------ one process


def start() -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i)) for i, shape in enumerate(MATRICES + VECTORS)]


def gradient(step: int, index: int, shape: tuple[int, ...]) -> Tensor | None:
    """The second matrix has no gradient at step 1."""
    return None if (step, index) == (1, 1) else gaussian(*shape, seed=1000 + 50 * step + index)


def single(**options: Any) -> list[Tensor]:
    params = start()
    optimizer = NorMuon(params, **options)
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(step, i, tuple(p.shape))
        optimizer.step()
    return [p.detach() for p in params]


def test_without_a_process_group_it_is_normuon() -> None:
    assert not dist.is_initialized()
    params = start()
    optimizer = DistributedNorMuon(params, weight_decay=0.1, scale="rms")
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(step, i, tuple(p.shape))
        optimizer.step()
    for p, expected in zip(params, single(weight_decay=0.1, scale="rms"), strict=True):
        assert torch.equal(p.detach(), expected)
    assert copy.deepcopy(optimizer).shard_local_norm is False


def test_arguments_are_normuons() -> None:
    with pytest.raises(ValueError, match="beta2"):
        DistributedNorMuon(start(), beta2=1.0)
    with pytest.raises(TypeError, match="foreach"):
        DistributedNorMuon(start(), foreach=True)


# -------------------------------------------------------------------------------------- real processes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 9)
        self.down = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x)))
        return out


def make_net() -> Net:
    net = Net().double()
    for i, p in enumerate(net.parameters()):
        p.data.copy_(gaussian(*p.shape, seed=i))
    return net


def run_replicated(rank: int, **options: Any) -> dict[str, Any]:
    params = start()
    optimizer = DistributedNorMuon(params, **options)
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(step, i, tuple(p.shape))
        optimizer.step()
        if step == 1:  # resume from the rank's own state
            fresh = DistributedNorMuon(params, **options)
            fresh.load_state_dict(optimizer.state_dict())
            optimizer = fresh
    owned = [i for i, p in enumerate(params) if "momentum_buffer" in optimizer.state.get(p, {})]
    return {"params": [p.detach() for p in params], "owned": owned}


def run_sharded(**options: Any) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in start()]
    optimizer = DistributedNorMuon(params, **options)
    for step in range(STEPS):
        for i, p in enumerate(params):
            g = gradient(step, i, tuple(p.shape))
            if g is None:
                p.grad = None
            elif step == 3 and p.ndim == 2:  # a gradient still to be summed over the ranks
                p.grad = DTensor.from_local(g * (mesh.get_rank() == 0), mesh, [Partial()])
            else:
                p.grad = distribute_tensor(g, mesh, [Shard(0)])
        optimizer.step()
        if step == 1:
            fresh = DistributedNorMuon(params, **options)
            fresh.load_state_dict(optimizer.state_dict())
            optimizer = fresh
    state = optimizer.state[params[0]]
    return {
        "params": [p.detach().full_tensor() for p in params],  # type: ignore[attr-defined]
        "state": {key: value.full_tensor() for key, value in state.items()},
        "local_rows": [len(value.to_local()) for value in state.values()],
    }


def run_placements() -> list[str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    refused: list[str] = []
    placement: Placement
    for placement in (Shard(1), Replicate(), Shard(0)):
        p = nn.Parameter(distribute_tensor(gaussian(6, 6), mesh, [placement]))
        try:
            DistributedNorMuon([p])
        except NotImplementedError:
            refused.append(str(placement))
        # As Adam's parameter any placement will do.
        DistributedNorMuon([{"params": [p], "use_muon": False}])
    return refused


def run_fsdp(rank: int, world_size: int) -> list[Tensor]:
    """A model under FSDP2: every rank sees its own part of the batch, gradients are averaged and sharded."""
    from torch.distributed.fsdp import fully_shard

    net = make_net()
    fully_shard(net)
    optimizer = DistributedNorMuon(net.parameters(), lr=0.05, adam_lr=0.01)
    for step in range(3):
        x = gaussian(12, 6, seed=step).chunk(world_size)[rank]
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return [p.detach().full_tensor() for p in net.parameters()]  # type: ignore[attr-defined]


def worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    results = {
        "replicated": run_replicated(rank, weight_decay=0.1),
        "replicated zero": run_replicated(
            rank, process_group=dist.group.WORLD, zero_missing_grads=True, scale="rms"
        ),
        "sharded official": run_sharded(weight_decay=0.1),
        "sharded rms": run_sharded(scale="rms", nesterov=False),
        "sharded local": run_sharded(shard_local_norm=True),
        "sharded local rms": run_sharded(shard_local_norm=True, scale="rms"),
        "refused": run_placements(),
        "fsdp": run_fsdp(rank, world_size),
    }
    torch.save(results, os.path.join(folder, f"rank{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 2 or 3 processes computed. With 3, a matrix of 4 rows leaves the last rank empty-handed."""
    world_size: int = request.param
    folder: Path = tmp_path_factory.mktemp(f"world{world_size}")
    spawn(worker, args=(world_size, str(folder)), nprocs=world_size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]


def check_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_replicated_processes_equal_the_single_one(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        check_equal(result["replicated"]["params"], single(weight_decay=0.1))
        check_equal(result["replicated zero"]["params"], single(scale="rms", zero_missing_grads=True))


def test_state_lives_on_the_owner_only(ranks: list[dict[str, Any]]) -> None:
    owners = assign_owners(MATRICES, len(ranks))
    for rank, result in enumerate(ranks):
        assert result["replicated"]["owned"] == [i for i, owner in enumerate(owners) if owner == rank]


def test_row_shards_equal_the_single_process(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        check_equal(result["sharded official"]["params"], single(weight_decay=0.1))
        check_equal(result["sharded rms"]["params"], single(scale="rms", nesterov=False))


def test_row_sharded_state_has_global_shape_and_local_rows(ranks: list[dict[str, Any]]) -> None:
    most = -(-7 // len(ranks))
    for rank, result in enumerate(ranks):
        state = result["sharded official"]["state"]
        assert {key: tuple(value.shape) for key, value in state.items()} == {
            "momentum_buffer": (7, 5),
            "second_momentum_buffer": (7, 1),
        }
        assert result["sharded official"]["local_rows"] == [min(most, 7 - rank * most)] * 2


@pytest.mark.parametrize(("name", "scale"), [("sharded local", "official"), ("sharded local rms", "rms")])
def test_local_norms_equal_the_simulation(ranks: list[dict[str, Any]], name: str, scale: str) -> None:
    for i, shape in enumerate(MATRICES):
        W, state = gaussian(*shape, seed=i).reshape(shape[0], -1), dict[str, Tensor]()
        for step in range(STEPS):
            g = gradient(step, i, shape)
            if g is not None:
                W, state = simulate(
                    W, g.reshape(W.shape), state, len(ranks), scale=scale, shard_local_norm=True
                )
        for result in ranks:
            torch.testing.assert_close(result[name]["params"][i].reshape(W.shape), W, rtol=0, atol=1e-11)


def test_other_placements_are_refused(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert len(result["refused"]) == 2


def test_fsdp_equals_the_single_process(ranks: list[dict[str, Any]]) -> None:
    net = make_net()
    optimizer = NorMuon(net.parameters(), lr=0.05, adam_lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        net(gaussian(12, 6, seed=step)).square().mean().backward()
        optimizer.step()
    for result in ranks:
        check_equal(result["fsdp"], [p.detach() for p in net.parameters()])
