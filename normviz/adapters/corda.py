r"""CorDA on a whole network: every linear layer gets an adapter cut from its context-oriented decomposition.

Yang, Li, Zhou, Song, Wu, Nie, Ghanem 2024, "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models
for Task-Aware Parameter-Efficient Fine-tuning", NeurIPS 2024, arXiv 2406.05223. Official code: iboing/CorDA. Three
steps:

1. a few samples go through the network under :class:`CovarianceCollector`;
2. each layer's weight is decomposed along that covariance (:func:`context_oriented_svd`);
3. r components start its adapter (:func:`corda_init`), the rest is frozen: :func:`apply_corda`.

kpm (KPA in the paper) keeps the knowledge of the samples by training the components they use least; ipm (IPA) trains
those they use most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from normviz.adapters.adapter_init import (
    FUSIONS,
    MODES,
    adapter_scaling,
    check_rank_of,
    corda_init,
    lora_init,
    pissa_init,
)
from normviz.adapters.context_svd import (
    ContextSVD,
    check_covariance,
    context_energy,
    context_oriented_svd,
    damped_covariance,
    truncated_reconstruction,
)
from normviz.adapters.covariance_collector import CovarianceCollector
from normviz.adapters.lora_linear import LoRALinear
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "ContextSVD",
    "CovarianceCollector",
    "LoRALinear",
    "apply_corda",
    "context_energy",
    "context_oriented_svd",
    "corda_init",
    "damped_covariance",
    "lora_init",
    "pissa_init",
    "truncated_reconstruction",
]


def apply_corda(
    model: nn.Module,
    covariances: Mapping[str, Tensor],
    r: int,
    mode: str,
    alpha: float | None = None,
    skip: Iterable[str] = ("head",),
    *,
    sigma_fuse: str = "UV",
    damp: float = 0.01,
) -> nn.Module:
    """Replace every nn.Linear in place by a :class:`LoRALinear` started by CorDA; freeze everything else.

    Yang et al. 2024, arXiv 2406.05223: all linear layers but the language model's head. Norms, embeddings, biases and
    skipped layers are frozen too. A layer that stands in several places stays one layer. Adapters that the model
    already has keep training.

    Args:
        model: changed in place.
        covariances: of the inputs by layer name, as :meth:`CovarianceCollector.covariances` returns them; names that
            are no layer to replace are ignored.
        r: rank of every adapter.
        mode: "kpm" or "ipm".
        alpha: s = alpha / r, > 0. None: r.
        skip: layers stay as they are if one component of their dotted name is in here. Default ("head",).
        sigma_fuse: "UV" (default), "U" or "V".
        damp: the first damping of the covariances, > 0. Default 0.01 (official code).

    Returns:
        The model; if the model itself is an nn.Linear, the layer that stands for it.

    Raises:
        ValueError: mode, alpha, sigma_fuse, r or damp as for :func:`corda_init`; naming the layer: no covariance, a bad
            one, or a layer too small for r. The model is unchanged then.
        TypeError: a layer to replace is not floating.
    """
    r = check_integer("r", r, 1)
    check_choice("mode", mode, MODES)
    check_choice("sigma_fuse", sigma_fuse, FUSIONS)
    check_real("damp", damp, 0, math.inf, low_open=True, high_open=True)
    adapter_scaling(alpha, r)
    skipped = {skip} if isinstance(skip, str) else set(skip)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and skipped.isdisjoint(name.split("."))
    }
    for name, layer in layers.items():
        if name not in covariances:
            raise ValueError(f"covariances must hold the layer {name!r}, which is to be replaced.")
        try:
            check_rank_of(r, layer.out_features, layer.in_features)
            check_covariance(covariances[name], layer.in_features, "covariance")
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    replacements: dict[nn.Module, LoRALinear] = {}
    for name, layer in layers.items():
        try:
            replacements[layer] = LoRALinear(
                layer,
                r,
                alpha,
                f"corda_{mode}",
                covariance=covariances[name],
                sigma_fuse=sigma_fuse,
                damp=damp,
            )
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error

    if model in replacements:
        model = replacements[model]
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, child_name, replacements[child])
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_A.requires_grad_(True)
            module.lora_B.requires_grad_(True)
    return model
