"""Muon: momentum, orthogonalised by Newton-Schulz.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the learning-rate factor
"match_rms_adamw" is Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982. The baseline that NorMuon
(Li et al., arXiv 2510.05491) improves. Conventions, argument order and defaults are torch.optim.Muon's; equal shapes
are batched here, and ``ns_dtype`` chooses the precision of the iteration (torch always takes bfloat16).

    M <- mu M + (1 - mu) g                                     ``momentum_direction``
    u  = (1 - mu) g + mu M  (Nesterov)  or  M
    O  = NewtonSchulz(u)                                       ``newton_schulz.orthogonalize``
    W <- W (1 - lr wd) ;  W <- W - lr f(m, n) O                ``lr_factor`` is f
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from normviz.optim._coverage import refuse_model, warn_if_nothing_to_do
from normviz.optim._matrix import (
    add_to_parameters,
    check_maximize,
    check_rates,
    matrix_batches,
    own_group,
    tensors_of,
)
from normviz.optim._steps import Group, ascending, evaluate, learning_rate, step_groups
from normviz.optim.newton_schulz import (
    MUON_COEFFICIENTS,
    NS_CPU_BATCH,
    check_coefficients,
    check_newton_schulz,
    choose_dtype,
    iteration_dtype,
    orthogonalize,
)
from normviz.validation import check_choice

__all__ = ["Muon"]


def momentum_direction(
    M: Sequence[Tensor], grads: Sequence[Tensor], momentum: float, nesterov: bool
) -> Sequence[Tensor]:
    """M <- mu M + (1 - mu) g in place; returns u = (1 - mu) g + mu M with Nesterov, else M itself."""
    torch._foreach_lerp_(list(M), list(grads), 1 - momentum)
    return torch._foreach_lerp(list(grads), list(M), momentum) if nesterov else M


def stacked_as(matrices: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Matrices (m, n) as one (k, m, n) of another dtype, converted on the way."""
    if matrices[0].dtype == dtype:
        return torch.stack(list(matrices))
    X = matrices[0].new_empty(len(matrices), *matrices[0].shape, dtype=dtype)
    torch._foreach_copy_(list(X.unbind(0)), list(matrices))
    return X


def lr_factor(adjust_lr_fn: str | None, m: int, n: int) -> float:
    """f(m, n): sqrt(max(1, m/n)) for None or "original", 0.2 sqrt(max(m, n)) for "match_rms_adamw"."""
    return 0.2 * math.sqrt(max(m, n)) if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1.0, m / n))


class Muon(Optimizer):
    """Muon for weight matrices, with torch.optim.Muon's conventions.

    Only 2-D parameters; embeddings, head, biases and gains belong in another optimizer (NorMuon has a fallback).
    The decay uses the unadjusted lr.

    Args:
        params: 2-D parameters (m, n) or param groups of them; m are the outputs.
        lr: learning rate (1e-3, torch).
        weight_decay: decoupled decay (0.1, torch).
        momentum: mu (0.95, Muon).
        nesterov: look ahead by one momentum step (True, Muon).
        ns_coefficients: (a, b, c) of the iteration.
        eps: lower clamp of ||u||_F (1e-7, torch).
        ns_steps: iterations (5, Muon), 1 to 99.
        adjust_lr_fn: None or "original": lr sqrt(max(1, m/n)); "match_rms_adamw": lr 0.2 sqrt(max(m, n)), with which
            the update has about AdamW's size.
        ns_dtype: dtype of the iteration; torch.bfloat16 for torch's numbers. None: chosen at a group's first step for
            its device and its largest matrix, as :func:`newton_schulz` does; from then on the group, ``repr`` and
            state_dict say which it is, and a resumed run keeps it on any machine.

    State per parameter: ``momentum_buffer`` of its shape.

    Raises:
        ValueError: lr or weight_decay < 0, momentum outside [0, 1), ns_steps outside 1..99, ns_coefficients not
            three numbers, unknown adjust_lr_fn, a parameter that is not 2-D, a group with ``use_muon=False``.
        RuntimeError: a gradient is sparse or complex (at the step).

    Warns:
        UserWarning: no group has a parameter.

    Example:
        >>> layer = torch.nn.Linear(6, 4, bias=False)
        >>> optimizer = Muon(layer.parameters(), lr=0.02)
        >>> layer(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()

    Reference: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); "match_rms_adamw":
        Liu et al., arXiv 2502.16982; equations in the module's docstring.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        ns_dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "ns_dtype": ns_dtype,
        }
        refuse_model(params, self, "split_matrix_params(model)[:1]")
        super().__init__(params, defaults)
        warn_if_nothing_to_do(self)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter or a parameter's shape is not allowed."""
        check_rates(group["lr"], group["weight_decay"], momentum=group["momentum"], eps=group["eps"])
        check_coefficients(group["ns_coefficients"], "ns_coefficients")
        check_newton_schulz(group["ns_steps"], group["ns_dtype"])
        if group["adjust_lr_fn"] is not None:
            check_choice("adjust_lr_fn", group["adjust_lr_fn"], ("original", "match_rms_adamw"))
        params = tensors_of(group["params"])
        if params and group.get("use_muon") is False:
            raise ValueError(
                "Muon has no fallback: give the group with use_muon=False to another optimizer or NorMuon."
            )
        for p in params:
            if p.ndim != 2:
                raise ValueError(
                    f"Muon only takes parameters with 2 axes, got one of shape {tuple(p.shape)}. Give it the first "
                    "group of split_matrix_params(model) and the second to another optimizer, or take NorMuon, which "
                    "has Adam for the rest."
                )

    def add_param_group(self, param_group: Group) -> None:
        """Check a group completely, then add it (see ``torch.optim.Optimizer.add_param_group``).

        Raises:
            ValueError: as for the class.
        """
        group = own_group(param_group)
        self.check_group({**self.defaults, **group})
        check_maximize({**self.defaults, **group})
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
                self._step_group(group)

    def _prepare(self, group: Group) -> Group:
        """Before a compiled step: the dtype of the iteration, and the momentum of every matrix that takes part."""
        self._momentum([p for p in group["params"] if p.grad is not None])
        return {"ns_dtype": choose_dtype(group, group["params"])}

    def _momentum(self, params: Iterable[Tensor]) -> list[Tensor]:
        """The momentum of each parameter, zero where there is none yet."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return [self.state[p]["momentum_buffer"] for p in params]

    def _step_group(self, group: Group) -> None:
        lr, dtype = learning_rate(group), choose_dtype(group, group["params"])
        live = [p for p in group["params"] if p.grad is not None]
        for batch in matrix_batches(live, cpu_entries=NS_CPU_BATCH):
            M = self._momentum(batch.params)
            u = momentum_direction(M, batch.grads, group["momentum"], group["nesterov"])
            X = stacked_as(u, dtype or iteration_dtype(batch.params[0]))  # (k, m, n)
            O = orthogonalize(
                X, group["ns_steps"], group["ns_coefficients"], group["eps"], "clamp", overwrite=True
            )
            m, n = batch.params[0].shape
            step_size = lr * lr_factor(group["adjust_lr_fn"], m, n)
            add_to_parameters(batch.params, O, -step_size, 1 - lr * group["weight_decay"])
