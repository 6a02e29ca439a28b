"""The update that an optimizer applied to a weight matrix, recorded by the optimizer's own hooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from normviz.optim import MatrixOptimizer, ProjectedOptimizer
from normviz.probes.spectrum import SpectrumValues, singular_values, spectrum_values
from normviz.validation import check_choice

__all__ = ["UpdateRecord", "UpdateSpectrum", "decay_order"]


def decay_order(optimizer: Optimizer, group: Mapping[str, Any]) -> str:
    """When ``optimizer`` applies the decoupled decay W <- W (1 - lr wd): "before" its step, "after" it, or "none".

    "none" means that the decay is part of the gradient (L2), and so of the direction, as in torch's SGD and Adam.
    """
    if isinstance(optimizer, ProjectedOptimizer):
        return "after"
    if "decoupled_weight_decay" in group:  # torch's Adam family
        return "before" if group["decoupled_weight_decay"] else "none"
    if type(optimizer).__module__.startswith("torch.optim"):
        return "before" if isinstance(optimizer, torch.optim.Muon | torch.optim.Adafactor) else "none"
    return "before"


@dataclass(frozen=True)
class UpdateRecord:
    """One parameter around one optimizer step; the direction and its measures are computed when asked for.

    Attributes:
        before, after: the weights (m, n).
        gradient: the gradient (m, n), None if there was none.
        rate: eta, what the direction was multiplied with.
        decay: factor of W in the decoupled weight decay, 1 without.
        order: "before" or "after": where the decay comes in the step.

    Reference: none, no paper.
    """

    before: Tensor
    after: Tensor
    gradient: Tensor | None
    rate: float
    decay: float
    order: str

    @property
    def update(self) -> Tensor:
        """The applied direction U (m, n), float64 on the CPU: W_before - W_after over eta without the decay.

        decay before the step: U = (d W_before - W_after) / eta;  after it: U = (W_before - W_after / d) / eta. Zero
        if eta is. U is known to about the weights' rounding over eta: in float32 the smallest singular values of a
        badly conditioned U are lost in it.
        """
        before, after = (W.to("cpu", torch.float64) for W in (self.before, self.after))
        if self.rate == 0:
            return torch.zeros_like(before)
        moved = self.decay * before - after if self.order == "before" else before - after / self.decay
        return moved / self.rate

    def singular_values(self) -> Tensor:
        """Singular values of the direction, descending, (min(m, n),) in float64; those that are rounding are zero.

        A singular value counts as rounding up to

            max(m, n) eps_c s_1  +  (sqrt(m) + sqrt(n)) eps_w max|W| / eta

        with eps_w the machine epsilon of the weights' dtype and eps_c that of the dtype in which the direction was
        computed, at least float32. The first term is the usual tolerance of a numerical rank: products of matrices,
        rounded entry by entry, leave singular values of up to about that size where exact arithmetic has zeros. The
        second is what storing the weights adds: two roundings in a step (decay, then step) move an entry by at most
        eps_w max|W| together, and independent entries of at most a make a matrix of norm about a (sqrt(m) + sqrt(n))
        at the most. Rounding differs between processors; with a tighter tolerance the rank would differ too.
        """
        U = self.update
        s = singular_values(U)
        if self.rate == 0:
            return s
        m, n = U.shape
        dtype = self.after.dtype
        computed = torch.finfo(torch.promote_types(dtype, torch.float32)).eps * max(m, n) * s[0]
        largest = max(float(W.abs().max()) for W in (self.before, self.after))
        stored = torch.finfo(dtype).eps * largest / abs(self.rate) * (math.sqrt(m) + math.sqrt(n))
        return torch.where(s <= computed + stored, 0.0, s)

    def spectrum(self) -> SpectrumValues:
        """The measures of :func:`update_spectrum`, with the singular values of :meth:`singular_values`."""
        return spectrum_values(self.singular_values(), self.update, self.gradient)


class UpdateSpectrum:
    """Record the updates that any optimizer applies to chosen matrices, in the steps for which it is armed.

    Hooks of the optimizer copy the weights before and after an armed step and the gradient; nothing happens in other
    steps, and no measure is computed before :meth:`read` is, so the timed path of an armed step holds three copies
    and that of another one nothing.

    Args:
        optimizer: any ``torch.optim.Optimizer`` with ``lr`` in its groups.
        params: name -> parameter, or (name, parameter) pairs such as ``model.named_parameters()`` gives. Each has at
            least two axes (more are read as (out, rest)) and belongs to the optimizer.
        decay: where the decoupled weight decay comes in the step: "before", "after", "none" (there is none, or it is
            L2 and part of the direction), or "auto": by the optimizer's class (:func:`decay_order`; a class unknown
            to it counts as "before"). Only matters with weight_decay > 0.

    The eta that is divided out is the group's lr, for SinkGD and SWAN lr * alpha, so that their U has RMS 1. Factors
    that an optimizer counts to its direction (Muon's sqrt(max(1, m/n)), Conda's scale) stay in U.

    Raises:
        ValueError: a parameter has fewer than two axes or is not the optimizer's, unknown decay.

    Example:
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> probe = UpdateSpectrum(optimizer, {"layer": layer.weight})
        >>> layer(torch.ones(2, 4)).sum().backward()
        >>> probe.arm()
        >>> optimizer.step()
        >>> round(probe.read()["layer"].spectrum()["cosine_to_gradient"], 4)
        1.0
        >>> probe.close()

    Reference: none, no paper.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        params: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        *,
        decay: str = "auto",
    ) -> None:
        self.params = dict(params)
        self.decay = check_choice("decay", decay, ("auto", "before", "after", "none"))
        self.armed = False
        self._before: dict[str, Tensor] = {}
        self._records: dict[str, UpdateRecord] = {}
        owned = {p for group in optimizer.param_groups for p in group["params"]}
        for name, p in self.params.items():
            if p.ndim < 2 or p not in owned:
                raise ValueError(
                    f"params must be matrices of the optimizer, got {name!r} of shape {tuple(p.shape)}"
                    + ("." if p.ndim < 2 else ", which is in none of its groups.")
                )
        self._handles = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._record),
        ]

    def arm(self) -> None:
        """Record the next step (one step only)."""
        self.armed = True

    def read(self) -> dict[str, UpdateRecord]:
        """The records of the last armed step by parameter name; empty before the first."""
        return dict(self._records)

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _remember(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        if self.armed:
            self._before = {name: p.detach().flatten(1).clone() for name, p in self.params.items()}

    # The gradient is taken after the step: with a closure it does not exist before.
    def _record(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        if not self.armed:
            return
        self.armed = False
        group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        for name, p in self.params.items():
            rate, decay = _rates(optimizer, group_of[p], p)
            order = decay_order(optimizer, group_of[p]) if self.decay == "auto" else self.decay
            self._records[name] = UpdateRecord(
                before=self._before[name],
                after=p.detach().flatten(1).clone(),
                gradient=None if p.grad is None else p.grad.detach().flatten(1).clone(),
                rate=rate,
                decay=1.0 if order == "none" else decay,
                order="before" if order == "none" else order,
            )
        self._before = {}


def _rates(optimizer: Optimizer, group: Mapping[str, Any], p: Tensor) -> tuple[float, float]:
    """eta and the factor of the decoupled decay for ``p``; no decay where an optimizer skips it."""
    rate, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    if isinstance(optimizer, MatrixOptimizer):
        if optimizer.is_matrix(p, group):
            rate *= group.get("alpha", 1.0)
        elif group.get(optimizer.flag) is not False:
            weight_decay = 0.0
    return rate, 1.0 if p.grad is None else 1 - rate * weight_decay
