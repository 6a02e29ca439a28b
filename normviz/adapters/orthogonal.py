r"""Orthogonal Adaptation: concepts tuned apart, then added up in one model.

Po, Yang, Aberman, Wetzstein 2024, "Orthogonal Adaptation for Modular Customization of Diffusion Models", CVPR 2024,
pages 7964-7973, arXiv 2312.02432.

Many users tune the same model, each on one concept. Sums of ordinary LoRA residuals disturb each other, averages dilute
them, and Mix-of-Show's gradient fusion optimises for minutes and needs the concepts' inputs. Here one factor of every
residual is a random frame that is fixed before training; frames of concepts hardly overlap although their users never
speak, so the residuals can be added at once.

    orthogonal_frames     B, and how much frames overlap
    orthogonal_lora       the layers ``theta + s A B^T``, and what is trained
    here                  a model's layers replaced, and what is kept of them
    adapter_merging       theta + sum_i lambda_i Delta theta_i, and the baselines
    crosstalk             what concepts do to each other

Confirmed from the abstract and public summaries: the factorisation, the two random frames, merging by sum, the
baselines. No official code could be read; the paper's rank, scale and lambda are not confirmed, and each choice is
named where it is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from normviz.adapters.adapter_init import adapter_scaling
from normviz.adapters.adapter_merging import merge_adapters
from normviz.adapters.crosstalk import activation_crosstalk, weight_crosstalk
from normviz.adapters.orthogonal_frames import (
    FRAMES,
    SharedOrthogonalBasis,
    concept_basis,
    expected_overlap,
    probability_disjoint,
)
from normviz.adapters.orthogonal_lora import OrthogonalLoRAConv2d1x1, OrthogonalLoRALinear
from normviz.validation import check_choice, check_integer

__all__ = [
    "OrthogonalLoRAConv2d1x1",
    "OrthogonalLoRALinear",
    "SharedOrthogonalBasis",
    "activation_crosstalk",
    "adapter_state",
    "apply_orthogonal_adaptation",
    "concept_basis",
    "expected_overlap",
    "merge_adapters",
    "probability_disjoint",
    "weight_crosstalk",
]

Adapter = OrthogonalLoRALinear | OrthogonalLoRAConv2d1x1


def apply_orthogonal_adaptation(
    model: nn.Module,
    targets: Iterable[str],
    r: int,
    concept: int,
    seed: int = 0,
    method: str = "orthogonal",
    alpha: float | None = None,
) -> nn.Module:
    """Replace linear layers and 1x1 convolutions in place by adapters of one concept; freeze everything else.

    Po et al. 2024, arXiv 2312.02432. Every layer draws its own frame, by its dotted name. A concept's token embeddings
    have to be trained together with the adapters (see :mod:`normviz.adapters.orthogonal_lora`): switch their gradient
    on again after this call. A layer that stands in several places stays one layer, under its first name. Adapters that
    the model already has keep training.

    Args:
        model: changed in place.
        targets: names of modules, dotted, full or tails: "to_k" hits "blocks.0.to_k", not "blocks.0.into_k".
        r: rank of every adapter, 1..in.
        concept: the concept's own seed; its number for "disjoint".
        seed: of the shared matrices. Default 0.
        method: "orthogonal" (default), "gaussian" or "disjoint", see :func:`~normviz.adapters.concept_basis`.
        alpha: s = alpha / r, > 0. None (default): s = 1.

    Returns:
        The model.

    Raises:
        ValueError: naming the target: it hits nothing. Naming the module: it is neither an nn.Linear nor a 1x1
            nn.Conv2d, or it is the output of an nn.MultiheadAttention, which reads that layer's weight and never calls
            it, or its input is too small for r or for the concept. Also: no target; r, alpha, seed or concept out of
            range; unknown method. The model is unchanged then.
        TypeError: a layer is not floating.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> model = apply_orthogonal_adaptation(model, ["0"], r=2, concept=1)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['0.lora_up']
    """
    r = check_integer("r", r, 1)
    concept, seed = check_integer("concept", concept), check_integer("seed", seed)
    check_choice("method", method, FRAMES)
    adapter_scaling(alpha, r)
    replacements: dict[nn.Module, Adapter] = {}
    for name, module in _hits(model, targets).items():
        try:
            replacements[module] = _adapter_of(
                module, r, method=method, concept=concept, seed=seed, alpha=alpha, key=name
            )
        except ValueError as error:
            raise ValueError(f"module {name!r}: {error}") from error

    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, child_name, replacements[child])
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Adapter):
            module.lora_up.requires_grad_(True)
    return model


def _hits(model: nn.Module, targets: Iterable[str]) -> dict[str, nn.Module]:
    """The modules that the targets name, each under its first dotted name."""
    if isinstance(targets, str):
        raise ValueError(f"targets must be an iterable of module names, got the string {targets!r}.")
    wanted = list(targets)
    if not wanted:
        raise ValueError("targets must name at least one module.")
    first_names: dict[nn.Module, str] = {}
    hits: dict[str, nn.Module] = {}
    modules = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if name]
    for target in wanted:
        found = [(name, module) for name, module in modules if name == target or name.endswith(f".{target}")]
        if not found:
            raise ValueError(f"targets: {target!r} is the name of no module.")
        for name, module in found:
            _check_replaceable(model, name, module)
    for name, module in modules:
        first_names.setdefault(module, name)
        if any(name == target or name.endswith(f".{target}") for target in wanted):
            hits[first_names[module]] = module
    return hits


def _check_replaceable(model: nn.Module, name: str, module: nn.Module) -> None:
    pointwise = isinstance(module, nn.Conv2d) and tuple(module.kernel_size) == (1, 1) and module.groups == 1
    if not (isinstance(module, nn.Linear) or pointwise):
        raise ValueError(
            f"module {name!r} must be an nn.Linear or a 1x1 nn.Conv2d without groups, got {type(module).__name__}."
        )
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        raise ValueError(
            f"module {name!r} is never called: nn.MultiheadAttention reads its weight. It cannot be adapted."
        )


def _adapter_of(module: nn.Module, r: int, **options: Any) -> Adapter:
    if isinstance(module, nn.Conv2d):
        return OrthogonalLoRAConv2d1x1(module, r, **options)
    assert isinstance(module, nn.Linear)
    return OrthogonalLoRALinear(module, r, **options)


def adapter_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What a concept has to hand over: the adapters of a model by layer name.

    Po et al. 2024, arXiv 2312.02432. The frames are stored although seeds could give them again: merging reads basis;
    columns, method, concept and seed are a record. The token embeddings are the caller's.

    Args:
        model: with adapters of :func:`apply_orthogonal_adaptation`.

    Returns:
        Layer name -> lora_up [out, r], basis [in, r], columns (int64 [r]; None for "gaussian"), method, concept, seed,
        scaling. Tensors are detached copies; ``torch.save`` and ``torch.load(weights_only=True)`` keep it whole. Empty
        for a model without adapters.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 5))
        >>> state = adapter_state(apply_orthogonal_adaptation(model, ["0"], r=2, concept=1))
        >>> state["0"]["basis"].shape
        torch.Size([6, 2])
    """
    return {
        name: {
            "lora_up": module.lora_up.detach().clone(),
            "basis": module.basis.detach().clone(),
            "columns": None if module.columns is None else module.columns.clone(),
            "method": module.method,
            "concept": module.concept,
            "seed": module.seed,
            "scaling": module.scaling,
        }
        for name, module in model.named_modules()
        if isinstance(module, Adapter)
    }
