"""NorMuon over several processes (arXiv 2510.05491), and the same step played through in one process.

Newton-Schulz needs whole matrices and costs most of a step, so each matrix is orthogonalised by one process only.
Everything else works on rows; see :mod:`normviz.optim._sharding` for how rows travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from normviz.optim._matrix import (
    MatrixBatch,
    MatrixOptimizer,
    at_least_float32,
    matrix_batches,
    own_group,
    tensors_of,
)
from normviz.optim._sharding import (
    RowShards,
    assign_owners,
    is_distributed,
    is_dtensor,
    is_row_sharded,
    local,
    local_rows,
    row_counts,
    row_zeros,
    share_updates,
)
from normviz.optim._steps import Group
from normviz.optim.muon import momentum_direction
from normviz.optim.newton_schulz import NS_CPU_BATCH, choose_dtype, newton_schulz
from normviz.optim.normuon import (
    NorMuon,
    check_matrix_options,
    rescale_factor,
    row_divisors,
    squared_norms,
)

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["DistributedNorMuon", "simulate_sharded_step"]


class DistributedNorMuon(NorMuon):
    """NorMuon over several processes: each matrix is orthogonalised on one of them only.

    * A plain parameter is replicated (as under DDP: the same value and the same averaged gradient everywhere, and
      gradient None on all ranks or none). Per group the matrices are dealt to owners (``assign_owners``); the owner
      alone keeps their state and updates them, then every rank receives the result.
    * A DTensor matrix with placements [Shard(0)] (FSDP2) is row-sharded over its mesh: momentum, v and H stay on the
      local rows; two all-to-alls bring whole matrices to their owners and the orthogonalised rows back. State is
      DTensors sharded alike.

    Both give NorMuon's single-process step. Adam for the rest runs on every rank. Without a process group the
    optimizer is NorMuon. A copied or unpickled optimizer uses the default group.

    Args:
        params: as in NorMuon.
        process_group: processes of the replicated form; None is the default group.
        shard_local_norm: every shard keeps its own ||O_shard||_F ("rms": RMS 0.2 of its own rows) instead of the
            whole matrix's, which saves an all-reduce of two numbers per matrix. This is dion's approximation; it
            differs from the single-process step. Default False: exact.
        **options: NorMuon's arguments.

    Raises:
        NotImplementedError: a DTensor matrix with other placements (at construction).
        ValueError, RuntimeError: as in NorMuon.

    Reference: Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491, the
        distributed form; steps in :mod:`normviz.optim.normuon`.
    """

    process_group: dist.ProcessGroup | None = None

    def __init__(
        self,
        params: Iterable[Any],
        process_group: dist.ProcessGroup | None = None,
        *,
        shard_local_norm: bool = False,
        **options: Any,
    ) -> None:
        self.process_group = process_group
        self.shard_local_norm = shard_local_norm
        super().__init__(params, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "shard_local_norm": self.shard_local_norm}

    def add_param_group(self, param_group: Group) -> None:
        """Check a group, split it if it has no ``use_muon``, then add it.

        Raises:
            NotImplementedError: a DTensor matrix that is not sharded as [Shard(0)].
            ValueError: as for the class.
        """
        group = own_group(param_group)
        for p in tensors_of(group["params"]):
            if self.is_matrix(p, group) and is_dtensor(p) and not is_row_sharded(cast("DTensor", p)):
                raise NotImplementedError(
                    f"DistributedNorMuon needs DTensor matrices with placements [Shard(0)], "
                    f"got {list(cast('DTensor', p).placements)} for shape {tuple(p.shape)}."
                )
        super().add_param_group(group)

    def prepare(self, group: Group) -> Group:
        """As in NorMuon; among several processes each makes the moments of what it owns, in its step."""
        if not is_distributed():
            return super().prepare(group)
        prepared = MatrixOptimizer.prepare(self, group)
        return {**prepared, "ns_dtype": choose_dtype(group, prepared["params"])}

    def step_matrices(self, group: Group) -> None:
        """Take the matrix step for every matrix of ``group`` that takes part, on its owner."""
        if not is_distributed():
            super().step_matrices(group)
            return
        matrices = [p for p in group["params"] if self.is_matrix(p, group)]
        choose_dtype(group, matrices)
        gradients = dict(zip(*self.matrix_gradients(group), strict=True))
        self._step_replicated(group, [p for p in matrices if not is_dtensor(p)], gradients)
        self._step_sharded(group, [cast("DTensor", p) for p in matrices if is_dtensor(p)], gradients)

    def _step_replicated(
        self, group: Group, matrices: list[Tensor], gradients: Mapping[Tensor, Tensor]
    ) -> None:
        owners = assign_owners([p.shape for p in matrices], dist.get_world_size(self.process_group))
        live = [(p, owner) for p, owner in zip(matrices, owners, strict=True) if p in gradients]
        rank = dist.get_rank(self.process_group)
        mine = [p for p, owner in live if owner == rank]
        for batch in matrix_batches(mine, [gradients[p] for p in mine], NS_CPU_BATCH):
            self.matrix_step(group, batch)
        if live:
            share_updates([p for p, _ in live], [owner for _, owner in live], self.process_group)

    def _step_sharded(
        self, group: Group, matrices: list[DTensor], gradients: Mapping[Tensor, Tensor]
    ) -> None:
        for mesh in dict.fromkeys(p.device_mesh for p in matrices):
            on_mesh = [p for p in matrices if p.device_mesh == mesh]
            owners = dict(zip(on_mesh, assign_owners([p.shape for p in on_mesh], mesh.size()), strict=True))
            live = [p for p in on_mesh if p in gradients]
            for batch in matrix_batches(live, [gradients[p] for p in live]):
                self._step_row_shards(group, batch, [owners[cast("DTensor", p)] for p in batch.params])

    def _step_row_shards(self, group: Group, batch: MatrixBatch, owners: list[int]) -> None:
        """Update k equal-shaped DTensors whose rows are spread over one mesh."""
        M = self._states("momentum_buffer", batch.params, torch.zeros_like)
        v = self._states("second_momentum_buffer", batch.params, row_zeros)
        mesh = cast("DTensor", batch.params[0]).device_mesh
        self._update(
            group,
            MatrixBatch([local(p) for p in batch.params], [local_rows(g) for g in batch.grads]),
            M=[local(buffer) for buffer in M],
            v=[local(buffer) for buffer in v],
            decays=self._decays(group, batch.params),
            transport=RowShards(batch.params[0].shape[0], owners, mesh.get_group(), self.shard_local_norm),
        )


@torch.no_grad()
def simulate_sharded_step(
    W: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    world_size: int,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    beta2: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    ns_steps: int = 5,
    scale: str = "official",
    eps: float = 1e-10,
    ns_dtype: torch.dtype | None = None,
    shard_local_norm: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The row-sharded step of one matrix over ``world_size`` ranks, played through in one process.

    Pure: nothing given is modified. Rows are dealt as DTensor does (ceil(m/world_size) per rank, trailing ranks
    fewer or none).

    Args:
        W, g: weight and gradient (m, n).
        state: {} at the start, then the dict returned by the step before.
        world_size: number of ranks, >= 1.
        lr, momentum, beta2, nesterov, weight_decay, ns_steps, scale, eps, ns_dtype: as in NorMuon.
        shard_local_norm: as in DistributedNorMuon; False gives the single-process step.

    Returns:
        (W_new, state_new) with state_new = {"momentum_buffer": (m, n), "second_momentum_buffer": (m, 1)}.

    Raises:
        ValueError: W is not 2-D, g has another shape, world_size < 1, a hyper-parameter out of range.

    Example:
        >>> W, g = torch.eye(3, 2), torch.ones(3, 2)
        >>> one, _ = simulate_sharded_step(W, g, {}, 1)
        >>> two, _ = simulate_sharded_step(W, g, {}, 2)
        >>> torch.allclose(one, two)
        True
    """
    if W.ndim != 2 or g.shape != W.shape:
        raise ValueError(
            f"W and g must be matrices of one shape (m, n), got {tuple(W.shape)} and {tuple(g.shape)}."
        )
    check_matrix_options(
        {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "beta2": beta2,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
            "scale": scale,
            "eps": eps,
        }
    )
    m, n = W.shape
    rows = row_counts(m, world_size)
    M = state["momentum_buffer"].clone() if state else torch.zeros_like(W)
    v = state["second_momentum_buffer"] if state else W.new_zeros(m, 1)

    # Every rank: momentum of its rows. The owner: whole matrix. Every rank: its rows again, and their two norms.
    directions = momentum_direction(torch.split(M, rows), torch.split(g, rows), momentum, nesterov)
    whole = newton_schulz(at_least_float32(torch.cat(list(directions))), ns_steps, dtype=ns_dtype)
    shards = torch.split(whole, rows)
    normalized = [
        row_divisors(O, at_least_float32(v_r), beta2, eps)
        for O, v_r in zip(shards, torch.split(v, rows), strict=True)
    ]
    squared = [squared_norms(squares, divisor) for divisor, _, squares in normalized]
    total = torch.stack(squared).sum(0)

    updates = []
    for O, (divisor, _, _), own, count in zip(shards, normalized, squared, rows, strict=True):
        norms, norm_rows = (own, count) if shard_local_norm else (total, m)
        updates.append(O * (rescale_factor(norms, scale, eps, m, n, norm_rows) / divisor))
    W_new = W * (1 - lr * weight_decay) - lr * torch.cat(updates).to(W.dtype)
    return W_new, {
        "momentum_buffer": M,
        "second_momentum_buffer": torch.cat([v_new for _, v_new, _ in normalized]).to(v.dtype),
    }
