"""Conda: Column-Normalized Adam for Training Large Language Models Faster.

Wang, Zhou, Dong, Li, Li, Zhou, Lao, Fang, Lin, arXiv 2509.24218 (2025). Followed: the authors' released optimizer,
which has no departure from the paper known to us, apart from three things that it cannot do: projection types other
than "std" on non-square matrices (its second moment has W's shape; ours has the shape of the projected gradient),
parameters with more than two axes (ours reads them as (out, rest)), and a non-finite momentum (ours raises).

Muon replaces the momentum M = U S V^T by U V^T: in the basis U it divides by ONE diagonal S for all columns. Conda
keeps the rotation and gives every column its own diagonal, an Adam second moment of the rotated gradient.

W, G are (m, n); t counts steps from 0; T = update_proj_gap.

    paper                                       code
    M <- b1 M + (1-b1) G                        Conda.projected_step, `exp_avg`
    every T steps: M = U S V^T, basis on the    ProjectedOptimizer.refresh, singular_basis; `basis`
      short side (U for m < n, else V)
    G' = U^T G, M' = U^T M  (or G V, M V)       project
    V <- b2 V + (1-b2) G'^2  (elementwise)      AdamRule.divisor, `exp_avg_sq`
    D = scale * U M'/(sqrt(V) + eps)            project_back
    W <- W - eta D, then W <- W - lr wd W       ProjectedOptimizer.apply, AdamRule.step_size

The basis is square and orthogonal on the short side, so "std" discards nothing. V is neither rotated nor reset when
the basis changes. Signs of singular vectors do not matter: V is even in them, and they cancel in D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from normviz.optim._each import Each
from normviz.optim._matrix import MatrixBatch, as_matrix, at_least_float32, matrix_shape
from normviz.optim._projected import (
    PROJ_TYPES,
    AdamRule,
    SingularProjector,
    Slots,
    add_each,
    linear_weight_groups,
    project,
    project_back,
    project_each,
    projection_side,
    stacked,
    unstacked,
)
from normviz.optim._steps import Group
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["Conda", "OrthogonalProjector", "conda_param_groups"]


def _check_projection(update_proj_gap: object, scale: object, proj_type: object) -> None:
    check_integer("update_proj_gap", update_proj_gap, 1)
    check_real("scale", scale, 0.0, low_open=True, high_open=True)
    check_choice("proj_type", proj_type, PROJ_TYPES)


class OrthogonalProjector(SingularProjector):
    """The rotation of Conda for one matrix: into the singular basis of the momentum and back.

    Args:
        update_proj_gap: T, steps between two SVDs. Default 2000: the authors' launch scripts.
        scale: factor of :meth:`project_back`. Default 0.25: the authors' launch scripts (their class says 1.0).
        proj_type: "std" (short side, the method), "reverse_std" (long side), "left" (U), "right" (V) or "full"
            (both). The bases are thin, min(m, n) vectors: on the long side and in "full" of a non-square matrix
            the part of a gradient outside the momentum's row or column space is lost.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import torch
        >>> G = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        >>> projector = OrthogonalProjector(scale=1.0)
        >>> projector.refresh(G, step=0), projector.refresh(G, step=1)
        (True, False)
        >>> torch.allclose(projector.project_back(projector.project(G)), G, atol=1e-6)
        True

    Reference: Wang et al., "Conda: Column-Normalized Adam for Training Large Language Models Faster", arXiv
        2509.24218; equations in the module's docstring.
    """

    def __init__(self, update_proj_gap: int = 2000, scale: float = 0.25, proj_type: str = "std") -> None:
        _check_projection(update_proj_gap, scale, proj_type)
        super().__init__(update_proj_gap, proj_type)
        self.scale = scale

    def refresh(self, M: Tensor, step: int) -> bool:
        """Take the singular basis of M if ``step`` mod T is 0 or there is no basis yet.

        Args:
            M: the momentum, already updated with this step's gradient; (m, n).
            step: steps done before this one (0 at the first).

        Returns:
            Whether the SVD was computed.

        Raises:
            ValueError: M is no matrix, or ``step`` no integer >= 0.
            RuntimeError: M holds nan or inf.
        """
        return self._refresh("M", M, step)

    def project(self, X: Tensor) -> Tensor:
        """U^T X, X V or U^T X V of X (m, n).

        Raises:
            RuntimeError: there is no basis yet.
        """
        return project(X, *self._current())

    def project_back(self, N: Tensor) -> Tensor:
        """scale times U N, N V^T or U N V^T; (m, n).

        Raises:
            RuntimeError: there is no basis yet.
        """
        return self.scale * project_back(N, *self._current())


class Conda(AdamRule):
    """Adam in the singular basis of the momentum, for matrices; plain Adam for everything else.

    A group with the key ``update_proj_gap`` is projected; it may carry ``scale`` (default 0.25) and ``proj_type``
    (default "std"), see :class:`OrthogonalProjector`. A group without it, or with None, is Adam with scale 1. Both
    add eps before the bias correction and apply the decay after the step. Parameters with more than two axes are
    read as (out, rest). :func:`conda_param_groups` builds the groups.

    Args:
        params: parameters or groups.
        lr: learning rate. Default 1e-3: the authors' class (their runs: 0.01 for LLaMA, 0.006 for GPT-2 125M).
        betas: decay of M and V. Default (0.9, 0.999): the authors' class (their runs: (0.9, 0.99)).
        eps: added to sqrt(V). Default 1e-8: the authors' class.
        weight_decay: decoupled, on the updated weight. Default 0.0: the authors' class.
        correct_bias: eta = lr sqrt(1-b2^t)/(1-b1^t) instead of lr. Default True: the authors' class.
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    State per projected matrix: ``step`` (int), ``exp_avg`` (m, n), ``exp_avg_sq`` (shape of the projected
    gradient), ``basis`` (``basis_left`` and ``basis_right`` for "full").

    A zero first gradient gives an arbitrary basis and a zero update; the basis stays until the next refresh.

    Raises:
        ValueError: an option out of range, or a projected group with a parameter of fewer than two axes.

    Warns:
        UserWarning: two or more matrices and no group with the key ``update_proj_gap``: the steps are plain Adam.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> optimizer = Conda(conda_param_groups(model, targets=None, update_proj_gap=20), lr=0.01)
        >>> model(torch.ones(3, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> tuple(optimizer.state[model[0].weight]["basis"].shape)
        (4, 4)

    Reference: Wang et al., "Conda: Column-Normalized Adam for Training Large Language Models Faster", arXiv
        2509.24218; equations in the module's docstring.
    """

    marker: ClassVar[str] = "update_proj_gap"
    builder: ClassVar[str] = "conda_param_groups"
    group_defaults: ClassVar[Mapping[str, Any]] = {"scale": 0.25, "proj_type": "std"}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
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

    def is_projected(self, group: Mapping[str, Any]) -> bool:
        """Whether ``group`` has an ``update_proj_gap`` that is not None."""
        return group.get("update_proj_gap") is not None

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Adds the checks of a projected group's options."""
        super().check_group(group)
        if self.is_projected(group):
            _check_projection(group["update_proj_gap"], group["scale"], group["proj_type"])

    def renew_bases(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """The singular vectors of the momentum, as it will be with this step's gradient."""
        m, n = matrix_shape(batch.params[0])
        side = projection_side(group["proj_type"], m, n)
        if self.basis_due(group, slots, side, t):
            grads = [at_least_float32(as_matrix(g)) for g in batch.grads]
            # The momentum is computed apart: if it has no basis, nothing has changed.
            ahead = torch._foreach_lerp(self.stored("exp_avg", slots, grads), grads, 1 - group["betas"][0])
            self.refresh(group, slots, ahead, side, t)

    def projected_step(self, group: Group, batch: MatrixBatch, slots: Slots, t: int) -> None:
        """One step of equal-shaped matrices in the basis of their momentum."""
        grads = [at_least_float32(as_matrix(g)) for g in batch.grads]
        beta1, _ = group["betas"]
        side = projection_side(group["proj_type"], *grads[0].shape)
        M = self.average("exp_avg", slots, grads, beta1)
        basis = self.bases(slots, side)

        N, Gp = project(stacked(M), side, basis), project(stacked(grads), side, basis)  # (k, m, n)
        torch._foreach_div_(unstacked(N), self.divisor(group, slots, unstacked(Gp)))
        D = project_back(N, side, basis)  # (k, m, n)
        self.apply(group, slots, unstacked(D), t + 1, group["scale"])

    def step_each(self, group: Group, slots: Slots, each: Each, t: int) -> None:
        """The same for matrices of any shapes, one by one."""
        beta1, beta2 = group["betas"]
        M = self.average("exp_avg", slots, each.grads, beta1)
        N = project_each(each, M)
        Gp = project_each(each, each.grads)
        torch._foreach_mul_(Gp, Gp)
        for root, v in zip(Gp, self.average("exp_avg_sq", slots, Gp, beta2), strict=True):
            torch.sqrt(v, out=root)
        torch._foreach_add_(Gp, group["eps"])
        torch._foreach_div_(N, Gp)
        add_each(each, N, -self.step_size(group, t + 1) * group["scale"])
        self.finish(group, slots, t + 1)


def conda_param_groups(
    model: nn.Module,
    targets: Iterable[str] | None = ("attn", "mlp"),
    update_proj_gap: int = 2000,
    scale: float = 0.25,
    proj_type: str = "std",
) -> list[Group]:
    """The groups of the authors' runs: attention and MLP weights projected, everything else plain Adam.

    Args:
        model: any module; frozen parameters are in neither group.
        targets: an nn.Linear weight is projected if its module name contains one of these words. Default
            ("attn", "mlp"): the authors' scripts. None: every nn.Linear weight except the last one's, which works
            on any model.
        update_proj_gap: T. Default 2000: the authors' scripts. A run shorter than T sees one SVD only, of the
            first gradient; 20 to 50 suits a few hundred steps.
        scale: factor of the projected update. Default 0.25: the authors' scripts.
        proj_type: see :class:`OrthogonalProjector`.

    Returns:
        [projected group, plain group]; only the plain group if no weight is chosen (:class:`Conda` then warns).

    Raises:
        ValueError: an argument out of range, or ``targets`` a single string.
    """
    _check_projection(update_proj_gap, scale, proj_type)
    options = {"update_proj_gap": update_proj_gap, "scale": scale, "proj_type": proj_type}
    return linear_weight_groups(model, targets, options)
