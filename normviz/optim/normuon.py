"""NorMuon: neuron-wise normalised Muon.

Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491 (2025).

Muon makes all singular values of the update about equal, yet the rows of a tall matrix (its neurons) still get very
different norms. NorMuon keeps one second moment per row, taken AFTER orthogonalisation, divides each row by its
root, and rescales so that the size of the whole is kept.

    1. M <- b1 M + (1 - b1) g                                                ``momentum_direction``
    2. u = (1 - b1) g + b1 M (Nesterov), or M                                ``momentum_direction``
    3. O = NewtonSchulz(u)                                                   ``newton_schulz``
    4. v <- b2 v + (1 - b2) mean_j O_ij^2,  one number per row               ``row_divisors``
    5. H = O / (sqrt(v) + eps)                                               ``row_divisors``
    6. H <- factor * H                                                       ``rescale_factor``
    7. W <- W (1 - lr wd) ;  W <- W - lr H                                   ``NorMuon``

Followed where sources differ: ``scale="official"`` is the authors' code (||H||_F = ||O||_F sqrt(max(1, m/n))), with
Nesterov momentum; ``scale="rms"`` is the paper's step (update of RMS 0.2, AdamW's size, no shape factor);
``nesterov=False`` is the paper's pseudo-code. v has no bias correction: a factor that all rows share cancels in step 6.
Without that step the first update would be sqrt(20) times too long.

What is not true: the update is not orthogonal after step 5. For m <= n rows of O have nearly equal norms already and
NorMuon changes little; for tall matrices (m > n) row balance is bought with some conditioning.

:mod:`normviz.optim.distributed_normuon` spreads the step over processes; its names can be imported from here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from normviz.optim._matrix import (
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
)
from normviz.optim._precision import widen
from normviz.optim._sharding import Transport, Whole, assign_owners
from normviz.optim._steps import Group, learning_rate
from normviz.optim.muon import Muon, momentum_direction
from normviz.optim.newton_schulz import (
    MUON_COEFFICIENTS,
    NS_CPU_BATCH,
    NS_EPS,
    check_newton_schulz,
    choose_dtype,
    newton_schulz,
    orthogonalize_in,
)
from normviz.validation import check_choice, check_real

__all__ = [
    "Muon",
    "NorMuon",
    "assign_owners",
    "neuron_normalize",
    "newton_schulz",
]


def __getattr__(name: str) -> Any:
    if name in ("DistributedNorMuon", "simulate_sharded_step"):  # that file imports this one
        return getattr(import_module("normviz.optim.distributed_normuon"), name)
    raise AttributeError(f"module 'normviz.optim.normuon' has no attribute {name!r}")


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
    check_rates(group["lr"], group["weight_decay"], momentum=group["momentum"], eps=group["eps"])
    check_real("beta2", group["beta2"], 0.0, 1.0, high_open=True)
    check_newton_schulz(group["ns_steps"], group["ns_dtype"])
    check_choice("scale", group["scale"], SCALES)


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
        ns_dtype: dtype of the iteration. None: chosen at a group's first step for its device and its largest matrix,
            as :func:`newton_schulz` does; from then on the group, ``repr`` and state_dict say which it is, and a
            resumed run keeps it on any machine.
        betas, adam_lr, adam_eps: Adam for the rest ((0.9, 0.95), 3e-4, 1e-10, official).
        zero_missing_grads: treat a matrix without gradient as one with zero gradient, as the official code does:
            its momentum still moves it, its decay is skipped. Default False: it is skipped.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

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

    Reference: Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491;
        steps 1 to 7 in the module's docstring.
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
        maximize: bool = False,
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
            "maximize": maximize,
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

    def prepare(self, group: Group) -> Group:
        """Adds the dtype of the iteration, and the momentum and the row moments of the matrices that take part."""
        prepared = super().prepare(group)
        self._moments(self.matrix_gradients(group)[0])
        return {**prepared, "ns_dtype": choose_dtype(group, prepared["params"])}

    def step_matrices(self, group: Group) -> None:
        """Take the matrix step for every matrix of ``group`` that takes part."""
        choose_dtype(group, [p for p in group["params"] if self.is_matrix(p, group)])
        for batch in matrix_batches(*self.matrix_gradients(group), cpu_entries=NS_CPU_BATCH):
            self.matrix_step(group, batch)

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        """Update k equal-shaped matrices that lie here whole."""
        M, v = self._moments(batch.params)
        self._update(
            group,
            batch,
            M=M,
            v=v,
            decays=self._decays(group, batch.params),
            transport=Whole(batch.params[0].shape[0]),
        )

    def _moments(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """M and v of matrices that lie here whole."""
        return (
            self._states("momentum_buffer", params, torch.zeros_like),
            self._states("second_momentum_buffer", params, lambda p: p.new_zeros(p.shape[0], 1)),
        )

    def _states(self, key: str, params: list[Tensor], initial: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The state ``key`` of each parameter, made by ``initial`` where there is none yet."""
        for p in params:
            if key not in self.state[p]:
                self.state[p][key] = initial(p)
        return [self.state[p][key] for p in params]

    @staticmethod
    def _decays(group: Group, params: list[Tensor]) -> list[float]:
        return [1.0 if p.grad is None else 1 - learning_rate(group) * group["weight_decay"] for p in params]

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
        )  # 1, 2: (k, rows, n)
        whole = at_least_float32(transport.gather(u))  # (owned, m, n)
        O = transport.scatter(
            orthogonalize_in(whole, group["ns_steps"], MUON_COEFFICIENTS, NS_EPS, group["ns_dtype"], "add")
        )  # 3: (k, rows, n)
        kept = at_least_float32(torch.stack(v))
        divisor, v_new, squares = row_divisors(O, kept, group["beta2"], group["eps"])  # 4, 5: (k, rows, 1)
        torch._foreach_copy_(v, list(v_new.unbind(0)))
        squared = transport.total(squared_norms(squares, divisor))  # (2, k, 1, 1)
        m, n = transport.m, O.shape[-1]
        factor = rescale_factor(
            squared, group["scale"], group["eps"], m, n, transport.norm_rows
        )  # 6: (k, 1, 1)
        add_to_parameters(batch.params, O * (factor / divisor), -learning_rate(group), decays)  # 7
