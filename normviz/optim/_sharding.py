"""How DistributedNorMuon spreads matrices over processes: owners, exchange of row shards, sharing of updates.

Newton-Schulz needs whole matrices and costs far more than anything else in the step, so each matrix is iterated on
one process only. Two forms:

* replicated parameters: the owner updates the matrix, then all processes receive it (``share_updates``);
* row shards (DTensor, ``Shard(0)``): an all-to-all collects each owner's matrices, a second one returns the rows
  (``RowShards``). Everything else is local because rows are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from normviz.validation import check_integer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "RowShards",
    "Transport",
    "Whole",
    "assign_owners",
    "is_distributed",
    "is_dtensor",
    "is_row_sharded",
    "row_counts",
    "share_updates",
]


def assign_owners(shapes: Sequence[Sequence[int]], world_size: int) -> list[int]:
    """The rank that iterates each matrix: sorted by shape, largest tuple first, dealt out in rounds.

    The sort is stable and position k goes to rank k mod world_size, so the counts differ by at most one and
    neighbours in a round have similar cost.

    Args:
        shapes: sizes of the matrices, in any order.
        world_size: number of processes, >= 1.

    Returns:
        One owner per shape, in the order given.

    Raises:
        ValueError: world_size < 1.

    Example:
        >>> assign_owners([(4, 4), (8, 4), (4, 8)], 2)
        [0, 0, 1]
    """
    check_integer("world_size", world_size, 1)
    owners = [0] * len(shapes)
    for k, index in enumerate(sorted(range(len(shapes)), key=lambda i: tuple(shapes[i]), reverse=True)):
        owners[index] = k % world_size
    return owners


def row_counts(m: int, world_size: int) -> list[int]:
    """Rows per rank when m rows are dealt as DTensor and torch.chunk do: ceil(m / world_size), trailing ranks less."""
    check_integer("world_size", world_size, 1)
    most = -(-m // world_size)
    return [min(most, max(0, m - rank * most)) for rank in range(world_size)]


def is_distributed() -> bool:
    """Whether this build has torch.distributed and a process group is set up."""
    return dist.is_available() and dist.is_initialized()


def is_dtensor(p: Tensor) -> bool:
    """Whether ``p`` is a DTensor. There is none before a process group exists, so nothing is imported until then."""
    if not is_distributed():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(p, DTensor)


def is_row_sharded(p: DTensor) -> bool:
    """Whether the DTensor ``p`` is split along its first axis over a one-dimensional mesh and nowhere else."""
    from torch.distributed.tensor import Shard

    return tuple(p.placements) == (Shard(0),)


def local(p: Tensor) -> Tensor:
    """The part of the DTensor ``p`` that lies on this rank (shares its memory)."""
    return cast("DTensor", p).to_local()


def local_rows(g: Tensor) -> Tensor:
    """The rows of the DTensor gradient ``g`` on this rank, whatever its placements were (partial sums, replicas)."""
    from torch.distributed.tensor import Shard

    return cast("DTensor", g).redistribute(placements=[Shard(0)]).to_local()


def row_zeros(p: Tensor) -> DTensor:
    """Zeros (m, 1), one per row of the DTensor ``p`` and spread like its rows."""
    from torch.distributed.tensor import DTensor

    p = cast(DTensor, p)
    rows = p.to_local().new_zeros(p.to_local().shape[0], 1)
    return DTensor.from_local(
        rows, p.device_mesh, p.placements, run_check=False, shape=torch.Size((p.shape[0], 1)), stride=(1, 1)
    )


class Transport(Protocol):
    """Where the rows of a batch of k equal matrices are, and how to bring them together.

    Attributes:
        m: rows of a whole matrix.
        norm_rows: rows over which ``total`` sums.
    """

    m: int
    norm_rows: int

    def gather(self, rows: Tensor) -> Tensor:
        """(k, rows here, n) -> (matrices owned here, m, n)."""

    def scatter(self, whole: Tensor) -> Tensor:
        """(matrices owned here, m, n) -> (k, rows here, n): the way back."""

    def total(self, x: Tensor) -> Tensor:
        """Sum over everything that holds rows of the same matrices."""


class Whole:
    """All m rows are here: nothing to bring together."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.norm_rows = m

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def scatter(self, whole: Tensor) -> Tensor:
        """The matrices themselves."""
        return whole

    def total(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        return x


class RowShards:
    """Rows of k matrices (m, n) spread over the processes of a group, each matrix owned by one of them.

    Args:
        m: rows of the whole matrices.
        owners: owning rank of each of the k matrices.
        group: the processes that share the rows.
        local_norm: True leaves ``total`` local (dion's approximation of the Frobenius norms).
    """

    def __init__(self, m: int, owners: Sequence[int], group: dist.ProcessGroup, local_norm: bool) -> None:
        self.m = m
        self.group = group
        self.local_norm = local_norm
        self.rank = dist.get_rank(group)
        self.rows = row_counts(m, dist.get_world_size(group))
        self.norm_rows = self.rows[self.rank] if local_norm else m
        # Matrices sorted by owner, so that what goes to one rank is contiguous.
        self.order = sorted(range(len(owners)), key=lambda i: owners[i])
        self.owned = [list(owners).count(rank) for rank in range(len(self.rows))]

    def gather(self, rows: Tensor) -> Tensor:
        """(k, rows here, n) -> (owned here, m, n), by one all-to-all."""
        n = rows.shape[-1]
        mine, here = self.owned[self.rank], self.rows[self.rank]
        received = self._exchange(
            rows[self.order].flatten(),
            sent=[count * here * n for count in self.owned],
            received=[mine * r * n for r in self.rows],
        )
        parts = torch.split(received, [mine * r * n for r in self.rows])
        return torch.cat([part.view(mine, r, n) for part, r in zip(parts, self.rows, strict=True)], dim=1)

    def scatter(self, whole: Tensor) -> Tensor:
        """(owned here, m, n) -> (k, rows here, n), by one all-to-all."""
        n = whole.shape[-1]
        mine, here = self.owned[self.rank], self.rows[self.rank]
        received = self._exchange(
            torch.cat([part.flatten() for part in torch.split(whole, self.rows, dim=1)]),
            sent=[mine * r * n for r in self.rows],
            received=[count * here * n for count in self.owned],
        )
        rows = torch.empty(
            len(self.order), here, n, dtype=whole.dtype, device=whole.device
        )  # (k, rows here, n)
        rows[self.order] = received.view(len(self.order), here, n)
        return rows

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the group (``x`` itself with ``local_norm``)."""
        if not self.local_norm:
            dist.all_reduce(x, group=self.group)
        return x

    def _exchange(self, flat: Tensor, sent: list[int], received: list[int]) -> Tensor:
        result = flat.new_empty(sum(received))
        dist.all_to_all_single(result, flat.contiguous(), received, sent, group=self.group)
        return result


def share_updates(params: Sequence[Tensor], owners: Sequence[int], group: dist.ProcessGroup | None) -> None:
    """Give every process the owners' values of ``params``: one all-gather per dtype and device.

    Args:
        params: replicated parameters, the same on every rank (changed in place where another rank owns them).
        owners: the rank whose value counts, one per parameter.
        group: the processes; None is the default group.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    kinds = {(p.dtype, p.device): None for p in params}
    for kind in kinds:
        parts: list[list[Tensor]] = [[] for _ in range(world_size)]
        for p, owner in zip(params, owners, strict=True):
            if (p.dtype, p.device) == kind:
                parts[owner].append(p)
        width = max(sum(p.numel() for p in part) for part in parts)
        # Ranks with less to send pad: an all-gather needs equal lengths.
        mine = torch.zeros(width, dtype=kind[0], device=kind[1])
        if parts[rank]:
            packed = torch.cat([p.flatten() for p in parts[rank]])
            mine[: packed.numel()] = packed
        everything = mine.new_empty(world_size * width)
        dist.all_gather_single(everything, mine, group=group)
        for owner, part in enumerate(parts):
            if owner != rank:
                at = owner * width
                for p in part:
                    p.copy_(everything[at : at + p.numel()].view(p.shape))
                    at += p.numel()
