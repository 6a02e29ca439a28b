r"""Schedules that give an un-projected network the steps of a projected one, and the other way round.

Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv 2407.01800; see
:mod:`normviz.norms.nap` for the paper. rho_l is the norm of weight tensor W_l at construction, eta the base rate, p = 2
for SGD and 1 for Adam.

    layerwise   lr_l = eta (||W_l|| / rho_l)^p                                   MatchedEffectiveLR
    global      lr   = eta (sum_l ||W_l||^2 / sum_l rho_l^2)^(p/2)               MatchedEffectiveLR
    replay      lr_l(t) = recorded[t][l], e.g. eta (rho_l / ||W_l(t)||)^p        ImplicitScheduleReplay

For layers followed by a norm (eps = 0) and plain SGD the layer-wise rule and the replay are exact: the same function at
every step. For Adam they are approximate; the global rule is approximate always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.module_roles import check_finite, frobenius_norms, initial_radii, projected_weights
from normviz.validation import check_choice, check_real, nearest

__all__ = ["ImplicitScheduleReplay", "MatchedEffectiveLR", "per_tensor_groups"]

_POWER = {"sgd": 2, "adam": 1}


def per_tensor_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """One parameter group per trainable parameter, so that each can have its own learning rate.

    Args:
        model: any module.
        lr: learning rate of all groups, >= 0.

    Returns:
        ``[{"params": [p], "lr": lr, "name": qualified name}, …]``, for any optimizer.

    Raises:
        ValueError: ``lr`` is negative or not finite.

    Example:
        >>> [group["name"] for group in per_tensor_groups(nn.Linear(3, 2), lr=0.1)]
        ['weight', 'bias']
    """
    check_real("lr", lr, 0, high_open=True)
    return [{"params": [p], "lr": lr, "name": n} for n, p in model.named_parameters() if p.requires_grad]


class MatchedEffectiveLR(LRScheduler):
    """Raise the learning rate with the weight norm, so that the effective rate stays: NaP without projection.

    Applies to the tensors that :class:`normviz.norms.NormProjector` would project in the same model; every other group
    keeps its base rate. Call ``step()`` after each ``optimizer.step()``.

    Args:
        optimizer: over the model's parameters.
        model: the network, with the weights that define rho.
        mode: "layerwise" (default), each tensor by its own norm, or "global", all by their joint norm.
        kind: "sgd" (default, p = 2) or "adam" (p = 1).
        project_output: count the output layer among the tensors. Default False, as in NormProjector.

    Raises:
        ValueError: unknown mode or kind; "layerwise": a group holds such a tensor and another parameter (see
            :func:`per_tensor_groups`); "global": a group mixes such tensors and others.
        FloatingPointError: a norm is not finite.

    A tensor that is zero at construction is left out with a UserWarning. The state dict holds the radii; loading one
    whose radii have other names raises a RuntimeError.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(per_tensor_groups(model, lr=0.1))
        >>> scheduler = MatchedEffectiveLR(optimizer, model)
        >>> _ = model[0].weight.data.mul_(2)
        >>> optimizer.step(), scheduler.step()
        (None, None)
        >>> [round(lr, 4) for lr in scheduler.get_last_lr()]
        [0.4, 0.1, 0.1, 0.1, 0.1]

    Reference: Lyle et al. 2024 (NaP), arXiv 2407.01800: the effective learning rate of a scale-invariant layer, and
    the paper's comparison of layer-wise with global rescaling; the equations ``layerwise`` and ``global`` of
    :mod:`normviz.schedules.effective_lr`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        mode: str = "layerwise",
        kind: str = "sgd",
        project_output: bool = False,
    ) -> None:
        self.mode = check_choice("mode", mode, ("layerwise", "global"))
        self.kind = check_choice("kind", kind, _POWER)
        weights = projected_weights(model, project_output)
        self.radii = initial_radii({name: (weight,) for name, weight in weights.items()})
        self._weights = {name: (weights[name],) for name in self.radii}
        names: dict[Tensor, str] = {weights[name]: name for name in self.radii}
        self._names: list[str | None] = [
            _group_weight(group["params"], names, mode) for group in optimizer.param_groups
        ]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates by the present norms, one per group."""
        norms = frobenius_norms(self._weights)
        check_finite(norms)
        if self.mode == "global" and norms:
            ratio = math.hypot(*norms.values()) / math.hypot(*self.radii.values())
            ratios = dict.fromkeys(norms, ratio)
        else:
            ratios = {name: norm / self.radii[name] for name, norm in norms.items()}
        power = _POWER[self.kind]
        return [
            base if name is None else base * ratios[name] ** power
            for base, name in zip(self.base_lrs, self._names, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and the weights, as plain numbers."""
        return {
            key: value for key, value in super().state_dict().items() if key not in ("_weights", "_names")
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take radii and step counts from :meth:`state_dict`.

        Raises:
            RuntimeError: the radii are missing or have other names than here; nothing was changed.
        """
        radii = state_dict.get("radii")
        if not isinstance(radii, Mapping) or radii.keys() != self.radii.keys():
            given = sorted(radii) if isinstance(radii, Mapping) else radii
            raise RuntimeError(f"state_dict must have radii of {sorted(self.radii)}, got {given}.")
        super().load_state_dict({**state_dict, "radii": dict(radii)})


def _group_weight(params: Sequence[Tensor], names: Mapping[Tensor, str], mode: str) -> str | None:
    """The name of a weight in the group, None if there is none; checks what else the group holds."""
    found = [names[p] for p in params if p in names]
    if not found:
        return None
    if len(found) < len(params):
        raise ValueError(
            f"the optimizer's group of {found[0]} also holds parameters that are not projected; "
            "build it from per_tensor_groups(model, lr)."
        )
    if mode == "layerwise" and len(found) > 1:
        raise ValueError(
            f"mode='layerwise' needs one group per tensor, got {found[0]} and {found[1]} in one; "
            "build the optimizer from per_tensor_groups(model, lr)."
        )
    return found[0]


class ImplicitScheduleReplay(LRScheduler):
    """Play back learning rates that were recorded per tensor, e.g. the effective ones of an un-projected run.

    Record in the un-projected run BEFORE each step ``effective_learning_rate(lr, ||W||, kind, reference=rho)`` for each
    weight that NormProjector projects; replayed with projection they reproduce that run (exactly for SGD, eps = 0).

    Args:
        optimizer: with groups that have a "name" (see :func:`per_tensor_groups`).
        recorded: one ``{group name: lr}`` per step; ``recorded[0]`` is set at construction, for the first step. Groups
            that an entry does not name have their base rate. Past the end the last entry stays.

    Raises:
        ValueError: ``recorded`` is empty, names a group that the optimizer does not have, or holds a rate that is
            negative or not finite.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD(per_tensor_groups(nn.Linear(3, 2), lr=0.1))
        >>> scheduler = ImplicitScheduleReplay(optimizer, [{"weight": 0.1}, {"weight": 0.05}])
        >>> optimizer.step(), scheduler.step()
        (None, None)
        >>> scheduler.get_last_lr()
        [0.05, 0.1]

    Reference: Lyle et al. 2024 (NaP), arXiv 2407.01800: the schedule that an un-projected run follows without being
    told, played back; the equation ``replay`` of :mod:`normviz.schedules.effective_lr`.
    """

    def __init__(self, optimizer: Optimizer, recorded: Sequence[Mapping[str, float | Tensor]]) -> None:
        if len(recorded) == 0:
            raise ValueError("recorded must have at least one entry, got none.")
        known = {str(group["name"]) for group in optimizer.param_groups if "name" in group}
        for step, entry in enumerate(recorded):
            for name in entry:
                if name not in known:
                    raise ValueError(
                        f"recorded[{step}] names {name!r}, which no group of the optimizer is called; "
                        f"nearest: {nearest(name, known)}."
                    )
        self.recorded: list[dict[str, float]] = [
            {
                name: check_real(f"recorded[{step}][{name!r}]", float(lr), 0, high_open=True)
                for name, lr in entry.items()
            }
            for step, entry in enumerate(recorded)
        ]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The recorded rates of this step, or the base rates of groups that are not named."""
        entry = self.recorded[min(self.last_epoch, len(self.recorded) - 1)]
        groups = zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        return [entry.get(group.get("name", ""), base) for group, base in groups]
