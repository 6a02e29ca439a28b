"""Gradient multi-normalization: MultiNorm, MNGD and SinkGD.

Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training" (v1: "... for Stateless and
Scalable LLM Training"), NeurIPS 2025, arXiv 2502.06742.

A normalised step is steepest descent under one norm: sign for the max norm, whitening for the spectral norm. The
paper asks for a direction normalised under several norms at once and finds it by alternating the single-norm
projections. With {row, column} norms one pass costs O(mn) and the step (SinkGD) keeps no state for matrices.

Notation -> code (W, G in R^{m x n}, torch layout, m outputs = rows, n inputs = columns):

====================================================  =======================================================
g(X), the norm                                        ``MatrixNorm.value``
g_*(X) = max_{g(Z) <= 1} <X, Z>, its dual             ``MatrixNorm.dual``
P_g(X) = argmax_{g(Z) <= 1} <X, Z>                    ``MatrixNorm.project``
MultiNorm(X; g_1..g_K, L) (algorithm 1)               ``multi_normalize(X, norms, iters=L)``
MNGD (algorithm 2)  W <- W - eta MultiNorm(G)         ``MultiNormGD``
SR-Sinkhorn(X, L) (algorithm 3)                       ``sr_sinkhorn(X, iters=L)``
SinkGD (algorithm 4)  W <- W - eta alpha SR-Sinkhorn  ``SinkGD``
====================================================  =======================================================

Every norm is scaled so that ||P_g(X)||_F = sqrt(mn), the assumption behind the paper's fixed-point theorem; hence
each update has root mean square 1. For two norms, <x_t, x_{t+1}> never decreases over the iterates and is at most
mn, so the iterates settle; for more than two norms there is no such guarantee and the residual must be looked at.

No code was published. Followed here: rows before columns, L = 5 and alpha = 0.05, no division by sqrt(mn) (one
public copy divides; that is not the paper's step). ``eps`` is a lower clamp of each L2 norm, never added to it, so
zero rows stay zero. Ours, because the paper leaves them open: decoupled weight decay (default 0) and N-d weights
flattened to (out, rest).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from normviz.optim._coverage import refuse_model, warn_if_nothing_to_do
from normviz.optim._matrix import (
    MatrixBatch,
    MatrixOptimizer,
    add_to_parameters,
    check_adam,
    check_maximize,
    check_rates,
    matrix_batches,
    tensors_of,
)
from normviz.optim._precision import full_precision, widen
from normviz.optim._steps import Group, ascending, evaluate, learning_rate, step_groups
from normviz.optim.matrix_norms import (
    ColumnNorm,
    FrobeniusNorm,
    MatrixNorm,
    MaxNorm,
    RowNorm,
    SpectralNorm,
)
from normviz.validation import check_integer, check_real

__all__ = [
    "ColumnNorm",
    "FrobeniusNorm",
    "MatrixNorm",
    "MaxNorm",
    "MultiNormGD",
    "RowNorm",
    "SinkGD",
    "SpectralNorm",
    "multi_normalize",
    "multi_normalize_fixed_point",
    "sr_sinkhorn",
]

NEGLIGIBLE = 1e-30
"""Squares below this are zero in SR-Sinkhorn's sums, so that no factor overflows in float32."""


def check_norms(norms: Sequence[MatrixNorm]) -> tuple[MatrixNorm, ...]:
    """The norms as a tuple.

    Raises:
        ValueError: not a non-empty sequence of MatrixNorm instances.
    """
    checked = tuple(norms) if isinstance(norms, Sequence) else ()
    if not checked or not all(isinstance(g, MatrixNorm) for g in checked):
        raise ValueError(f"norms must be a non-empty sequence of MatrixNorm instances, got {norms!r}.")
    return checked


@overload
def multi_normalize(
    X: Tensor,
    norms: Sequence[MatrixNorm],
    iters: int = 1,
    eps: float = 1e-8,
    return_trace: Literal[False] = False,
) -> Tensor: ...


@overload
def multi_normalize(
    X: Tensor,
    norms: Sequence[MatrixNorm],
    iters: int = 1,
    eps: float = 1e-8,
    *,
    return_trace: Literal[True],
) -> tuple[Tensor, list[Tensor]]: ...


def multi_normalize(
    X: Tensor,
    norms: Sequence[MatrixNorm],
    iters: int = 1,
    eps: float = 1e-8,
    return_trace: bool = False,
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """MultiNorm (algorithm 1): ``iters`` times, project X onto the unit sphere of each norm in turn.

    Args:
        X: matrices (..., m, n).
        norms: g_1, ..., g_K, applied in this order.
        iters: L, whole cycles over the norms (1, as MNGD's cheapest form; SinkGD takes 5).
        eps: lower clamp of the dividing norms (1e-8, ours).
        return_trace: also return the list of the L*K iterates, one after each projection, X itself not included.

    Returns:
        The normalised X, or (X, trace).

    Raises:
        ValueError: no norms, iters < 1, eps <= 0, X not (..., m, n) or not a real floating tensor.

    Example:
        >>> D = multi_normalize(torch.randn(4, 6), [RowNorm(), SpectralNorm()])  # one SWAN pass without centring
        >>> float(D.square().mean())  # doctest: +ELLIPSIS
        1.0...
    """
    norms = check_norms(norms)
    check_integer("iters", iters, 1)
    check_real("eps", eps, 0.0, low_open=True)
    current = widen("X", X)
    trace: list[Tensor] = []
    for _ in range(iters):
        for g in norms:
            current = g.project(current, eps)
            if return_trace:
                trace.append(current.to(X.dtype))
    result = current.to(X.dtype)
    return (result, trace) if return_trace else result


def multi_normalize_fixed_point(
    X: Tensor, norms: Sequence[MatrixNorm], tol: float = 1e-6, max_iter: int = 1000
) -> tuple[Tensor, int, float]:
    """Repeat whole MultiNorm cycles until one changes X by at most ``tol``: then P_g(X) = X for every norm.

    Sparse patterns without total support and lists of more than two norms may have no fixed point: the last iterate
    is returned with its residual, nothing is raised.

    Args:
        X: matrices (..., m, n).
        norms: g_1, ..., g_K, applied in this order.
        tol: stop at residual <= tol (1e-6).
        max_iter: at most this many cycles (1000).

    Returns:
        (X, cycles, residual) with residual = ||X_new - X_old||_F / ||X_new||_F over the last cycle, the largest one if
        there are leading axes.

    Raises:
        ValueError: no norms, tol < 0, max_iter < 1, X not (..., m, n) or not a real floating tensor.
    """
    norms = check_norms(norms)
    check_real("tol", tol, 0.0)
    check_integer("max_iter", max_iter, 1)
    current = widen("X", X)
    tiny = torch.finfo(current.dtype).tiny
    cycles, residual = 0, math.inf
    while cycles < max_iter and not residual <= tol:
        previous, current = current, multi_normalize(current, norms)
        change = torch.linalg.vector_norm(current - previous, dim=(-2, -1))
        size = torch.linalg.vector_norm(current, dim=(-2, -1))
        residual = float((change / size.clamp(min=tiny)).max().detach())
        cycles += 1
    return current.to(X.dtype), cycles, residual


def sr_sinkhorn(X: Tensor, iters: int = 5, eps: float = 1e-8) -> Tensor:
    """SR-Sinkhorn (algorithm 3): per iteration rows to L2 norm sqrt(n), then columns to L2 norm sqrt(m).

    This is Sinkhorn's iteration on the squared entries (row sums n, column sums m), with the signs kept. After
    finitely many iterations the columns are exact and the rows approximate; ||X||_F = sqrt(mn) throughout.

    Every iterate is Diag(d) Y Diag(c) with Y the row-normalised X, so only the vectors d and c are iterated: the norms
    are ||row i|| = d_i sqrt(sum_j Y_ij^2 c_j^2) and alike for columns. It is multi_normalize(X, (RowNorm(),
    ColumnNorm())) at a fraction of its memory traffic; entries of Y below 1e-15 count as zero in these sums.

    Args:
        X: matrices (..., m, n).
        iters: L (5, public implementations of the paper).
        eps: lower clamp of the row and column norms (1e-8, ours): zero rows and columns stay zero.

    Raises:
        ValueError: iters < 1, eps <= 0, X not (..., m, n) or not a real floating tensor.

    Example:
        >>> sr_sinkhorn(torch.tensor([[3.0, -0.5]]))
        tensor([[ 1., -1.]])
    """
    check_integer("iters", iters, 1)
    check_real("eps", eps, 0.0, low_open=True)
    Y = RowNorm().project(widen("X", X), eps)  # (..., m, n), the first row step
    m, n = Y.shape[-2:]
    with full_precision(Y):
        S = Y.square()
        S = torch.where(S < NEGLIGIBLE, 0.0, S)
        d, c = torch.ones_like(Y[..., :1]), torch.ones_like(Y[..., :1, :])  # (..., m, 1), (..., 1, n)
        for cycle in range(iters):
            if cycle:
                d = d * balance(d * (S @ c.mT.square()).sqrt(), n, eps)
            c = c * balance(c * (d.mT.square() @ S).sqrt(), m, eps)
    return (Y * d * c).to(X.dtype)


def balance(lengths: Tensor, count: int, eps: float) -> Tensor:
    """sqrt(count) / max(lengths, eps), the factor to L2 norm sqrt(count); 1 for rows or columns that are zero."""
    return torch.where(lengths == 0, 1.0, math.sqrt(count) / lengths.clamp(min=eps))


class MultiNormGD(Optimizer):
    """Multi-normalized gradient descent (MNGD, algorithm 2) with any list of norms.

    W <- W (1 - eta wd);  W <- W - eta MultiNorm(G; norms, L). No state, no momentum and no fallback: every parameter
    must be a matrix (N-d weights are read as (out, rest)). Each update has root mean square 1 times eta, so eta is
    about 0.05 of an Adam-sized learning rate (SinkGD's alpha, which MNGD does not have).

    ``norms`` is an attribute of the optimizer, not an entry of its param groups: state_dict stays plain data.

    Args:
        params: parameters with ndim >= 2 or param groups of them.
        lr: eta (1e-3, ours).
        norms: g_1, ..., g_K in the order of projection (rows, columns: SinkGD's pair).
        iters: L, whole cycles over the norms (1).
        weight_decay: decoupled wd (0; the paper has none).
        eps: lower clamp of the dividing norms (1e-8, ours).
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    Raises:
        ValueError: lr < 0, weight_decay < 0, iters < 1, eps <= 0, no norms, a parameter with ndim < 2.

    Warns:
        UserWarning: no group has a parameter.

    Example:
        >>> layer = torch.nn.Linear(6, 4, bias=False)
        >>> optimizer = MultiNormGD(layer.parameters(), lr=1e-3, norms=[RowNorm(), SpectralNorm()])
        >>> layer(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        norms: Sequence[MatrixNorm] = (RowNorm(), ColumnNorm()),
        iters: int = 1,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        refuse_model(params, self, "split_matrix_params(model)[:1]")
        self.norms = check_norms(norms)
        super().__init__(
            params, {"lr": lr, "iters": iters, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        )
        warn_if_nothing_to_do(self)

    # Optimizer's own __getstate__ lists its three attributes, so a copy or a pickle would lose the norms.
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "norms": self.norms}

    def add_param_group(self, param_group: Group) -> None:
        """Check a group completely, then add it (see ``torch.optim.Optimizer.add_param_group``).

        Raises:
            ValueError: a hyper-parameter out of range or a parameter with ndim < 2.
        """
        group = {**self.defaults, **param_group}
        check_rates(group["lr"], group["weight_decay"])
        check_integer("iters", group["iters"], 1)
        check_real("eps", group["eps"], 0.0, math.inf, low_open=True, high_open=True)
        check_maximize(group)
        if not isinstance(group["params"], Tensor | set):
            group["params"] = list(group["params"])
        for p in tensors_of(group["params"]):
            if p.ndim < 2:
                raise ValueError(
                    f"params must have at least 2 axes, got one of shape {tuple(p.shape)}. Give the first group of "
                    "split_matrix_params(model) and the second to another optimizer, or take SinkGD, which has AdamW "
                    "for the rest."
                )
        super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step on every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, None without a closure.

        Raises:
            RuntimeError: a gradient is sparse or complex (before anything is changed).
        """
        loss = evaluate(closure)
        self._step_groups(step_groups(self))
        return loss

    def _step_groups(self, groups: list[Group]) -> None:
        with ascending(groups):
            for group in groups:
                lr = learning_rate(group)
                live = [p for p in group["params"] if p.grad is not None]
                for batch in matrix_batches(live):
                    D = multi_normalize(batch.G, self.norms, group["iters"], group["eps"])  # (k, m, n)
                    add_to_parameters(batch.params, D, -lr, 1 - lr * group["weight_decay"])


class SinkGD(MatrixOptimizer):
    """SinkGD (algorithm 4): W <- W - eta alpha SR-Sinkhorn(G, L) for matrices, AdamW for everything else.

    Matrices keep no state; embeddings, output head, norm gains and biases take AdamW with the global eta. Groups
    carry ``use_sinkgd`` (``split_matrix_params`` sets it); without the flag parameters with ndim >= 2 are matrices.
    Weight decay is decoupled: W <- W (1 - eta alpha wd) first. The constructor's ``weight_decay`` concerns matrices;
    a fallback parameter decays, by 1 - eta wd, only if its own ``use_sinkgd=False`` group gives ``weight_decay``.

    Args:
        params: parameters or param groups; N-d weights are read as (out, rest).
        lr: eta (0.02, recalled from the paper, unconfirmed).
        iters: L, Sinkhorn iterations (5, public implementations of the paper).
        alpha: factor of eta for matrices (0.05, public implementations): the update has root mean square 1, far hotter
            than Adam's at the same eta.
        weight_decay: wd of the matrices (0; the paper has none).
        eps: lower clamp of the row and column norms (1e-8, ours).
        betas: of the AdamW fallback (0.9, 0.999).
        adam_eps: of the AdamW fallback (1e-8).
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    Raises:
        ValueError: lr < 0, alpha <= 0, iters < 1, eps <= 0, weight_decay < 0, betas outside [0, 1), or a
            ``use_sinkgd=True`` group with a parameter of ndim < 2.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> optimizer = SinkGD(model.parameters(), lr=0.02)
        >>> model(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(tuple(p.shape) for p in optimizer.state)  # only the biases have state
        [(2,), (4,)]

    Reference: Scetbon, Ma, Gong, Meeds, "Gradient Multi-Normalization for Efficient LLM Training", arXiv
        2502.06742, algorithms 3 and 4.
    """

    flag: ClassVar[str] = "use_sinkgd"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        iters: int = 5,
        alpha: float = 0.05,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "iters": iters,
            "alpha": alpha,
            "weight_decay": weight_decay,
            "eps": eps,
            "betas": betas,
            "adam_eps": adam_eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter of ``group`` is out of range."""
        check_rates(group["lr"], group["weight_decay"])
        check_integer("iters", group["iters"], 1)
        check_real("alpha", group["alpha"], 0.0, math.inf, low_open=True, high_open=True)
        check_real("eps", group["eps"], 0.0, math.inf, low_open=True, high_open=True)
        check_adam(group["betas"], group["adam_eps"])

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        """W <- W (1 - eta alpha wd) - eta alpha SR-Sinkhorn(G, L) on equal shapes at once."""
        rate = learning_rate(group) * group["alpha"]
        D = sr_sinkhorn(batch.G, group["iters"], group["eps"])  # (k, m, n)
        add_to_parameters(batch.params, D, -rate, 1 - rate * group["weight_decay"])
