"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners. A rival that Conda is compared with.

Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using
Adam", arXiv 2409.11321 (2024), algorithms 3 and 4.

W, G are (m, n); t counts steps from 1; f = precondition_frequency; b3 = shampoo_beta, b2 if it is not given.

    paper                                          code
    G' = Q_L^T G Q_R,  M <- b1 M + (1-b1) G        SOAP._move, `exp_avg`
    M' = Q_L^T M Q_R                               rotate
    V <- b2 V + (1-b2) G'^2                        `exp_avg_sq`
    N = Q_L (M' / (sqrt(V) + eps)) Q_R^T           rotate_back
    W <- W - eta N                                 add_to_parameters
    L <- b3 L + (1-b3) G G^T                       `left`
    R <- b3 R + (1-b3) G^T G                       `right`
    every f steps: Q_L <- QR(L Q_L), so for Q_R    renewed_basis; `left_basis`, `right_basis`

What algorithm 3 leaves open follows the authors' released code. The first gradient only fills L and R, whose
eigenvectors are the first bases: in its own basis a gradient is diagonal, and Adam would blow up the rounding beside
it. eps is added before Adam's bias corrections. Columns are sorted by their estimated eigenvalues before QR, and V with
them.
Departures from that code: a parameter with more than two axes is read as (out, rest), where the code has one
preconditioner for each axis; the weight decay comes before the step, as in torch's AdamW; the bases that are due at the
end of a step are computed at the start of the next, which comes to the same.

V is not rotated when the bases change, and stays in the order of their columns. Signs of eigenvectors do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from normviz.optim._matrix import (
    MatrixBatch,
    MatrixOptimizer,
    add_to_parameters,
    as_matrix,
    at_least_float32,
    check_adam,
    check_rates,
    matrix_batches,
    matrix_shape,
)
from normviz.optim._precision import full_precision
from normviz.optim._steps import Group, ascending, evaluate, rate_tensor, refuse_unusual, run_eagerly
from normviz.validation import check_integer, check_real

__all__ = ["SOAP"]

SIDES = ("left", "right")
CPU_BATCH = 2**16
"""Entries of one batch on the CPU: beyond, stacking the matrices costs more than batched products save."""

States = Sequence[dict[str, Any]]


def rotate(X: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Q_L^T X Q_R for X (k, m, n), Q_L (k, m, m) and Q_R (k, n, n); None is the identity."""
    X = X if left is None else torch.bmm(left.mT, X)
    return X if right is None else torch.bmm(X, right)


def rotate_back(X: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Q_L X Q_R^T."""
    X = X if left is None else torch.bmm(left, X)
    return X if right is None else torch.bmm(X, right.mT)


def eigenbasis(P: Tensor, label: str) -> Tensor:
    """Eigenvectors of a symmetric P (m, m) as columns, largest eigenvalue first.

    Raises:
        RuntimeError: P, which belongs to ``label``, holds nan or inf.
    """
    if not bool(torch.isfinite(P).all()):
        raise RuntimeError(f"no eigenbasis: the gradient of {label} holds nan or inf.")
    Q: Tensor = torch.linalg.eigh(P).eigenvectors
    return Q.flip(-1)


def renewed_basis(P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """Algorithm 4, one power iteration and QR: an orthogonal Q' near the eigenvectors of P, and the new order.

    Args:
        P: symmetric, (k, m, m).
        Q: the bases until now, (k, m, m).

    Returns:
        Q' (k, m, m), and for each of its columns the column of Q that it continues, (k, m): the columns are sorted by
        the estimates q^T P q, largest first.
    """
    S = torch.bmm(P, Q)
    order = (Q * S).sum(-2).argsort(dim=-1, descending=True, stable=True)  # (k, m)
    sorted_columns = S.gather(-1, order.unsqueeze(-2).expand_as(S))
    return torch.linalg.qr(sorted_columns).Q, order


class _Planned(NamedTuple):
    """Equal matrices with equal numbers of steps, and the rates of this step: numbers, or tensors where compiled.

    The states come without their counters, at each of which a step would be compiled anew.
    """

    group: Group
    batch: MatrixBatch
    states: list[dict[str, Tensor]]
    step_size: Any
    kept: Any


class SOAP(MatrixOptimizer):
    """Adam in the slowly changing eigenbasis of Shampoo's two preconditioners, AdamW for everything else.

    Groups carry ``use_soap`` (``split_matrix_params`` sets it); without the flag parameters with ndim >= 2 are
    matrices. Those with more axes are read as (out, rest). The weight decay is decoupled, before the step; a fallback
    parameter decays only if its own ``use_soap=False`` group gives ``weight_decay``. The first step moves no matrix.

    Args:
        params: parameters or groups.
        lr: eta. Default 3e-3: the authors' code.
        betas: b1 of M and b2 of V, of the fallback too. Default (0.95, 0.95): the authors' code.
        shampoo_beta: b3 of L and R, in [0, 1). Default None: b2, as in the paper.
        eps: added to sqrt(V). Default 1e-8: the authors' code.
        weight_decay: of the matrices. Default 0.01: the authors' code.
        precondition_frequency: f, steps between two renewals of the bases. Default 10: paper and code.
        max_precond_dim: a side that is longer keeps the identity as its basis (the paper does so for embeddings and
            heads). Default 10000: the authors' code.
        adam_eps: of the AdamW fallback. Default 1e-8.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    State per matrix: ``step`` (int), ``exp_avg`` and ``exp_avg_sq`` (m, n), ``left`` and ``left_basis`` (m, m),
    ``right`` and ``right_basis`` (n, n); all in the parameter's dtype, computed in at least float32.

    Raises:
        ValueError: an option out of range, or a ``use_soap=True`` group with a parameter of ndim < 2.

    Example:
        >>> layer = torch.nn.Linear(6, 4)
        >>> optimizer = SOAP(layer.parameters(), lr=0.01)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     layer(torch.randn(8, 6)).square().mean().backward()
        ...     optimizer.step()
        >>> tuple(optimizer.state[layer.weight]["right_basis"].shape)
        (6, 6)

    Reference: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321, algorithms 3 and 4;
        equations in the module's docstring.
    """

    flag: ClassVar[str] = "use_soap"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        adam_eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "shampoo_beta": shampoo_beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "max_precond_dim": max_precond_dim,
            "adam_eps": adam_eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter of ``group`` is out of range."""
        check_rates(group["lr"], group["weight_decay"], eps=group["eps"])
        check_adam(group["betas"], group["adam_eps"])
        if group["shampoo_beta"] is not None:
            check_real("shampoo_beta", group["shampoo_beta"], 0.0, 1.0, high_open=True)
        check_integer("precondition_frequency", group["precondition_frequency"], 1)
        check_integer("max_precond_dim", group["max_precond_dim"], 1)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step on every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, None without a closure.

        Raises:
            RuntimeError: a gradient is sparse or complex (before anything is changed), or the first gradient of a
                matrix holds nan or inf (before that matrix has any state).
        """
        loss = evaluate(closure)
        compiling = torch.compiler.is_compiling()
        planned = run_eagerly(self._planned_for_a_compiler) if compiling else self._planned(float)
        if planned:  # a compiler that once was given nothing would leave the function alone for good
            self._move_all(planned)
        return loss

    def _planned_for_a_compiler(self) -> list[_Planned]:
        return self._planned(rate_tensor)

    def _planned(self, rate: Callable[[float], Any]) -> list[_Planned]:
        """What is left of a step after AdamW's part, first gradients, due bases and counters; see :class:`_Planned`."""
        refuse_unusual(self)
        planned: list[_Planned] = []
        with ascending(self.param_groups):
            for group in self.param_groups:
                lr, (beta1, beta2) = float(group["lr"]), group["betas"]
                for batch, states in self._ready(group):
                    self._renew(group, states)
                    t = states[0]["step"] + 1
                    for state in states:
                        state["step"] = t
                    step_size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                    kept = rate(1 - lr * group["weight_decay"])
                    tensors = [{key: x for key, x in state.items() if key != "step"} for state in states]
                    planned.append(_Planned({**group, "lr": None}, batch, tensors, rate(step_size), kept))
                self.step_rest(group)
        return planned

    def _ready(self, group: Group) -> list[tuple[MatrixBatch, list[dict[str, Any]]]]:
        """Equal matrices of ``group`` that have bases, with their states; the others get bases and wait."""
        by_step: dict[int, list[Tensor]] = {}
        for index, p in enumerate(group["params"]):
            if p.grad is None or not self.is_matrix(p, group):
                continue
            if "step" in self.state[p]:
                by_step.setdefault(self.state[p]["step"], []).append(p)
            else:
                self.state[p].update(self._start(group, p, f"parameter {index} of shape {tuple(p.shape)}"))
        return [
            (batch, [self.state[p] for p in batch.params])
            for params in by_step.values()
            for batch in matrix_batches(params, cpu_entries=CPU_BATCH)
        ]

    def _start(self, group: Group, p: Tensor, label: str) -> dict[str, Any]:
        """The state of a matrix at its first gradient."""
        G = at_least_float32(as_matrix(cast(Tensor, p.grad)))
        state: dict[str, Any] = {"step": 0}
        state |= {key: p.new_zeros(matrix_shape(p)) for key in ("exp_avg", "exp_avg_sq")}
        with full_precision(G):
            for side, X in zip(SIDES, (G, G.mT), strict=True):
                if X.shape[0] <= group["max_precond_dim"]:
                    P = (1 - _shampoo_beta(group)) * (X @ X.mT)
                    state[side] = P.to(p.dtype)
                    state[f"{side}_basis"] = eigenbasis(P, label).to(p.dtype).contiguous()
        return state

    def _renew(self, group: Group, states: States) -> None:
        """New bases for equal matrices every f steps; V follows the new order of their columns."""
        t = states[0]["step"]
        if t == 0 or t % group["precondition_frequency"]:
            return
        for axis, side in enumerate(SIDES, start=1):
            if side not in states[0]:
                continue
            P, Q, V = (_stack(states, key) for key in (side, f"{side}_basis", "exp_avg_sq"))
            with full_precision(P):
                Q, order = renewed_basis(P, Q)
            V = V.gather(axis, order.unsqueeze(3 - axis).expand_as(V))
            _store(states, f"{side}_basis", Q)
            _store(states, "exp_avg_sq", V)

    def _move_all(self, planned: list[_Planned]) -> None:
        """The part of a step that is compiled: the arithmetic in present bases."""
        for one in planned:
            self._move(*one)

    def _move(self, group: Group, batch: MatrixBatch, states: States, step_size: Any, kept: Any) -> None:
        """Algorithm 3 from the projection of G to the averages L and R, for equal matrices."""
        beta1, beta2 = group["betas"]
        beta3 = _shampoo_beta(group)
        G = at_least_float32(batch.G)  # (k, m, n)
        bases = [_stack(states, f"{side}_basis") if side in states[0] else None for side in SIDES]
        with full_precision(G):
            Gp = rotate(G, *bases)
            M = _stack(states, "exp_avg").lerp(G, 1 - beta1)
            V = _stack(states, "exp_avg_sq").lerp(Gp.square(), 1 - beta2)
            N = rotate_back(rotate(M, *bases) / (V.sqrt() + group["eps"]), *bases)
            averages = {"exp_avg": M, "exp_avg_sq": V}
            for side, X in zip(SIDES, (G, G.mT), strict=True):
                if side in states[0]:
                    averages[side] = _stack(states, side).lerp(torch.bmm(X, X.mT), 1 - beta3)
        add_to_parameters(batch.params, N, -step_size, kept)
        for key, value in averages.items():
            _store(states, key, value)


def _shampoo_beta(group: Mapping[str, Any]) -> float:
    return float(group["betas"][1] if group["shampoo_beta"] is None else group["shampoo_beta"])


def _stack(states: States, key: str) -> Tensor:
    """One entry of equal matrices' states, (k, ...) in at least float32."""
    return at_least_float32(torch.stack([state[key] for state in states]))


def _store(states: States, key: str, value: Tensor) -> None:
    """Put (k, ...) back into the states, in their dtype."""
    for state, own in zip(states, value.unbind(0), strict=True):
        state[key].copy_(own)
