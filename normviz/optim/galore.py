"""GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, the baseline of Fira.

Zhao, Zhang, Chen, Wang, Anandkumar, Tian, arXiv 2403.03507 (2024). Followed: `galore_adamw.py` and
`galore_rmsprop.py` as released with Fira (arXiv 2410.01623). Departures from that code: the side that was projected
is kept, not guessed again from the low-rank shape (the guess fails for "reverse_std" with m < n and rank m); a rank
above min(m, n) is clipped; parameters with more than two axes are read as (out, rest); RMSProp takes no weight
decay, which the released code accepts and ignores.

W, G are (m, n); r = rank; T = update_proj_gap; t counts steps from 0.

    paper                                        code
    every T steps: G = U S V^T, P = U_r or       ProjectedOptimizer.refresh, singular_basis; `basis`
      V_r^T on the short side
    R = P^T G (r, n)  or  G P^T (m, r)           project
    N = Adam or RMSProp direction of R           AdamRule.rule, RMSPropRule.rule
    W <- W - eta alpha P N  (or N P)             LowRankOptimizer.direction, ProjectedOptimizer.apply

Moments are neither rotated nor reset when the basis changes, so a trajectory depends on the signs that the SVD
happens to give the singular vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from normviz.optim._each import Each
from normviz.optim._matrix import MatrixBatch, as_matrix, at_least_float32, matrix_shape
from normviz.optim._projected import (
    PROJ_TYPES,
    AdamRule,
    Basis,
    ProjectedOptimizer,
    SingularProjector,
    Slots,
    add_each,
    project,
    project_back,
    project_each,
    projection_side,
    stacked,
    unstacked,
)
from normviz.optim._steps import Group
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "GaLoreAdamW",
    "GaLoreRMSProp",
    "LowRankOptimizer",
    "LowRankProjector",
    "RMSPropRule",
    "check_low_rank",
]


def check_low_rank(rank: object, update_proj_gap: object, alpha: object, proj_type: object) -> None:
    """Raise ValueError if an option of a low-rank projection is out of range."""
    check_integer("rank", rank, 1)
    check_integer("update_proj_gap", update_proj_gap, 1)
    check_real("alpha", alpha, 0.0, low_open=True, high_open=True)
    check_choice("proj_type", proj_type, PROJ_TYPES)


def _warn_if_clipped(rank: int, shape: tuple[int, int], owner: str) -> None:
    if rank > min(shape):
        warnings.warn(
            f"rank {rank} is more than min(m, n) = {min(shape)} of {owner} with shape {shape}; {min(shape)} is used.",
            UserWarning,
            stacklevel=3,
        )


class LowRankProjector(SingularProjector):
    """Projection of one matrix gradient on its r leading singular directions, and back.

    Args:
        rank: r, number of directions; more than min(m, n) is clipped with a warning.
        update_proj_gap: T, steps between two SVDs. Default 200: the authors' 60M script.
        alpha: factor of :meth:`project_back`. Default 1.0: the released projector (launch scripts: 0.25).
        proj_type: "std" (short side), "reverse_std" (long side), "left" (U_r), "right" (V_r) or "full" (both).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import torch
        >>> G = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> projector = LowRankProjector(rank=2)
        >>> R = projector.project(G, step=0)
        >>> tuple(R.shape), int(torch.linalg.matrix_rank(projector.project_back(R)))
        ((6, 2), 2)

    Reference: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv
        2403.03507; equations in the module's docstring.
    """

    def __init__(
        self, rank: int, update_proj_gap: int = 200, alpha: float = 1.0, proj_type: str = "std"
    ) -> None:
        check_low_rank(rank, update_proj_gap, alpha, proj_type)
        super().__init__(update_proj_gap, proj_type, rank)
        self.alpha = alpha

    def project(self, G: Tensor, step: int) -> Tensor:
        """R of G (m, n), after recomputing the basis from G if ``step`` mod T is 0 or there is none.

        Args:
            G: the current gradient, (m, n).
            step: steps done before this one (0 at the first).

        Returns:
            (r, n) on the left, (m, r) on the right, (r, r) for "full".

        Raises:
            ValueError: G is no matrix, or ``step`` no integer >= 0.
            RuntimeError: G holds nan or inf when the basis is due.
        """
        first = self.last_refresh is None
        self._refresh("G", G, step)
        if first:
            _warn_if_clipped(cast(int, self.rank), matrix_shape(G), "a matrix")
        return project(G, *self._current())

    def project_back(self, R: Tensor, alpha: float | None = None) -> Tensor:
        """alpha times U_r R, R V_r^T or U_r R V_r^T; (m, n).

        Args:
            R: what :meth:`project` returned, or anything of that shape.
            alpha: factor; None: the projector's own.

        Raises:
            RuntimeError: there is no basis yet.
        """
        return (self.alpha if alpha is None else alpha) * project_back(R, *self._current())


class LowRankOptimizer(ProjectedOptimizer):
    """Base of GaLore and Fira: a group with the key ``rank`` steps in the gradient's leading singular directions."""

    marker: ClassVar[str] = "rank"
    builder: ClassVar[str] = "fira_param_groups"
    group_defaults: ClassVar[Mapping[str, Any]] = {"update_proj_gap": 200, "alpha": 1.0, "proj_type": "std"}

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Adds the checks of a projected group's options."""
        super().check_group(group)
        if self.is_projected(group):
            check_low_rank(group["rank"], group["update_proj_gap"], group["alpha"], group["proj_type"])

    def add_param_group(self, param_group: Group) -> None:
        """Check and add a group; warn once for each parameter whose min(m, n) is below the rank."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if self.is_projected(group):
            for index, p in enumerate(group["params"]):
                _warn_if_clipped(group["rank"], matrix_shape(p), f"parameter {index}")

    def renew_bases(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """The leading singular vectors of the gradients."""
        side = projection_side(group["proj_type"], *matrix_shape(batch.params[0]))
        if self.basis_due(group, slots, side, t):
            grads = [at_least_float32(as_matrix(g)) for g in batch.grads]
            self.refresh(group, slots, grads, side, t, group["rank"])

    def projected_step(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """One step of equal-shaped matrices in the leading singular directions of their gradients."""
        grads = [at_least_float32(as_matrix(g)) for g in batch.grads]
        side = projection_side(group["proj_type"], *grads[0].shape)
        G, basis = stacked(grads), self.bases(slots, side)  # (k, m, n)
        R = project(G, side, basis)  # (k, r, n), (k, m, r) or (k, r, r)
        N = stacked(self.rule(group, slots, unstacked(R)))
        D, scale = self.direction(group, slots, G, R, N, side, basis)  # (k, m, n)
        self.apply(group, slots, unstacked(D), t + 1, scale)

    def step_each(self, group: Group, slots: Slots, each: Each, t: int) -> None:
        """The same for matrices of any shapes, one by one."""
        R = project_each(each, each.grads)
        N = self.rule(group, slots, R)
        self.add_directions(group, slots, each, R, N, -self.step_size(group, t + 1))
        self.finish(group, slots, t + 1)

    def add_directions(
        self,
        group: Group,
        slots: Slots,  # noqa: ARG002
        each: Each,
        R: Sequence[Tensor],  # noqa: ARG002
        N: Sequence[Tensor],
        factor: float,
    ) -> None:
        """W <- W + factor D for every matrix, with D as in :meth:`direction`."""
        add_each(each, N, factor * group["alpha"])

    def direction(
        self,
        group: Group,
        slots: Slots,  # noqa: ARG002
        G: Tensor,  # noqa: ARG002
        R: Tensor,  # noqa: ARG002
        N: Tensor,
        side: str,
        basis: Basis,
    ) -> tuple[Tensor, float]:
        """P N (k, m, n) and its factor alpha: nothing outside the subspace."""
        return project_back(N, side, basis), float(group["alpha"])


class RMSPropRule(ProjectedOptimizer):
    """RMSProp as the elementwise rule, without bias correction and without weight decay:

    v <- b v + (1 - b) R^2 ;  N = R/(sqrt(v) + eps) ;  eta = lr ;
    centred: a <- b a + (1 - b) R, and max(v - a^2, 0) in place of v in N ;
    momentum mu > 0: buf <- mu buf + N, and buf is the new N.
    """

    fallback: ClassVar[str] = "RMSProp"

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Adds the checks of ``beta`` and ``momentum``, and refuses weight decay."""
        super().check_group(group)
        check_real("beta", group["beta"], 0.0, 1.0, high_open=True)
        check_real("momentum", group["momentum"], 0.0, high_open=True)
        if group.get("weight_decay", 0.0) > 0:
            raise ValueError(f"weight_decay must be 0 for RMSProp, got {group['weight_decay']!r}.")

    def rule(self, group: Group, slots: Slots, R: Sequence[Tensor]) -> list[Tensor]:
        """N of RMSProp, with the momentum in it."""
        beta, momentum = group["beta"], group["momentum"]
        v = self.average_square("square_avg", slots, R, beta)
        if group["centered"]:
            a = self.average("grad_avg", slots, R, beta)
            v = list(torch._foreach_addcmul(v, a, a, value=-1))
            torch._foreach_clamp_min_(v, 0.0)  # v - a^2 is a variance, but rounding can push it below 0
        denominator = torch._foreach_sqrt(v)
        torch._foreach_add_(denominator, group["eps"])
        N = list(torch._foreach_div(list(R), denominator))
        if momentum > 0:
            buffers = self.stored("momentum_buffer", slots, N)
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, N)
            self.store("momentum_buffer", slots, buffers)
            N = buffers
        return N

    def step_size(self, group: Group, t: int) -> float:  # noqa: ARG002
        """The learning rate."""
        return float(group["lr"])


class GaLoreAdamW(AdamRule, LowRankOptimizer):
    """Adam with moments of the r leading coordinates of the gradient; what lies outside them is thrown away.

    A group with the key ``rank`` is projected; it may carry ``update_proj_gap`` (200), ``alpha`` (1.0) and
    ``proj_type`` ("std"), see :class:`LowRankProjector`. A group without ``rank`` is plain Adam. Both add eps
    before the bias correction and apply the decay after the step. ``fira_param_groups`` builds the groups.

    Args:
        params: parameters or groups.
        lr: learning rate. Default 1e-3: the released class (runs: 0.01).
        betas: decay of the moments. Default (0.9, 0.999): the released class.
        eps: added to sqrt(v). Default 1e-6: the released class.
        weight_decay: decoupled, on the updated weight. Default 0.0: the released class.
        correct_bias: eta = lr sqrt(1-b2^t)/(1-b1^t) instead of lr. Default True: the released class.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    State per projected matrix: ``step`` (int), ``exp_avg`` and ``exp_avg_sq`` in the low-rank shape, ``basis``
    (``basis_left`` and ``basis_right`` for "full"): 2 r max(m, n) + r min(m, n) numbers for "std", Adam has 2 m n.

    Raises:
        ValueError: an option out of range, or a projected group with a parameter of fewer than two axes.

    Warns:
        UserWarning: once for each parameter with min(m, n) < rank, which is clipped; two or more matrices and no group
            with the key ``rank``, which is no GaLore.

    Example:
        >>> import torch
        >>> W = torch.nn.Parameter(torch.eye(4, 3))
        >>> optimizer = GaLoreAdamW([{"params": [W], "rank": 2, "update_proj_gap": 50, "alpha": 0.25}], lr=0.01)
        >>> W.square().sum().backward()
        >>> optimizer.step()
        >>> tuple(optimizer.state[W]["exp_avg"].shape)
        (4, 2)

    Reference: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv
        2403.03507; equations in the module's docstring.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
            "maximize": maximize,
        }
        super().__init__(params, defaults)


class GaLoreRMSProp(RMSPropRule, LowRankOptimizer):
    """RMSProp on the r leading coordinates of the gradient; groups as in :class:`GaLoreAdamW`, no weight decay.

    Args:
        params: parameters or groups.
        lr: learning rate. Default 1e-3: the released class.
        beta: decay of the averages. Default 0.9: the released class.
        eps: added to sqrt(v). Default 1e-6: the released class.
        momentum: mu; 0 turns it off. Default 0.0: the released class.
        centered: divide by the standard deviation instead of the root mean square. Default False.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    State per projected matrix: ``step`` (int), ``square_avg``, with the options ``grad_avg`` and
    ``momentum_buffer``, all in the low-rank shape, and ``basis``.

    Raises:
        ValueError: an option out of range, weight decay, or a projected parameter of fewer than two axes.

    Warns:
        UserWarning: once for each parameter with min(m, n) < rank, which is clipped; two or more matrices and no group
            with the key ``rank``, which is no GaLore.

    Reference: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv
        2403.03507, RMSProp form released with Fira, arXiv 2410.01623; equations in the module's docstring.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float = 0.9,
        eps: float = 1e-6,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta": beta,
            "eps": eps,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
