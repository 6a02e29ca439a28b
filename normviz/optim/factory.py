"""Optimizers by name, for any model: ``create_optimizer("SWAN", model)``.

Every class keeps the defaults of its paper or its released code, which are for long runs of large models. What is built
here starts at a learning rate that trains a small network within a hundred steps, and treats as matrices what the model
has, whatever its layers are called.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from normviz.catalog import Method
from normviz.optim._steps import Group
from normviz.optim.adagrad_norm import AdaGradNorm
from normviz.optim.conda import Conda, conda_param_groups
from normviz.optim.distributed_normuon import DistributedNorMuon
from normviz.optim.fira import FiraAdamW, FiraRMSProp, fira_param_groups
from normviz.optim.galore import GaLoreAdamW, GaLoreRMSProp
from normviz.optim.multinorm import MultiNormGD, SinkGD
from normviz.optim.muon import Muon
from normviz.optim.normuon import NorMuon
from normviz.optim.param_groups import split_matrix_params
from normviz.optim.soap import SOAP
from normviz.optim.swan import SWAN, SWANFast
from normviz.validation import check_choice, nearest

__all__ = ["OPTIMIZER_NAMES", "create_optimizer", "list_optimizers"]

GALORE = "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, arXiv 2403.03507"
SHAMPOO = "SOAP: Improving and Stabilizing Shampoo using Adam, arXiv 2409.11321"
MUON = "Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; see arXiv 2502.16982"


def _all_parameters(model: nn.Module) -> list[Group]:
    return [{"params": [p for p in model.parameters() if p.requires_grad]}]


def _matrices(model: nn.Module, exclude: Iterable[str] = ("embed", "head")) -> list[Group]:
    """The matrices alone; a warning names the parameters that no step will move."""
    matrices, rest = split_matrix_params(model, exclude)
    left = {id(p) for p in rest["params"]}
    names = [name for name, p in model.named_parameters() if id(p) in left]
    if names:
        warnings.warn(
            f"model has {len(names)} parameters that an optimizer for matrices alone never moves ({names[0]}, …): give "
            "the second group of split_matrix_params(model) to another optimizer, or choose NorMuon or SinkGD, which "
            "move all.",
            UserWarning,
            stacklevel=3,
        )
    return [matrices]


def _by_name(
    build: Callable[..., list[Group]], model: nn.Module, targets: Iterable[str] | None, **options: Any
) -> list[Group]:
    """The groups for ``targets``; for "auto" the paper's words, or None if the model has no such name."""
    if targets != "auto":
        return build(model, targets, **options)
    groups = build(model, **options)
    return groups if len(groups) > 1 else build(model, None, **options)


def _conda(
    model: nn.Module,
    targets: Iterable[str] | None = "auto",
    update_proj_gap: int = 50,
    scale: float = 0.25,
    proj_type: str = "std",
) -> list[Group]:
    return _by_name(
        conda_param_groups, model, targets, update_proj_gap=update_proj_gap, scale=scale, proj_type=proj_type
    )


def _fira(
    model: nn.Module,
    targets: Iterable[str] | None = "auto",
    rank: int = 8,
    update_proj_gap: int = 50,
    alpha: float = 0.25,
    proj_type: str = "std",
) -> list[Group]:
    return _by_name(
        fira_param_groups,
        model,
        targets,
        rank=rank,
        update_proj_gap=update_proj_gap,
        alpha=alpha,
        proj_type=proj_type,
    )


@dataclass(frozen=True)
class _Recipe:
    """How an optimizer is built for a model.

    Attributes:
        build: its class.
        groups: makes its groups of a model.
        lr: the learning rate to start with.
        summary: one line.
        reference: its paper, where the catalog does not have it.
    """

    build: Callable[..., Optimizer]
    groups: Callable[..., list[Group]]
    lr: float
    summary: str
    reference: str = ""


_RECIPES: dict[str, _Recipe] = {
    "AdaGradNorm": _Recipe(
        AdaGradNorm, _all_parameters, 1.0, "AdaGrad with one step size for all parameters together"
    ),
    "MultiNormGD": _Recipe(
        MultiNormGD, _matrices, 1e-3, "gradients normalized in several matrix norms in turn; keeps no state"
    ),
    "SinkGD": _Recipe(
        SinkGD, split_matrix_params, 0.02, "gradients with balanced rows and columns; no state for matrices"
    ),
    "SWAN": _Recipe(
        SWAN, split_matrix_params, 0.05, "gradients with standardized, whitened rows; no state for matrices"
    ),
    "SWANFast": _Recipe(
        SWANFast, split_matrix_params, 0.05, "SWAN with a cheap whitening that can turn the step uphill"
    ),
    "Muon": _Recipe(Muon, _matrices, 0.02, "momentum with all singular values made about equal", MUON),
    "NorMuon": _Recipe(NorMuon, split_matrix_params, 0.02, "Muon with one second moment per neuron"),
    "DistributedNorMuon": _Recipe(
        DistributedNorMuon, split_matrix_params, 0.02, "NorMuon whose matrices are spread over processes"
    ),
    "Conda": _Recipe(Conda, _conda, 0.01, "Adam in the singular basis of the momentum"),
    "FiraAdamW": _Recipe(
        FiraAdamW, _fira, 0.01, "GaLore on Adam, plus the rest of the gradient, scaled and limited"
    ),
    "FiraRMSProp": _Recipe(
        FiraRMSProp, _fira, 0.01, "GaLore on RMSProp, plus the rest of the gradient, scaled and limited"
    ),
    "GaLoreAdamW": _Recipe(
        GaLoreAdamW, _fira, 0.01, "Adam in a few singular directions of the gradient", GALORE
    ),
    "GaLoreRMSProp": _Recipe(
        GaLoreRMSProp, _fira, 0.01, "RMSProp in a few singular directions of the gradient", GALORE
    ),
    "SOAP": _Recipe(
        SOAP, split_matrix_params, 0.01, "Adam in the eigenbasis of Shampoo's preconditioners", SHAMPOO
    ),
}

OPTIMIZER_NAMES: tuple[str, ...] = tuple(_RECIPES)
"""Names that :func:`create_optimizer` knows."""


def list_optimizers() -> list[Method]:
    """Every optimizer that :func:`create_optimizer` builds, with one line and its paper.

    AdAdaGrad and AdAdaGradNorm are missing: they step with the gradients of single samples, not with ``p.grad``.

    Example:
        >>> print(list_optimizers()[3])
        SWAN: gradients with standardized, whitened rows; no state for matrices (SWAN: SGD with Normalization and \
Whitening Enables Stateless LLM Training, arXiv 2412.13148)
    """
    return [
        Method.of(f"normviz.optim.{name}", recipe.summary, recipe.reference)
        for name, recipe in _RECIPES.items()
    ]


def create_optimizer(name: str, model: nn.Module, lr: float | None = None, **options: Any) -> Optimizer:
    """Build the optimizer called ``name`` for a model's trainable parameters.

    Which parameters are matrices: for SWAN, SinkGD, Muon, NorMuon and SOAP what :func:`split_matrix_params` says; for
    Conda, GaLore and Fira the linear layers with "attn" or "mlp" in their name (the authors' choice) or, in a model
    without such a name, every linear layer but the last. All others get the optimizer's own rule for the rest.

    Args:
        name: one of :data:`OPTIMIZER_NAMES`; case does not matter.
        model: any module.
        lr: learning rate. None: where to start with a small network, which is not the class's default where that is
            for long runs (SWAN 0.05, SinkGD, Muon and NorMuon 0.02, Conda, GaLore, Fira and SOAP 0.01, MultiNormGD
            0.001, AdaGradNorm 1.0). At these a digits network of 64-128-128-10 gets from 90 to 97 % right after 150
            steps of 64 samples; SWANFast does not train it at any rate from 0.001 to 1.
        options: of the class, and of what makes its groups: ``exclude`` (:func:`split_matrix_params`); ``targets``
            ("auto": as above),
            ``update_proj_gap``, ``scale``, ``proj_type`` (:func:`conda_param_groups`); ``targets``, ``rank``,
            ``update_proj_gap``, ``alpha``, ``proj_type`` (:func:`fira_param_groups`). ``update_proj_gap`` is 50 here,
            for runs of a few hundred steps.

    Raises:
        ValueError: unknown name (the message has the nearest), or an option out of range.
        TypeError: ``model`` is no module, or the optimizer has no such option (the message has the nearest).

    Warns:
        UserWarning: Muon and MultiNormGD, which move matrices only, for a model with other parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = create_optimizer("Conda", model, weight_decay=0.01)
        >>> [len(group["params"]) for group in optimizer.param_groups], optimizer.param_groups[0]["lr"]
        ([1, 3], 0.01)
    """
    spelling = {known.lower(): known for known in _RECIPES}
    chosen = spelling.get(name.lower(), name) if isinstance(name, str) else name
    recipe = _RECIPES[check_choice("name", chosen, _RECIPES)]
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    of_groups = _keywords(recipe.groups)
    of_class = _keywords(recipe.build) - {"lr"}
    for option in options:
        if option not in of_groups | of_class:
            known = sorted(of_groups | of_class | {"lr"})
            hits = nearest(option, known)
            hint = f" Did you mean {hits[0]!r}?" if hits else ""
            raise TypeError(f"{chosen} has no option {option!r}; its options are {', '.join(known)}.{hint}")
    groups = recipe.groups(model, **{key: value for key, value in options.items() if key in of_groups})
    rest = {key: value for key, value in options.items() if key not in of_groups}
    return recipe.build(groups, lr=recipe.lr if lr is None else lr, **rest)


def _keywords(build: Callable[..., object]) -> set[str]:
    """Names of the arguments after the first; those of NorMuon where they are passed on to it."""
    names = set(list(inspect.signature(build).parameters)[1:])
    return names - {"options"} | _keywords(NorMuon) if "options" in names else names
