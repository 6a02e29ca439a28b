"""A network with masks: some of its weights are held at exactly zero, in the forward, the gradient and the state.

Huang et al., "Distributed Pruning Towards Tiny Neural Networks in Federated Learning" (FedTiny), ICDCS 2023, arXiv
2212.01977; density rules as in the authors' library FedPruning. Prunable are the weights of convolutions and linear
layers. Biases and the parameters of norms stay dense, and they count: density is kept parameters over all parameters.

Where the official code differs: it masks in the forward only, so one dense SGD step leaks into inactive weights before
they are uploaded. Here the masked weight is a product, so its gradient is masked as well and zeros stay zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normviz.federated._networks import loss_gradients, prunable_weights
from normviz.federated.budget import adjust_count, cosine_adjust_fraction, layer_densities
from normviz.validation import check_real

__all__ = [
    "SparseModel",
    "adjust_count",
    "cosine_adjust_fraction",
    "largest_mask",
    "layer_densities",
    "magnitude_mask",
    "plain_network",
    "ranks",
    "top_positions",
]


def top_positions(scores: Tensor, k: int) -> Tensor:
    """Flat indices of the k largest entries, by falling value; of equal ones the lower index first."""
    return scores.flatten().sort(descending=True, stable=True).indices[:k]


def ranks(scores: Tensor) -> Tensor:
    """Place of each entry when all are sorted by falling value, 0 the largest; of equal ones the lower index first."""
    return top_positions(scores, scores.numel()).argsort()


def magnitude_mask(w: Tensor, density: float) -> Tensor:
    """True at the ``int(size * density)`` largest ``|w|``; of equal ones the lower flat index first.

    Args:
        w: weights of any shape.
        density: share that stays, in (0, 1].

    Returns:
        Bool mask of w's shape.

    Raises:
        ValueError: density out of range.

    Example:
        >>> magnitude_mask(torch.tensor([0.1, -3.0, 2.0, 0.5]), 0.5).tolist()
        [False, True, True, False]
    """
    share = check_real("density", density, 0, 1, low_open=True)
    return largest_mask(w, int(w.numel() * share))


def largest_mask(w: Tensor, keep: int) -> Tensor:
    """True at the ``keep`` largest ``|w|``; of equal ones the lower flat index first."""
    return (ranks(w.detach().abs()) < keep).view(w.shape)


class SparseModel(nn.Module):
    """A network of which each prunable weight has a mask (arXiv 2212.01977, section on the sparse model).

    Construction masks by magnitude within each layer, at the densities of ``rule``, and sets masked weights to 0. The
    forward computes with ``mask * weight``. ``model`` is used, not copied.

    Args:
        model: any network; masks are for the weights of its convolutions and linear layers.
        density: kept parameters over all parameters, in (0, 1]; the dense ones (biases, norms, ``ignore``) count.
        rule: layer densities, "uniform" (default, as in the authors' FedTiny), "ER" or "ERK" (default of their
        library).
        ignore: names of weights that stay dense, as in ``model.named_parameters()``.

    Attributes:
        model: the network.
        masks: name -> bool mask (True = active), in the order of the layers; saved in ``state_dict``.

    Raises:
        ValueError: unknown rule; density out of range, at most the share of the dense parameters, or so low that a
            layer would have no weight; a name in ``ignore`` that is no prunable weight; a model without any.

    Example:
        >>> net = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5))
        >>> sparse = SparseModel(net, 0.25)
        >>> round(sparse.density(), 2), {name: int(m.sum()) for name, m in sparse.masks.items()}
        (0.25, {'0.weight': 47, '2.weight': 23})
    """

    def __init__(
        self, model: nn.Module, density: float, rule: str = "uniform", ignore: Collection[str] = ()
    ) -> None:
        super().__init__()
        weights = _weights_to_prune(model, ignore)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        densities = layer_densities(shapes, list(weights), density, rule)
        masks = {name: magnitude_mask(w, densities[name]) for name, w in weights.items()}
        empty = [name for name, w in weights.items() if int(w.numel() * densities[name]) == 0]
        if empty:
            raise ValueError(
                f"density must leave every layer a weight: {density:g} with the rule {rule!r} leaves "
                f"{', '.join(empty)} empty."
            )
        self.density_target = float(density)
        self._install(model, masks)

    @classmethod
    def with_masks(cls, model: nn.Module, masks: Mapping[str, Tensor]) -> SparseModel:
        """``model`` with these masks, e.g. of :func:`normviz.federated.synflow_masks`; weights without one stay dense.

        Args:
            model: any network; it is used, not copied, and its masked weights are set to 0.
            masks: name of a prunable weight -> mask of its shape.

        Raises:
            ValueError: a mask of another name or shape, or none at all.
        """
        weights = prunable_weights(model)
        _check_masks(masks, weights)
        if not masks:
            raise ValueError("masks must hold at least one mask, got none.")
        sparse = cls.__new__(cls)
        nn.Module.__init__(sparse)
        ordered = {
            name: masks[name].to(w.device, torch.bool).clone() for name, w in weights.items() if name in masks
        }
        sparse._install(model, ordered)
        sparse.density_target = sparse.density()
        return sparse

    def _install(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self.model = model
        self._names = tuple(masks)
        self._holders = tuple(f"mask_{i}" for i in range(len(masks)))
        for holder, mask in zip(self._holders, masks.values(), strict=True):
            self.register_buffer(holder, mask)
        self.apply_masks()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name of each pruned weight -> its bool mask."""
        return {name: getattr(self, holder) for name, holder in zip(self._names, self._holders, strict=True)}

    def mask_names(self) -> dict[str, str]:
        """Name of each pruned weight -> name of its mask in ``state_dict``."""
        return dict(zip(self._names, self._holders, strict=True))

    def _weights(self) -> dict[str, Tensor]:
        return {name: self._weight(name) for name in self._names}

    def _weight(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        weight: Tensor = getattr(self.model.get_submodule(owner), leaf)  # any tensor while it is vmapped
        return weight

    def effective_weights(self) -> dict[str, Tensor]:
        """``mask * weight`` by name, with gradients to the weights."""
        masks = self.masks
        return {name: w * masks[name] for name, w in self._weights().items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output with the masked weights."""
        return functional_call(self.model, self.effective_weights(), args, kwargs)

    @torch.no_grad()
    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take other masks for the weights that are named; weights that they make inactive are set to 0.

        Raises:
            ValueError: a mask of another name or shape.
        """
        own = self.masks
        _check_masks(masks, own)
        for name, mask in masks.items():
            own[name].copy_(mask.to(torch.bool))
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set all inactive weights to 0, in place."""
        weights = self._weights()
        for name, mask in self.masks.items():
            weights[name].masked_fill_(~mask, 0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of all inactive weights to 0, in place."""
        weights = self._weights()
        for name, mask in self.masks.items():
            grad = weights[name].grad
            if grad is not None:
                grad.masked_fill_(~mask, 0)

    def density(self) -> float:
        """Kept parameters over all parameters."""
        total = sum(p.numel() for p in self.model.parameters())
        return (total - sum(int((~mask).sum()) for mask in self.masks.values())) / total

    def layer_density(self) -> dict[str, float]:
        """Share of active weights of each pruned layer, by the weight's name."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    def dense_gradients(
        self, x: Tensor, y: Tensor, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Gradient of the mean cross-entropy with respect to ``mask * weight`` at ALL positions, active or not.

        In train mode; moves no ``.grad``, no buffer (running statistics) and no mode.

        Args:
            x: (B, ...), inputs.
            y: (B,), classes.
            names: of the weights that are wanted. Default: all that have a mask.

        Raises:
            ValueError: a name without a mask.
        """
        wanted = list(self._names if names is None else names)
        unknown = sorted(set(wanted) - set(self._names))
        if unknown:
            raise ValueError(f"names must be weights with a mask ({', '.join(self._names)}), got {unknown}.")
        return loss_gradients(self.model, self.effective_weights(), x, y, wanted)

    def extra_repr(self) -> str:
        """Density and number of masks, for ``repr``."""
        return f"density={self.density_target:g}, masks={len(self._names)}"


def plain_network(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The network itself, its prunable weights as they act (masked ones 0), and its masks (none if it is dense)."""
    if isinstance(model, SparseModel):
        masked = model.effective_weights()
        weights = {name: masked.get(name, w) for name, w in prunable_weights(model.model).items()}
        return model.model, weights, model.masks
    return model, dict(prunable_weights(model)), {}


def _weights_to_prune(model: nn.Module, ignore: Collection[str]) -> dict[str, nn.Parameter]:
    weights = prunable_weights(model)
    unknown = sorted(set(ignore) - set(weights))
    if unknown:
        raise ValueError(f"ignore must name weights of convolutions or linear layers, got {unknown}.")
    chosen = {name: w for name, w in weights.items() if name not in ignore}
    if not chosen:
        raise ValueError("model must have a convolution or linear layer that is not ignored, got none.")
    return chosen


def _check_masks(masks: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in known:
            raise ValueError(f"masks must be of weights among {', '.join(known)}, got {name!r}.")
        if mask.shape != known[name].shape:
            raise ValueError(
                f"masks must have the shapes of the weights: {name} is {tuple(known[name].shape)}, "
                f"its mask {tuple(mask.shape)}."
            )
