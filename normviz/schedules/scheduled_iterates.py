r"""Any optimizer with its updates shrunk, so that its last iterate has the guarantee of its average.

Defazio, Cutkosky, Mehta, Mishchenko, arXiv 2310.07831 (2023), Theorem 1, on line:

    x_1 = z_1,   z_{t+1} = step of the inner optimizer from z_t with the gradient at x_t,
    x_{t+1} = x_t + c_t (z_{t+1} - z_t),   c_t = w_{t+1:T} / w_{1:T}.

For a list of iterates that are known already see :func:`normviz.schedules.last_iterate_conversion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from normviz.schedules._sequences import Values, as_weights
from normviz.schedules.last_iterate import conversion_factors

__all__ = ["ScheduledIterates"]


class ScheduledIterates:
    """The last-iterate conversion of any torch optimizer.

    The parameters hold x: losses, gradients and evaluations are taken there. The inner optimizer steps on a copy z of
    them, which only exists inside it. With SGD whose lr is eta w_t at step t, x moves exactly as under SGD with the
    learning rate eta w_t w_{t+1:T} / w_{1:T}; with weights of one that is linear decay. Weight decay of the inner
    optimizer acts on z.

    Args:
        optimizer: the inner optimizer. Its lr may be set between the steps, also by a scheduler.
        weights: w_1, …, w_T >= 0, one of them > 0; T is the number of steps. From step T on c = 0 and x rests, while
            the inner optimizer goes on.

    Attributes:
        optimizer: the inner optimizer; its ``param_groups`` hold the parameters.
        weights: (T,), float64.
        t: steps taken.

    Raises:
        ValueError: ``weights`` is empty, not 1-D, all zero, negative or not finite.
        TypeError: ``optimizer`` is not a torch optimizer.

    An optimizer that calls the closure several times in a step (LBFGS) gets the same loss each time, and finds the same
    gradient: the closure is evaluated once, at x.

    Example:
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> scheduled = ScheduledIterates(torch.optim.SGD([p], lr=0.5), weights=[1.0, 1.0])
        >>> p.grad = torch.tensor([1.0])
        >>> scheduled.step()  # c_1 = 1/2
        >>> p.item()
        0.75
        >>> scheduled.step()  # c_2 = 0
        >>> p.item()
        0.75

    Reference: Defazio et al., arXiv 2310.07831, Theorem 1.
    """

    def __init__(self, optimizer: Optimizer, weights: Values) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
        self.optimizer = optimizer
        self._set_weights(as_weights(weights))
        self.t = 0
        self._z: list[Tensor] = []
        self._take_new_parameters()

    def _set_weights(self, weights: Tensor) -> None:
        self.weights = weights
        self._factors: list[float] = conversion_factors(weights).tolist()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's groups."""
        return self.optimizer.param_groups

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _take_new_parameters(self) -> None:
        """Copies z of parameters that have been added since: groups are only ever appended."""
        self._z += [p.detach().clone() for p in self._parameters()[len(self._z) :]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as ``torch.optim.Optimizer.zero_grad``."""
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimizer on z, then x_{t+1} = x_t + c_t (z_{t+1} - z_t).

        Args:
            closure: evaluates the model at x, sets the gradients and returns the loss; called once, with gradients
                enabled.

        Returns:
            The closure's loss, None without one.

        An exception of the inner optimizer passes through; x and z are then as before.
        """
        loss: Any = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take_new_parameters()
        params = self._parameters()
        x = [p.detach().clone() for p in params]
        moved = False
        try:
            for p, z in zip(params, self._z, strict=True):
                p.copy_(z)
            if closure is None:
                self.optimizer.step()
            else:
                self.optimizer.step(lambda: loss)
            moved = True
        finally:
            factor = self._factors[self.t] if moved and self.t < len(self._factors) else 0.0
            for i, (p, before) in enumerate(zip(params, x, strict=True)):
                after = before if factor == 0 else _shrunk(before, p - self._z[i], factor)
                if moved:
                    self._z[i].copy_(p)
                p.copy_(after)
        self.t += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """z, x, t, weights and the inner optimizer's state; tensors are copies."""
        return {
            "z": [z.clone() for z in self._z],
            "x": [p.detach().clone() for p in self._parameters()],
            "t": self.t,
            "weights": self.weights.clone(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`: also puts x back into the parameters, and takes its weights.

        Raises:
            RuntimeError: it belongs to other parameters; nothing was changed.
        """
        params = self._parameters()
        shapes = [tuple(p.shape) for p in params]
        for key in ("x", "z"):
            given = [tuple(t.shape) for t in state_dict[key]]
            if given != shapes:
                raise RuntimeError(f"state_dict must have {key!r} of shapes {shapes}, got {given}.")
        weights = as_weights(state_dict["weights"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._set_weights(weights)
        self.t = int(state_dict["t"])
        with torch.no_grad():
            for p, x in zip(params, state_dict["x"], strict=True):
                p.copy_(x)
        self._z = [
            z.detach().to(p.device, p.dtype, copy=True) for p, z in zip(params, state_dict["z"], strict=True)
        ]


def _shrunk(x: Tensor, step: Tensor, factor: float) -> Tensor:
    """x + factor * step, rounded once."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) + factor * step.to(wide)).to(x.dtype)
