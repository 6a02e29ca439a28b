r"""AdaGrad-Norm: one step size for all coordinates, from the sum of squared gradient norms.

Ward, Wu, Bottou, "AdaGrad stepsizes: sharp convergence over nonconvex landscapes", arXiv 1806.01811; the optimizer of
AdAdaGrad-Norm in Lau, Liu, Kolar, arXiv 2402.11215 (2024). For the gradient g_k of a whole parameter group, with
weight decay:

    a_k = a_{k-1} + ||g_k||^2,   x <- x - lr_k d_k / (sqrt(a_k) + eps),   lr_k = lr / (1 + (k-1) lr_decay),
    d_k = g_k, or with momentum m:  d_k = m d_{k-1} + (1-m) g_k,  d_0 = 0.

The public code's class of this name is another method: one accumulator per output row of matrices and convolution
kernels, and one per entry elsewhere. That is ``scope="row"``. The public code also adds wd * gradient where wd * x is
meant; here it is wd * x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from normviz.optim._coverage import refuse_model
from normviz.optim._matrix import (
    at_least_float32,
    check_maximize,
    check_rates,
    own_group,
)
from normviz.optim._steps import Group, ascending, evaluate, learning_rate, step_groups
from normviz.validation import check_choice, check_real

__all__ = ["AdaGradNorm"]

SCOPES = ("global", "row")


class AdaGradNorm(Optimizer):
    """AdaGrad with a scalar step size (AdaGrad-Norm).

    Args:
        params: parameters or param groups; each group has an accumulator of its own.
        lr: learning rate (1.0, public code), the length of the first step if the accumulator starts at 0.
        initial_accumulator_value: a_0, in units of squared gradients (1e-2, public code).
        eps: added after the root (1e-10, public code).
        weight_decay: L2: wd * x is added to the gradient before anything else (0).
        momentum: m in [0, 1), of an average of the gradients that starts at 0 (0). The accumulator sees the gradient
            itself.
        lr_decay: as in torch.optim.Adagrad (0).
        scope: "global" (default, the paper): one accumulator for the group; "row" (public code): one for each row of
            parameters with 2 or 4 axes and one for each entry of the others.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    State: ``sum`` and ``step``, of the group's first parameter (also if that one has no gradient) for "global", of each
    parameter for "row"; ``momentum_buffer`` of each parameter with momentum. ``sum`` is float32 for half types.
    Parameters without a gradient are skipped.

    Raises:
        ValueError: lr, initial_accumulator_value, eps, weight_decay or lr_decay < 0, momentum outside [0, 1), unknown
            scope.
        RuntimeError: a gradient is sparse or complex (at the step).

    Example:
        >>> layer = torch.nn.Linear(6, 4)
        >>> optimizer = AdaGradNorm(layer.parameters(), lr=0.5)
        >>> layer(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()

    Reference: Ward et al., arXiv 1806.01811, Algorithm 1; Lau et al., arXiv 2402.11215.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        initial_accumulator_value: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        lr_decay: float = 0.0,
        scope: str = "global",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "lr_decay": lr_decay,
            "scope": scope,
            "maximize": maximize,
        }
        refuse_model(params, self, "model.parameters()")
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Check a group completely, then add it (see ``torch.optim.Optimizer.add_param_group``).

        Raises:
            ValueError: as for the class.
        """
        group = own_group(param_group)
        given = {**self.defaults, **group}
        check_rates(given["lr"], given["weight_decay"], momentum=given["momentum"], eps=given["eps"])
        for name in ("initial_accumulator_value", "lr_decay"):
            check_real(name, given[name], 0.0, math.inf, high_open=True)
        check_choice("scope", given["scope"], SCOPES)
        check_maximize(given)
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
        self._step_groups(step_groups(self, self._prepare))
        return loss

    def _step_groups(self, groups: list[Group]) -> None:
        with ascending(groups):
            for group in groups:
                live = [p for p in group["params"] if p.grad is not None]
                grads = [_gradient(p, group["weight_decay"]) for p in live]
                if live and group["scope"] == "global":
                    self._global_step(group, live, grads)
                elif live:
                    self._row_step(group, live, grads)

    def _global_step(self, group: Group, live: list[Tensor], grads: list[Tensor]) -> None:
        """One accumulator for the whole group."""
        first = group["params"][0]
        home = self._counted(first, group)
        norms = torch.stack([torch.linalg.vector_norm(g).to(home["sum"]) for g in grads])
        home["sum"] += norms.square().sum()
        denominator = _denominator(home["sum"], group["eps"])
        factor = (_step_size(group, home) / denominator).to(denominator.dtype)
        for p, g in zip(live, grads, strict=True):
            self._move(p, self._direction(p, g, group) * factor.to(p.device))

    def _row_step(self, group: Group, live: list[Tensor], grads: list[Tensor]) -> None:
        """One accumulator for each row of matrices and convolution kernels, and for each entry of the others."""
        for p, g in zip(live, grads, strict=True):
            state = self._counted(p, group)
            square = g.square()
            state["sum"] += square.sum(tuple(range(1, p.ndim)), keepdim=True) if _has_rows(p) else square
            step = self._direction(p, g, group) / _denominator(state["sum"], group["eps"])
            self._move(p, step * _step_size(group, state))

    def _counted(self, p: Tensor, group: Group) -> dict[str, Any]:
        """State of ``p`` with its accumulator, one step counted."""
        state = self._accumulator(p, group)
        state["step"] += 1
        return state

    def _accumulator(self, p: Tensor, group: Group) -> dict[str, Any]:
        """State of ``p`` with its accumulator, which is made if there is none yet."""
        state: dict[str, Any] = self.state[p]
        if "sum" not in state:
            shape: tuple[int, ...] = ()
            if group["scope"] == "row":
                shape = (p.shape[0], *[1] * (p.ndim - 1)) if _has_rows(p) else tuple(p.shape)
            start = group["initial_accumulator_value"]
            state["sum"] = torch.full(shape, start, dtype=_wide(p), device=p.device)
            state["step"] = torch.tensor(0.0)
        return state

    def _momentum(self, p: Tensor) -> Tensor:
        """The average of the gradients of ``p``, zero if there is none yet."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return cast(Tensor, state["momentum_buffer"])

    def _prepare(self, group: Group) -> Group:
        """Before a compiled step: all state that the group's next step needs."""
        live = [p for p in group["params"] if p.grad is not None]
        for p in group["params"][: len(live[:1])] if group["scope"] == "global" else live:
            self._accumulator(p, group)
        if group["momentum"]:
            for p in live:
                self._momentum(p)
        return {}

    def _direction(self, p: Tensor, g: Tensor, group: Group) -> Tensor:
        """The gradient, or with momentum its average."""
        momentum = group["momentum"]
        if momentum == 0:
            return g
        kept = self._momentum(p)
        buffer = at_least_float32(kept).lerp(g, 1 - momentum)
        kept.copy_(buffer)
        return buffer

    @staticmethod
    def _move(p: Tensor, step: Tensor) -> None:
        p.sub_(step.to(p.dtype))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; ``sum`` keeps float32 for parameters of half types."""
        super().load_state_dict(dict(state_dict))
        saved = state_dict["state"]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for key, p in zip(keys, params, strict=True):
            if "sum" in saved.get(key, {}):
                self.state[p]["sum"] = saved[key]["sum"].detach().to(p.device, _wide(p), copy=True)


def _wide(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def _gradient(p: Tensor, weight_decay: float) -> Tensor:
    """The gradient in at least float32, plus weight_decay * p."""
    assert p.grad is not None
    g = p.grad.to(_wide(p))
    return g.add(p, alpha=weight_decay) if weight_decay else g


def _has_rows(p: Tensor) -> bool:
    """Whether ``scope="row"`` has one accumulator for each row of ``p``, not one for each entry."""
    return p.ndim in (2, 4)


def _step_size(group: Group, state: Mapping[str, Any]) -> float:
    """lr / (1 + (k-1) lr_decay) at step k; a float64 tensor in a compiled step."""
    lr = learning_rate(group)
    if not group["lr_decay"]:
        return lr
    k = state["step"].double() if torch.compiler.is_compiling() else float(state["step"])
    return cast(float, lr / (1 + (k - 1) * group["lr_decay"]))


def _denominator(total: Tensor, eps: float) -> Tensor:
    """sqrt(a) + eps; 1 where that is 0, since the gradient is 0 there too."""
    root = total.sqrt() + eps
    return torch.where(root == 0, torch.ones_like(root), root)
