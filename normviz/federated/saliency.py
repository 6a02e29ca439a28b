"""Masks before training, from one look at the network: SNIP (one batch of data) and SynFlow (no data).

- SNIP: Lee, Ajanthan, Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, arXiv
  1810.02340. Score |g w| of every weight at the start; the global top k stays.
- SynFlow: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
  flow", NeurIPS 2020, arXiv 2006.05467. Score |w dR/dw| with R = 1^T f(1) of the network whose parameters and buffers
  have their absolute values; in 100 iterations, so that no layer is emptied.

Both serve as rivals of FedTiny (arXiv 2212.01977): the server prunes without the clients' data. The budget counts all
parameters, as in :func:`normviz.federated.layer_densities`. Use a mask with ``SparseModel.with_masks``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normviz.federated._networks import chunks, kept_modes, loss_gradients
from normviz.federated.budget import prunable_budget
from normviz.federated.pruning import plain_network, top_positions
from normviz.validation import check_integer

__all__ = ["global_masks", "snip_masks", "snip_scores", "synflow_masks", "synflow_scores"]


def global_masks(scores: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """True at the ``keep`` largest scores of all layers together; of equal ones the earlier layer and lower index."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[top_positions(flat, keep)] = True
    parts = chunks(chosen, [score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _budget(network: nn.Module, names: Sequence[str], density: float) -> tuple[int, int]:
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    return prunable_budget(shapes, names, density)


def snip_scores(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """SNIP's connection sensitivities |g w| / sum of all (arXiv 1810.02340, equation 6).

    g is the gradient of the mean cross-entropy, in train mode; no buffer, ``.grad`` or mode of the model moves.

    Args:
        model: a dense network (of a sparse one the masked weights have the score 0).
        x: (B, ...), inputs.
        y: (B,), classes.

    Returns:
        Name of each weight of a convolution or linear layer -> scores of its shape; together they sum to 1.
    """
    network, weights, _ = plain_network(model)
    grads = loss_gradients(network, weights, x, y, weights)
    products = {name: (grads[name] * w.detach()).abs() for name, w in weights.items()}
    total = torch.stack([product.sum() for product in products.values()]).sum()
    return {name: product / total for name, product in products.items()}


def snip_masks(model: nn.Module, x: Tensor, y: Tensor, density: float) -> dict[str, Tensor]:
    """Masks of the weights with the largest SNIP scores in the whole network (arXiv 1810.02340, algorithm 1).

    Args:
        model: a network.
        x: (B, ...), inputs.
        y: (B,), classes.
        density: share of all parameters that stays, in (0, 1].

    Raises:
        ValueError: density out of range or at most the share of the dense parameters.
    """
    scores = snip_scores(model, x, y)
    keep, _ = _budget(plain_network(model)[0], list(scores), density)
    return global_masks(scores, keep)


def synflow_scores(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Tensor]:
    """SynFlow's scores |w dR/dw|, R the sum of the outputs for an input of ones (arXiv 2006.05467, equation 2).

    All parameters and buffers have their absolute values, batch norms are in eval mode. Computed in float64, since R is
    a product over layers. The model is left as it is.

    Args:
        model: a network; in a sparse one masked weights are 0, and so is their score.
        input_shape: shape of one input, without the batch axis.

    Returns:
        Name of each weight of a convolution or linear layer -> scores of its shape, in float64.
    """
    network, weights, _ = plain_network(model)
    linear, tensors = _linearised(network)
    leaves = {name: w.detach().double().abs() for name, w in weights.items()}
    return _flows(linear, {**tensors, **leaves}, list(weights), input_shape)


def _linearised(network: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A float64 copy in eval mode, and its floating parameters and buffers at their absolute values."""
    linear = copy.deepcopy(network).double().eval()
    state = {**dict(linear.named_parameters()), **dict(linear.named_buffers())}
    return linear, {name: t.detach().abs() for name, t in state.items() if t.is_floating_point()}


def _flows(
    linear: nn.Module, tensors: dict[str, Tensor], names: list[str], input_shape: Sequence[int]
) -> dict[str, Tensor]:
    leaves = {name: tensors[name].clone().requires_grad_() for name in names}
    ones = torch.ones(1, *input_shape, dtype=torch.float64, device=leaves[names[0]].device)
    with torch.enable_grad():
        flow = functional_call(linear, {**tensors, **leaves}, (ones,)).sum()
        grads = torch.autograd.grad(flow, list(leaves.values()), materialize_grads=True)
    return {name: (w.detach() * grad).abs() for (name, w), grad in zip(leaves.items(), grads, strict=True)}


def synflow_masks(
    model: nn.Module, input_shape: Sequence[int], density: float, iterations: int = 100
) -> dict[str, Tensor]:
    """Masks by iterated SynFlow (arXiv 2006.05467, algorithm 1).

    After iteration i = 1..n the ``int(prunable * rho^(i/n))`` weights with the largest scores of the masked network
    stay, after the last one exactly the budget; rho is the budget over the prunable weights.

    Args:
        model: a network.
        input_shape: shape of one input, without the batch axis.
        density: share of all parameters that stays, in (0, 1].
        iterations: n >= 1, 100 as in the paper.

    Raises:
        ValueError: density out of range or at most the share of the dense parameters, iterations below 1.
    """
    steps = check_integer("iterations", iterations, 1)
    network, weights, _ = plain_network(model)
    keep, prunable = _budget(network, list(weights), density)
    linear, tensors = _linearised(network)
    full = {name: w.detach().double().abs() for name, w in weights.items()}
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in full.items()}
    with kept_modes(model):
        for i in range(1, steps + 1):
            masked = {name: w * masks[name] for name, w in full.items()}
            scores = _flows(linear, {**tensors, **masked}, list(full), input_shape)
            ranked = {name: torch.where(masks[name], score, -1.0) for name, score in scores.items()}
            masks = global_masks(
                ranked, keep if i == steps else int(prunable * (keep / prunable) ** (i / steps))
            )
    return masks
