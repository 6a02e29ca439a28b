"""Training of the two maps between an old and a new model's stored features (arXiv 2509.16664)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from normviz.adapters.compatibility_losses import CompatibilityLoss
from normviz.adapters.feature_maps import AffineAdapter, OrthogonalAdapter
from normviz.adapters.orthogonality import orthogonality_distance, procrustes_orthogonal
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["BACKWARD_MAPS", "checked_pair", "fit_adapters", "mean_norm", "shuffled_batches"]

BACKWARD_MAPS = ("strict", "lambda", "affine")
STARTS = ("procrustes", "identity")

Record = dict[str, Any]
BackwardMap = AffineAdapter | OrthogonalAdapter


def fit_adapters(
    h_old: Tensor,
    h_new: Tensor,
    labels: Tensor,
    *,
    backward: str = "lambda",
    lam: float = 1.0,
    epochs: int = 50,
    lr: float = 1e-3,
    batch_size: int = 256,
    mode: str = "gated",
    beta: float | None = None,
    relative: bool = False,
    w_forward: float = 1.0,
    w_backward: float = 1.0,
    w_contrastive: float = 1.0,
    w_lambda: float = 1.0,
    temperature: float = 0.1,
    init: str = "procrustes",
    normalize: bool = True,
    parametrization: str = "matrix_exp",
    seed: int = 0,
    every: int = 10,
    callback: Callable[[Record, BackwardMap, AffineAdapter], object] | None = None,
    weight_decay: float = 0.0,
) -> tuple[BackwardMap, AffineAdapter, list[Record]]:
    """Fit the backward map B (new features -> old space) and the forward map F (old features -> B's image).

    Features of the same N items from both models; the models themselves are not touched. Adam on B's and F's parameters
    only, with :class:`normviz.adapters.CompatibilityLoss`; L_lambda once per step.

    Args:
        h_old: [N, d_o], of the old model.
        h_new: [N, d_n], of the new one.
        labels: [N].
        backward: "lambda" (default): affine with the orthogonality term; "affine": the same with w_lambda = 0;
            "strict": orthogonal by construction, no bias and no term.
        lam, mode, beta, relative: of the orthogonality term (:class:`normviz.adapters.LambdaOrthogonalityLoss`).
        epochs, lr, batch_size: 50, 1e-3 and 256 by default (this library's choice); a smaller last batch is kept.
        w_forward, w_backward, w_contrastive, w_lambda: weights of the terms (1).
        temperature: of the contrastive term (0.1).
        init: of B's weight: "procrustes" (default) or "identity". F's starts like that of ``nn.Linear``.
        normalize: divide both models' features by their mean norm, kept in the maps' ``in_scale`` (True). Cosines do
            not change, losses become comparable.
        parametrization: of the strict map, "matrix_exp" (default) or "cayley".
        seed: of F's start and of the order of items; torch's own random state is left as it is.
        every: steps between records (10).
        callback: called as ``callback(record, B, F)`` with each record; returning True stops the fit.

        weight_decay: of Adam, on B's weight only (0): the baseline that pulls an affine map to 0 instead of to the
            orthogonal matrices. Not for a strict map.

    Returns:
        (B, F, history), the maps in eval mode and in h_new's dtype. history has a record at every ``every``-th step and
        at the last: "step" (from 1); "total", "forward", "backward", "contrastive", "lambda" (floats, of this step's
        batch before its update, terms without weights); "delta" and "singular_values" (descending, float64) of B's
        weight after it.

    Raises:
        ValueError: h_old, h_new and labels of different lengths or no matrices, unknown backward, init or
            parametrization, epochs, batch_size or every below 1, lr <= 0, weight_decay < 0 or with a
            strict map, and whatever the loss refuses.

    References:
        Ricci et al., arXiv 2509.16664.
    """
    check_choice("backward", backward, BACKWARD_MAPS)
    check_choice("init", init, STARTS)
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("every", every, 1)
    check_integer("seed", seed)
    check_real("lr", lr, 0, low_open=True, high_open=True)
    check_real("weight_decay", weight_decay, 0, high_open=True)
    if backward == "strict" and weight_decay:
        raise ValueError(f"weight_decay must be 0 for a strict map, got {weight_decay}.")
    w_lambda = check_real("w_lambda", w_lambda, 0, high_open=True)
    loss = CompatibilityLoss(
        lam,
        w_forward=w_forward,
        w_backward=w_backward,
        w_contrastive=w_contrastive,
        w_lambda=0.0 if backward == "affine" else w_lambda,
        mode=mode,
        beta=beta,
        relative=relative,
        temperature=temperature,
    )
    h_old, h_new = checked_pair(h_old, h_new)
    labels = torch.as_tensor(labels, device=h_new.device)
    if labels.shape != h_new.shape[:1]:
        raise ValueError(f"labels must have shape ({len(h_new)},), got {tuple(labels.shape)}.")
    scale_old, scale_new = (mean_norm(h) if normalize else h.new_ones(()) for h in (h_old, h_new))
    maps = _started(h_old / scale_old, h_new / scale_new, backward, init, parametrization, seed)
    backward_map, forward_map = maps
    backward_map.in_scale.copy_(scale_new)
    forward_map.in_scale.copy_(scale_old)
    decayed = [p for name, p in backward_map.named_parameters() if name == "weight"]
    others = [p for part in maps for p in part.parameters() if all(p is not q for q in decayed)]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": decayed, "weight_decay": weight_decay}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], lr=lr)
    history: list[Record] = []
    for step, batch, is_last in shuffled_batches(labels, batch_size, epochs, seed):
        with torch.enable_grad():
            z, u = backward_map(h_new[batch]), forward_map(h_old[batch])
            weight = None if backward == "strict" else backward_map.weight
            total, parts = loss(z, u, h_old[batch] / scale_old, labels[batch], weight)
            optimizer.zero_grad()
            total.backward()
        optimizer.step()
        if step % every == 0 or is_last:
            history.append(_record(step, total, parts, backward_map))
            if callback is not None and callback(history[-1], *maps) is True:
                break
    optimizer.zero_grad()
    return backward_map.eval(), forward_map.eval(), history


def shuffled_batches(
    items: Tensor, batch_size: int, epochs: int, seed: int
) -> Iterator[tuple[int, Tensor, bool]]:
    """(step from 1, indices into ``items``, whether it is the last step), in a new order every epoch."""
    generator = torch.Generator().manual_seed(seed)
    step, last = 0, epochs * -(-len(items) // batch_size)
    for _ in range(epochs):
        order = torch.randperm(len(items), generator=generator).to(items.device)
        for batch in torch.split(order, batch_size):
            step += 1
            yield step, batch, step == last


def checked_pair(h_old: Tensor, h_new: Tensor) -> tuple[Tensor, Tensor]:
    """Both models' features of the same items, without graph, in h_new's dtype and on its device.

    Raises:
        ValueError: no matrices, of different length or empty.
    """
    h_new = torch.as_tensor(h_new).detach()
    if not h_new.is_floating_point():
        h_new = h_new.to(torch.get_default_dtype())
    h_old = torch.as_tensor(h_old).detach().to(h_new)
    fits = h_old.ndim == h_new.ndim == 2 and len(h_old) == len(h_new)
    if not fits or h_old.numel() * h_new.numel() == 0:
        raise ValueError(
            f"h_old and h_new must be matrices [N, d_o] and [N, d_n] of the same items, got {tuple(h_old.shape)} and "
            f"{tuple(h_new.shape)}."
        )
    return h_old, h_new


def mean_norm(h: Tensor) -> Tensor:
    """Mean norm of the rows; 1 if they are all zero."""
    norm = h.norm(dim=1).mean()
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def _started(
    h_old: Tensor, h_new: Tensor, backward: str, init: str, parametrization: str, seed: int
) -> tuple[BackwardMap, AffineAdapter]:
    """Both maps before training, on the features' device and in their dtype."""
    width_old, width_new = h_old.shape[1], h_new.shape[1]
    options: dict[str, Any] = {"device": h_new.device, "dtype": h_new.dtype}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        forward_map = AffineAdapter(width_old, width_old, init="default", dtype=h_new.dtype).to(h_new.device)
    backward_map: BackwardMap
    if backward == "strict":
        weight = procrustes_orthogonal(h_new, h_old) if init == "procrustes" else None
        backward_map = OrthogonalAdapter(
            width_new, width_old, parametrization=parametrization, weight=weight, **options
        )
    else:
        check_choice("parametrization", parametrization, ("matrix_exp", "cayley"))
        backward_map = AffineAdapter(width_new, width_old, init=init, data=(h_new, h_old), **options)
    return backward_map, forward_map


def _record(step: int, total: Tensor, parts: dict[str, Tensor], backward_map: BackwardMap) -> Record:
    weight = backward_map.weight.detach().cpu().double()
    return {
        "step": step,
        "total": total.item(),
        **{name: part.item() for name, part in parts.items()},
        "delta": float(orthogonality_distance(weight)),
        "singular_values": torch.linalg.svdvals(weight),
    }
