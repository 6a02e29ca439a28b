"""What every optimizer for weight matrices shares: flagged groups, batches of equal shapes, AdamW fallback.

The papers behind SinkGD, SWAN, Muon, NorMuon, Conda and Fira all treat "the linear weights of the blocks" one
way and every other parameter (embeddings, head, norm gains, biases) with Adam. A network has many small
matrices of few different shapes, so a step stacks equal shapes to (k, m, n) and runs one batched product per
operation.

Notation: W, G are (m, n) = (out, rest); a parameter with more axes is read as (out, product of the others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer

from normviz.optim._coverage import refuse_model, warn_of_fallback
from normviz.optim._steps import WIDE, Group, ascending, evaluate, step_groups
from normviz.validation import check_real

__all__ = [
    "MatrixBatch",
    "MatrixOptimizer",
    "adamw_step",
    "add_to_parameters",
    "as_matrix",
    "at_least_float32",
    "check_adam",
    "check_betas",
    "check_flag",
    "check_matrix",
    "check_maximize",
    "check_rates",
    "fused_adamw",
    "matrix_batches",
    "matrix_shape",
    "own_group",
    "tensor_of",
    "tensors_of",
]

CPU_BATCH = 2**18
"""Entries of one batch on the CPU: more would leave its caches between two operations (measured with 2 MB of L2)."""


# ------------------------------------------------------------------------------------------------ checks


def check_rates(lr: object, weight_decay: object = 0.0, *, momentum: object = 0.0, eps: object = 0.0) -> None:
    """Raise ValueError unless ``lr``, ``weight_decay``, ``eps`` are finite numbers >= 0, ``momentum`` is in [0, 1).

    ``lr`` may be a tensor of one number.
    """
    if isinstance(lr, Tensor) and lr.numel() == 1:
        lr = float(lr)
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
        check_real(name, value, 0.0, math.inf, high_open=True)
    check_real("momentum", momentum, 0.0, 1.0, high_open=True)


def check_betas(betas: object, name: str = "betas") -> None:
    """Raise ValueError unless ``betas`` is a pair of numbers in [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"{name} must be a pair of numbers in [0, 1), got {betas!r}.")
    for index, beta in enumerate(betas):
        check_real(f"{name}[{index}]", beta, 0.0, 1.0, high_open=True)


def check_adam(betas: object, eps: object, name: str = "adam_eps") -> None:
    """Raise ValueError unless ``betas`` is a pair in [0, 1) and ``eps`` (called ``name``) a number >= 0."""
    check_betas(betas)
    check_real(name, eps, 0.0, math.inf, high_open=True)


def check_matrix(name: str, X: Tensor) -> None:
    """Raise ValueError unless ``X`` has at least two axes."""
    if X.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes (..., m, n), got shape {tuple(X.shape)}.")


def check_flag(flag: str, group: Mapping[str, Any]) -> None:
    """Check ``group``'s ``flag`` (absent or None: undecided) and that True marks only parameters with ndim >= 2.

    Raises:
        ValueError: the flag is no bool, or it is True and a parameter has fewer than two axes.
    """
    chosen = group.get(flag)
    if chosen is not None and not isinstance(chosen, bool):
        raise ValueError(f"{flag} must be True, False or absent, got {chosen!r}.")
    if chosen:
        for p in tensors_of(group["params"]):
            if p.ndim < 2:
                raise ValueError(
                    f"a group with {flag}=True may only hold parameters with at least 2 axes, "
                    f"got one of shape {tuple(p.shape)}; split_matrix_params(model) makes the two groups."
                )


# ------------------------------------------------------------------------------------- groups and batches


def tensor_of(entry: Any) -> Tensor:
    """The tensor of one entry of a group's ``params``: a tensor or a (name, tensor) pair."""
    return cast(Tensor, entry[1] if isinstance(entry, tuple) else entry)


def tensors_of(params: Iterable[Any] | Tensor) -> list[Tensor]:
    """The tensors of a group's ``params``: one tensor, a list of tensors or of (name, tensor) pairs."""
    return [params] if isinstance(params, Tensor) else [tensor_of(entry) for entry in params]


def own_group(param_group: Mapping[str, Any]) -> Group:
    """A copy of a parameter group with its parameters in a list.

    ``Optimizer`` fills defaults into the dict it is given; with a copy, groups built once (by
    ``split_matrix_params``) can be handed to several optimizers and one's defaults do not reach the next.
    """
    group = dict(param_group)
    if not isinstance(group["params"], Tensor | set):  # torch refuses a set, with a reason
        group["params"] = list(group["params"])
    return group


def check_maximize(group: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``group``'s ``maximize`` is a bool or absent."""
    if not isinstance(group.get("maximize", False), bool):
        raise ValueError(f"maximize must be True or False, got {group['maximize']!r}.")


def at_least_float32(X: Tensor) -> Tensor:
    """``X`` in a type with at least float32's precision (half types are promoted, float64 stays)."""
    return X if X.dtype in WIDE else X.to(torch.promote_types(X.dtype, torch.float32))


def matrix_shape(X: Tensor) -> tuple[int, int]:
    """(m, n) = (out, product of the other axes) of a tensor with at least two axes."""
    return X.shape[0], math.prod(X.shape[1:])


def as_matrix(X: Tensor) -> Tensor:
    """``X`` as (out, rest): a convolution kernel (out, in, h, w) becomes (out, in*h*w)."""
    return X if X.ndim == 2 else X.reshape(matrix_shape(X))


class MatrixBatch(NamedTuple):
    """Parameters of equal (m, n), dtype and device: what one batched step treats.

    Attributes:
        params: the k parameters, each of any shape that flattens to (m, n).
        grads: their gradients, in the same order and with the parameters' own shapes.
    """

    params: list[Tensor]
    grads: list[Tensor]

    def stack(self, tensors: Sequence[Tensor]) -> Tensor:
        """``tensors`` (one per parameter) flattened to matrices and stacked to (k, m, n); a single one is a view."""
        if len(tensors) == 1:
            return as_matrix(tensors[0]).unsqueeze(0)  # (1, m, n)
        return torch.stack([as_matrix(t) for t in tensors])  # (k, m, n)

    @property
    def G(self) -> Tensor:  # noqa: N802
        """The gradients as one stack (k, m, n)."""
        return self.stack(self.grads)


def matrix_batches(
    params: Iterable[Tensor], grads: Iterable[Tensor] | None = None, cpu_entries: int = CPU_BATCH
) -> Iterator[MatrixBatch]:
    """Sort parameters into batches of equal matrix shape, dtype and device, in order of first appearance.

    Args:
        params: parameters with ndim >= 2.
        grads: one per parameter (default: their ``.grad``, which must then be there).
        cpu_entries: on the CPU, a batch holds at most so many entries, but at least one matrix.
    """
    batches: dict[tuple[object, ...], MatrixBatch] = {}
    params = list(params)
    for p, g in zip(
        params, grads if grads is not None else [cast(Tensor, p.grad) for p in params], strict=True
    ):
        key = (p.shape if p.ndim == 2 else matrix_shape(p), p.dtype, p.device)
        batch = batches.setdefault(key, MatrixBatch([], []))
        batch.params.append(p)
        batch.grads.append(g)
    for batch in batches.values():
        first = batch.params[0]
        size = max(1, cpu_entries // max(1, first.numel())) if first.is_cpu else len(batch.params)
        for start in range(0, len(batch.params), size):
            yield MatrixBatch(batch.params[start : start + size], batch.grads[start : start + size])


def add_to_parameters(
    params: Sequence[Tensor], D: Tensor, alpha: float, decay: float | Sequence[float] = 1.0
) -> None:
    """W <- decay W + alpha D for k parameters at once.

    Args:
        params: the k parameters (changed in place).
        D: directions (k, m, n); cast to the parameters' dtype, if that is not wider.
        alpha: factor of D, usually -lr.
        decay: factor of W, usually 1 - lr * weight_decay; one for all or one per parameter.

    In a compiled step ``alpha`` and ``decay`` are tensors of no axes.
    """
    if torch.promote_types(D.dtype, params[0].dtype) != params[0].dtype:
        D = D.to(params[0].dtype)
    directions = [d.reshape(p.shape) for d, p in zip(D.unbind(0), params, strict=True)]
    factors = list(decay) if isinstance(decay, Sequence) else [decay] * len(params)
    if isinstance(alpha, Tensor):  # the compiler fuses this loop; the batched operations take no tensors here
        for p, d, factor in zip(params, directions, factors, strict=True):
            p.mul_(factor).add_(at_least_float32(d) * alpha)
        return
    if any(factor != 1.0 for factor in factors):
        torch._foreach_mul_(list(params), factors)
    torch._foreach_add_(list(params), directions, alpha=alpha)


# ------------------------------------------------------------------------------------------ AdamW fallback


def adamw_step(
    params: Sequence[Tensor],
    state: Mapping[Tensor, dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """One step of torch's own AdamW on ``params``, all at once.

    m <- b1 m + (1 - b1) g ;  v <- b2 v + (1 - b2) g^2 ;  W <- W (1 - lr wd) ;
    W <- W - lr/(1 - b1^t) * m / (sqrt(v)/sqrt(1 - b2^t) + eps).

    Args:
        params: parameters of any shape, each with a gradient (changed in place).
        state: the optimizer's ``state``; ``step``, ``exp_avg``, ``exp_avg_sq`` are created at the first step.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW.
    """
    if not params:
        return
    for p in params:
        if "exp_avg" not in state[p]:
            state[p]["step"] = torch.tensor(0.0)
            state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    fused_adamw(
        params,
        [cast(Tensor, p.grad) for p in params],
        [state[p]["exp_avg"] for p in params],
        [state[p]["exp_avg_sq"] for p in params],
        [state[p]["step"] for p in params],
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
    )


def fused_adamw(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """torch.optim.AdamW's update in place; on the CPU by its fused kernel, which reads and writes memory once.

    Args:
        params, grads, exp_avgs, exp_avg_sqs: tensors of equal shapes, place by place.
        steps: 0-dim counters on the CPU, one per parameter; counted up by one.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW.
    """
    fused = all(_fusible(t) for t in (*params, *grads, *exp_avgs, *exp_avg_sqs))
    adamw(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        [],
        list(steps),
        foreach=not fused,
        fused=fused,
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=False,
    )


def _fusible(t: Tensor) -> bool:
    """Whether torch's fused CPU kernel may take ``t``. It reads memory in order, whatever the strides say."""
    return t.is_cpu and t.is_contiguous() and t.dtype in WIDE and type(t) in (Tensor, torch.nn.Parameter)


# ---------------------------------------------------------------------------------------------- base class


class MatrixOptimizer(Optimizer):
    """Base of optimizers that treat matrices their own way and everything else with AdamW.

    A subclass names its group flag in ``flag``, passes ``lr``, ``weight_decay``, ``betas`` and ``adam_eps``
    among its defaults, and implements :meth:`check_group` and :meth:`matrix_step`.

    * ``group[flag]`` True: every parameter of the group is a matrix (ndim < 2 is a ValueError).
    * ``group[flag]`` False: every parameter gets AdamW with the group's lr; decay only if the group itself
      gives ``weight_decay`` (the constructor's is for matrices).
    * absent: decided per parameter, ndim >= 2 is a matrix; the others get AdamW without decay.

    Nothing is changed by a step that raises because of a sparse or complex gradient.

    Warns:
        UserWarning: a group with the flag True is empty, and no parameter with ndim >= 2 takes the matrix step.

    Reference: none, no paper: the base of SWAN (arXiv 2412.13148), SinkGD (arXiv 2502.06742) and NorMuon (arXiv
        2510.05491).
    """

    flag: ClassVar[str]

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        refuse_model(params, self, "split_matrix_params(model)")
        super().__init__(params, defaults)
        groups = self.param_groups
        if (
            any(group.get(self.flag) and not group["params"] for group in groups)
            and any(p.ndim >= 2 for group in groups for p in group["params"])
            and not any(self.is_matrix(p, group) for group in groups for p in group["params"])
        ):
            warn_of_fallback(
                self,
                "AdamW",
                f"The group with {self.flag}=True holds no matrix for it; split_matrix_params(model, exclude=()) keeps "
                "embeddings out and counts every other weight as a matrix.",
            )

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter of ``group`` (defaults already filled in) is out of range."""
        raise NotImplementedError

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        """Update the equal-shaped matrices of ``batch`` in place."""
        raise NotImplementedError

    def is_matrix(self, p: Tensor, group: Mapping[str, Any]) -> bool:
        """Whether ``p`` of ``group`` takes the matrix step."""
        chosen = group.get(self.flag)
        return p.ndim >= 2 if chosen is None else bool(chosen)

    def step_matrices(self, group: Group) -> None:
        """Take the matrix step for every matrix of ``group`` that has a gradient."""
        live = [p for p in group["params"] if p.grad is not None and self.is_matrix(p, group)]
        for batch in matrix_batches(live):
            self.matrix_step(group, batch)

    def step_rest(self, group: Group) -> None:
        """Take AdamW's step for every other parameter of ``group`` that has a gradient."""
        rest = [p for p in group["params"] if p.grad is not None and not self.is_matrix(p, group)]
        if not rest:
            return
        adamw_step(
            rest,
            self.state,
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["adam_eps"],
            weight_decay=group["weight_decay"] if group.get(self.flag) is False else 0.0,
        )

    def prepare(self, group: Group) -> Group:
        """Before a compiled step: AdamW's step, whose kernel needs no compiler. What is left are the matrices."""
        self.step_rest(group)
        return {"params": [p for p in group["params"] if self.is_matrix(p, group)]}

    def add_param_group(self, param_group: Group) -> None:
        """Check a group completely, then add it (see ``torch.optim.Optimizer.add_param_group``).

        Raises:
            ValueError: hyper-parameter out of range, or ``group[flag]`` true with a parameter of ndim < 2.
        """
        group = own_group(param_group)
        if group.get(self.flag) is False:
            group.setdefault("weight_decay", 0.0)
        self.check_group({**self.defaults, **group})
        check_maximize({**self.defaults, **group})
        check_flag(self.flag, group)
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
        self._step_groups(step_groups(self, self.prepare))
        return loss

    def _step_groups(self, groups: list[Group]) -> None:
        with ascending(groups):
            for group in groups:
                self.step_matrices(group)
                self.step_rest(group)
