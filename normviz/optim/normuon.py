"""NorMuon: neuron-wise normalised Muon, in one process and distributed.

Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491 (2025).

Muon makes all singular values of the update about equal, yet the rows of a tall matrix (its neurons) still get very
different norms. NorMuon keeps one second moment per row, taken AFTER orthogonalisation, divides each row by its
root, and rescales so that the size of the whole is kept.

    1. M <- b1 M + (1 - b1) g ;  u = (1 - b1) g + b1 M (Nesterov) or M       ``momentum_direction``
    3. O = NewtonSchulz(u)                                                   ``newton_schulz``
    4. v <- b2 v + (1 - b2) mean_j O_ij^2,  one number per row               ``row_divisors``
    5. H = O / (sqrt(v) + eps)                                               ``row_divisors``
    6. H <- factor * H                                                       ``rescale_factor``
    7. W <- W (1 - lr wd) ;  W <- W - lr H                                   ``NorMuon``

Followed where sources differ: ``scale="official"`` is the authors' code (||H||_F = ||O||_F sqrt(max(1, m/n))), with
Nesterov momentum; ``scale="rms"`` is the paper's step (update of RMS 0.2, AdamW's size, no shape factor);
``nesterov=False`` is the paper's pseudo-code. v has no bias correction: a common factor of all rows cancels in
step 6, which the keep-norm rescale therefore must not be left out of (the first step would be sqrt(20) too long).

What is not true: the update is not orthogonal after step 5. For m <= n rows of O have nearly equal norms already and
NorMuon changes little; for tall matrices (m > n) row balance is bought with some conditioning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from normviz.optim._matrix import (
    Group,
    MatrixBatch,
    MatrixOptimizer,
    add_to_parameters,
    at_least_float32,
    check_adam,
    check_flag,
    check_rates,
    matrix_batches,
    own_group,
    tensor_of,
    tensors_of,
)
from normviz.optim._precision import widen
from normviz.optim._sharding import (
    RowShards,
    Transport,
    Whole,
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
from normviz.optim.muon import Muon, momentum_direction
from normviz.optim.newton_schulz import (
    MUON_COEFFICIENTS,
    NS_CPU_BATCH,
    NS_EPS,
    check_newton_schulz,
    newton_schulz,
    orthogonalize,
)
from normviz.validation import check_choice, check_real

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "DistributedNorMuon",
    "Muon",
    "NorMuon",
    "assign_owners",
    "neuron_normalize",
    "newton_schulz",
    "simulate_sharded_step",
]

SCALES = ("official", "rms", "none")


def neuron_normalize(O: Tensor, v: Tensor, beta2: float, eps: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Divide every row by the root of its running mean square (steps 4 and 5, without the rescale of step 6).

    v_i <- b2 v_i + (1 - b2) mean_j O_ij^2 ;  H_ij = O_ij / (sqrt(v_i) + eps).

    Args:
        O: orthogonalised momentum (..., m, n).
        v: second moment of each row (..., m, 1); not modified.
        beta2: b2 (0.95, official), in [0, 1).
        eps: added to the root (1e-10, official; dion has 1e-8).

    Returns:
        (H, v_new): (..., m, n) in O's dtype and (..., m, 1) in v's; computed in at least float32. A row that never
        was nonzero stays zero; the first nonzero one after that has RMS 1/sqrt(1 - b2).

    Raises:
        ValueError: O has fewer than two axes, v's shape is not (..., m, 1), beta2 outside [0, 1), eps < 0.
    """
    check_real("beta2", beta2, 0.0, 1.0, high_open=True)
    check_real("eps", eps, 0.0, math.inf, high_open=True)
    wide, v_wide = widen("O", O), widen("v", v)
    if v.shape[-2:] != (O.shape[-2], 1):
        raise ValueError(
            f"v must have shape (..., {O.shape[-2]}, 1) beside O {tuple(O.shape)}, got {tuple(v.shape)}."
        )
    divisor, v_new, _ = row_divisors(wide, v_wide, beta2, eps)
    return (wide / divisor).to(O.dtype), v_new.to(v.dtype)


def row_divisors(O: Tensor, v: Tensor, beta2: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """sqrt(v_new) + eps, v_new and ||O_i||^2 of each row, three (..., m, 1): steps 4 and 5 without touching O again."""
    squares = torch.linalg.vector_norm(O, dim=-1, keepdim=True).square()
    v_new = beta2 * v + (1 - beta2) / O.shape[-1] * squares
    return v_new.sqrt() + eps, v_new, squares


def squared_norms(squares: Tensor, divisor: Tensor) -> Tensor:
    """||O||_F^2 and ||H||_F^2 from ||O_i||^2 and the divisors of the rows: two (..., m, 1) -> (2, ..., 1, 1)."""
    return torch.stack([squares, squares / divisor.square()]).sum(-2, keepdim=True)


def rescale_factor(squared: Tensor, scale: str, eps: float, m: int, n: int, rows: int) -> Tensor:
    """Step 6: what H is multiplied with, (..., 1, 1).

    "official": ||O||_F / (||H||_F + eps) * sqrt(max(1, m/n));  "none": without the shape factor;
    "rms": 0.2 sqrt(rows n) / (||H||_F + eps).

    Args:
        squared: ||O||_F^2 and ||H||_F^2, (2, ..., 1, 1).
        scale, eps: as in NorMuon.
        m, n: shape of the whole matrix.
        rows: number of rows over which the norms were taken (m, or those of a shard with ``shard_local_norm``).
    """
    O_norm, H_norm = squared.sqrt().unbind(0)
    H_norm = H_norm + eps
    if scale == "rms":
        return 0.2 * math.sqrt(rows * n) / H_norm
    keep_norm = O_norm / H_norm
    return keep_norm * math.sqrt(max(1.0, m / n)) if scale == "official" else keep_norm


def check_matrix_options(group: Mapping[str, Any]) -> None:
    """Raise ValueError if a hyper-parameter of the matrix step is out of range."""
    check_rates(group["lr"], group["weight_decay"])
    check_real("momentum", group["momentum"], 0.0, 1.0, high_open=True)
    check_real("beta2", group["beta2"], 0.0, 1.0, high_open=True)
    check_newton_schulz(group["ns_steps"], group["ns_dtype"])
    check_choice("scale", group["scale"], SCALES)
    check_real("eps", group["eps"], 0.0, math.inf, high_open=True)


class NorMuon(MatrixOptimizer):
    """NorMuon for weight matrices, Adam (with decoupled decay) for everything else.

    Groups are flagged ``use_muon`` (``split_matrix_params`` sets it). A group with False is Adam's: it keeps its own
    ``lr`` if it gives one, else ``adam_lr`` becomes its ``lr``, and it decays only if it gives ``weight_decay``. A
    group without the flag is split on arrival into a True group (ndim >= 2) and, if anything is left, a False group
    with lr = adam_lr; so schedulers, which only see ``group["lr"]``, move every parameter.

    Args:
        params: parameters or param groups; matrices are (out, in), more axes are read as (out, rest).
        lr: learning rate of matrices (0.02, official code; with scale="rms" rather 1e-3).
        momentum: b1 (0.95, official).
        beta2: b2 of the row second moment (0.95, official).
        nesterov: look ahead by one momentum step (True, official code; dion and the pseudo-code: False).
        weight_decay: decoupled decay of matrices (0, official; dion 0.01).
        ns_steps: Newton-Schulz iterations (5, official), 1 to 99.
        scale: "official" keeps Muon's Frobenius norm and multiplies by sqrt(max(1, m/n)); "rms" gives the update RMS
            0.2 (paper); "none" keeps the norm only.
        eps: added to the row roots and to ||H||_F (1e-10, official; dion 1e-8).
        ns_dtype: dtype of the iteration; None: float64 for float64, bfloat16 on CUDA, float32 elsewhere.
        betas, adam_lr, adam_eps: Adam for the rest ((0.9, 0.95), 3e-4, 1e-10, official).
        zero_missing_grads: treat a matrix without gradient as one with zero gradient, as the official code does:
            its momentum still moves it, its decay is skipped. Default False: it is skipped.

    State: ``momentum_buffer`` (W's shape) and ``second_momentum_buffer`` (m, 1) for a matrix, in its dtype;
    ``step``, ``exp_avg``, ``exp_avg_sq`` for the rest.

    Raises:
        ValueError: lr, adam_lr or weight_decay < 0, momentum, beta2 or betas outside [0, 1), ns_steps outside 1..99,
            unknown scale, a parameter with ndim < 2 in a ``use_muon=True`` group.
        RuntimeError: a gradient is sparse or complex (at the step, before anything is changed).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Linear(16, 2))
        >>> optimizer = NorMuon(model.parameters(), lr=0.02)
        >>> [(g["use_muon"], g["lr"], len(g["params"])) for g in optimizer.param_groups]
        [(True, 0.02, 2), (False, 0.0003, 2)]
        >>> model(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()
    """

    flag = "use_muon"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        scale: str = "official",
        eps: float = 1e-10,
        ns_dtype: torch.dtype | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        adam_lr: float = 3e-4,
        adam_eps: float = 1e-10,
        zero_missing_grads: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "beta2": beta2,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "scale": scale,
            "eps": eps,
            "ns_dtype": ns_dtype,
            "betas": betas,
            "adam_lr": adam_lr,
            "adam_eps": adam_eps,
            "zero_missing_grads": zero_missing_grads,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter of ``group`` (defaults already filled in) is out of range."""
        check_matrix_options(group)
        check_adam(group["betas"], group["adam_eps"])
        check_real("adam_lr", group["adam_lr"], 0.0, math.inf, high_open=True)

    def add_param_group(self, param_group: Group) -> None:
        """Check a group, split it if it has no ``use_muon``, then add it.

        Raises:
            ValueError: as for the class.
        """
        group = own_group(param_group)
        self.check_group({**self.defaults, **group})
        check_flag(self.flag, group)
        adam_lr = group.get("adam_lr", self.defaults["adam_lr"])
        if group.get(self.flag) is not None:
            if not group[self.flag]:
                group.setdefault("lr", adam_lr)
            super().add_param_group(group)
            return
        entries = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        matrices = [entry for entry in entries if tensor_of(entry).ndim >= 2]
        rest = [entry for entry in entries if tensor_of(entry).ndim < 2]
        if matrices or not rest:
            super().add_param_group({**group, "params": matrices, self.flag: True})
        if rest:
            super().add_param_group(
                {**group, "params": rest, self.flag: False, "lr": adam_lr, "weight_decay": 0.0}
            )

    def matrix_gradients(self, group: Group) -> tuple[list[Tensor], list[Tensor]]:
        """The matrices of ``group`` that take part in this step, and their gradients."""
        matrices = [p for p in group["params"] if self.is_matrix(p, group)]
        if group["zero_missing_grads"]:
            return matrices, [torch.zeros_like(p) if p.grad is None else p.grad for p in matrices]
        live = [p for p in matrices if p.grad is not None]
        return live, [cast(Tensor, p.grad) for p in live]

    def step_matrices(self, group: Group) -> None:
        """Take the matrix step for every matrix of ``group`` that takes part."""
        for batch in matrix_batches(*self.matrix_gradients(group), cpu_entries=NS_CPU_BATCH):
            self.matrix_step(group, batch)

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        """Update k equal-shaped matrices that lie here whole."""
        self._update(
            group,
            batch,
            M=self._states("momentum_buffer", batch.params, torch.zeros_like),
            v=self._states("second_momentum_buffer", batch.params, lambda p: p.new_zeros(p.shape[0], 1)),
            decays=self._decays(group, batch.params),
            transport=Whole(batch.params[0].shape[0]),
        )

    def _states(self, key: str, params: list[Tensor], initial: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The state ``key`` of each parameter, made by ``initial`` where there is none yet."""
        for p in params:
            if key not in self.state[p]:
                self.state[p][key] = initial(p)
        return [self.state[p][key] for p in params]

    @staticmethod
    def _decays(group: Group, params: list[Tensor]) -> list[float]:
        return [1.0 if p.grad is None else 1 - group["lr"] * group["weight_decay"] for p in params]

    @staticmethod
    def _update(
        group: Group,
        batch: MatrixBatch,
        *,
        M: list[Tensor],
        v: list[Tensor],
        decays: list[float],
        transport: Transport,
    ) -> None:
        """Steps 1 to 7 on the rows of k matrices (m, n) that lie here; ``transport`` knows where the others are."""
        u = batch.stack(
            momentum_direction(M, batch.grads, group["momentum"], group["nesterov"])
        )  # (k, rows, n)
        whole = at_least_float32(transport.gather(u))  # (owned, m, n)
        O = transport.scatter(
            orthogonalize(whole, group["ns_steps"], MUON_COEFFICIENTS, NS_EPS, group["ns_dtype"], "add")
        )  # (k, rows, n)
        kept = at_least_float32(torch.stack(v))
        divisor, v_new, squares = row_divisors(O, kept, group["beta2"], group["eps"])  # (k, rows, 1)
        torch._foreach_copy_(v, list(v_new.unbind(0)))
        squared = transport.total(squared_norms(squares, divisor))  # (2, k, 1, 1)
        m, n = transport.m, O.shape[-1]
        factor = rescale_factor(squared, group["scale"], group["eps"], m, n, transport.norm_rows)  # (k, 1, 1)
        add_to_parameters(batch.params, O * (factor / divisor), -group["lr"], decays)


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

    def step_matrices(self, group: Group) -> None:
        """Take the matrix step for every matrix of ``group`` that takes part, on its owner."""
        if not is_distributed():
            super().step_matrices(group)
            return
        matrices = [p for p in group["params"] if self.is_matrix(p, group)]
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
