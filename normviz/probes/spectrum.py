"""What an optimizer's update of a weight matrix looks like: spectrum, row and column balance, size, direction.

The five optimizer papers argue with the geometry of the update U (m, n): MultiNorm/SinkGD (arXiv 2502.06742) balances
row and column norms, SWAN (2412.13148) and Muon flatten the singular values, NorMuon (2510.05491) equalises the rows
of Muon's update, Conda (2509.24218) improves Adam's conditioning, Fira (2410.01623) restores the rank that GaLore
gives up. The measures, with singular values s_1 >= s_2 >= ... of U:

    condition number   s_1 / s_min over s > 1e-12 s_1            ``condition_number``
    stable rank        ||U||_F^2 / s_1^2                         ``stable_rank``
    effective rank     exp(entropy of s_i^2 / sum s^2)           ``effective_rank``
    row/column spread  std/mean of the L2 norms (biased std)     ``row_norm_cv``, ``col_norm_cv``
    size               ||U||_F / sqrt(m n)                       ``rms``
    direction          <U, G> / (||U|| ||G||)                    ``cosine``

Ranks of a zero matrix are 0 and its condition number is nan, so that no infinity reaches a plot. A matrix with a
non-finite entry gives nan everywhere: a diverged run is measured, not raised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.optimizer import Optimizer

from normviz.optim._matrix import MatrixOptimizer, as_matrix
from normviz.optim._projected import ProjectedOptimizer
from normviz.validation import check_choice

__all__ = [
    "SpectrumValues",
    "UpdateRecord",
    "UpdateSpectrum",
    "col_norm_cv",
    "condition_number",
    "cosine",
    "effective_rank",
    "optimizer_state_bytes",
    "rms",
    "row_norm_cv",
    "singular_values",
    "stable_rank",
    "update_spectrum",
]

# Singular values below this fraction of the largest one are rounding.
NEGLIGIBLE = 1e-12


# ------------------------------------------------------------------------------- measures, batched over (...)


def singular_values(X: Tensor) -> Tensor:
    """Singular values of each matrix, descending: (..., m, n) -> (..., min(m, n)) in float64; nan if not finite."""
    X = X.to(torch.float64)
    finite = X.isfinite().all(-1).all(-1)  # (...)
    s = torch.linalg.svdvals(torch.where(finite[..., None, None], X, 0.0))
    return torch.where(finite[..., None], s, math.nan)


def condition_number(s: Tensor) -> Tensor:
    """s_1 over the smallest singular value above 1e-12 s_1: (..., r) -> (...); nan for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    smallest = torch.where(s > NEGLIGIBLE * largest, s, math.inf).amin(-1)
    return torch.where(largest[..., 0] > 0, largest[..., 0] / smallest, math.nan)


def stable_rank(s: Tensor) -> Tensor:
    """||U||_F^2 / s_1^2: (..., r) -> (...), between 1 and the rank; 0 for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    return torch.where(largest[..., 0] == 0, 0.0, (s / largest).square().sum(-1))


def effective_rank(s: Tensor) -> Tensor:
    """exp(-sum p log p) with p_i = s_i^2 / sum s^2: (..., r) -> (...); 0 for a zero matrix.

    Args:
        s: singular values, descending, from :func:`singular_values`.
    """
    largest = s[..., :1]
    energy = (s / largest).square()
    entropy = torch.special.entr(energy / energy.sum(-1, keepdim=True)).sum(-1)
    return torch.where(largest[..., 0] == 0, 0.0, entropy.exp())


def row_norm_cv(X: Tensor) -> Tensor:
    """std/mean of the L2 norms of the rows (biased std): (..., m, n) -> (...); 0 for a zero matrix."""
    norms = X.norm(dim=-1)  # (..., m)
    mean = norms.mean(-1)
    return torch.where(mean == 0, 0.0, norms.std(-1, correction=0) / mean)


def col_norm_cv(X: Tensor) -> Tensor:
    """std/mean of the L2 norms of the columns (biased std): (..., m, n) -> (...); 0 for a zero matrix."""
    return row_norm_cv(X.mT)


def rms(X: Tensor) -> Tensor:
    """||X||_F / sqrt(m n): (..., m, n) -> (...)."""
    return X.square().mean(dim=(-2, -1)).sqrt()


def cosine(X: Tensor, Y: Tensor) -> Tensor:
    """<X, Y> / (||X||_F ||Y||_F): two (..., m, n) -> (...); 0 if either is zero."""
    lengths = X.norm(dim=(-2, -1)) * Y.norm(dim=(-2, -1))
    return torch.where(lengths == 0, 0.0, (X * Y).sum(dim=(-2, -1)) / lengths)


class SpectrumValues(TypedDict):
    """What :func:`update_spectrum` returns; see there."""

    singular_values: NDArray[np.float64]
    condition_number: float
    stable_rank: float
    effective_rank: float
    row_norm_cv: float
    col_norm_cv: float
    rms: float
    cosine_to_gradient: float


def update_spectrum(U: Tensor | NDArray[Any], G: Tensor | NDArray[Any] | None = None) -> SpectrumValues:
    """All measures of one update matrix, computed in float64 on the CPU.

    Args:
        U: applied direction (m, n), tensor or array, before learning rate and weight decay
            (:class:`UpdateSpectrum` extracts it).
        G: gradient (m, n) for the cosine; None gives cosine 0.

    Returns:
        A dict: ``singular_values``, a float64 numpy array (min(m, n),), descending, divided by their root mean square
        (zeros for a zero matrix); ``condition_number``, ``stable_rank``, ``effective_rank``, ``row_norm_cv``,
        ``col_norm_cv``, ``rms``, ``cosine_to_gradient`` as Python floats.

    Raises:
        ValueError: U is not 2-D, is empty or complex, or G has another shape.

    Example:
        >>> values = update_spectrum(torch.diag(torch.tensor([3.0, 1.0])))
        >>> values["condition_number"], round(values["stable_rank"], 3)
        (3.0, 1.111)
    """
    U = torch.as_tensor(U)
    G = None if G is None else torch.as_tensor(G)
    if U.ndim != 2 or U.numel() == 0 or U.is_complex():
        raise ValueError(
            f"U must be a real matrix (m, n) with entries, got {U.dtype} of shape {tuple(U.shape)}."
        )
    if G is not None and G.shape != U.shape:
        raise ValueError(f"G must have U's shape {tuple(U.shape)}, got {tuple(G.shape)}.")
    U = U.detach().to("cpu", torch.float64)
    s = singular_values(U)
    scale = s.square().mean().sqrt()
    return {
        "singular_values": torch.where(scale == 0, 0.0, s / scale).numpy(),
        "condition_number": float(condition_number(s)),
        "stable_rank": float(stable_rank(s)),
        "effective_rank": float(effective_rank(s)),
        "row_norm_cv": float(row_norm_cv(U)),
        "col_norm_cv": float(col_norm_cv(U)),
        "rms": float(rms(U)),
        "cosine_to_gradient": 0.0 if G is None else float(cosine(U, G.detach().to("cpu", torch.float64))),
    }


# ----------------------------------------------------------------------------------- optimizers, by their hooks


def optimizer_state_bytes(optimizer: Optimizer, params: Iterable[Tensor] | None = None) -> int:
    """Bytes of memory that the optimizer's state holds.

    Counted are the storages behind all state tensors, each once: a view of a large tensor costs what it keeps alive.

    Args:
        optimizer: any ``torch.optim.Optimizer``; state appears with its first step.
        params: only the state of these parameters (default: of all).
    """
    chosen = list(optimizer.state) if params is None else [p for p in params if p in optimizer.state]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for p in chosen
        for tensor in _tensors_in(optimizer.state[p])
    }
    return sum(storages.values())


def _tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [tensor for part in value for tensor in _tensors_in(part)] if isinstance(value, list | tuple) else []
    )


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
        badly conditioned U drown in it.
        """
        before, after = (W.to("cpu", torch.float64) for W in (self.before, self.after))
        if self.rate == 0:
            return torch.zeros_like(before)
        moved = self.decay * before - after if self.order == "before" else before - after / self.decay
        return moved / self.rate

    def spectrum(self) -> SpectrumValues:
        """:func:`update_spectrum` of the direction and the gradient."""
        return update_spectrum(self.update, self.gradient)


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
            self._before = {name: as_matrix(p.detach()).clone() for name, p in self.params.items()}

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
                after=as_matrix(p.detach()).clone(),
                gradient=None if p.grad is None else as_matrix(p.grad.detach()).clone(),
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
