"""STORM's two gradients of the rescaler Omega (Heck et al. 2025, arXiv 2412.12955).

    L_in(theta, omega) = (1/n) sum_i w_i(omega) l_i(theta)          theta' = theta - lr grad_theta L_in
    L_out(omega) = (1/n') sum_j w_j^val(omega) l_j(theta'(omega))   on a second batch of the same noisy data

    dL_out/d omega = meta + outer
    outer = (1/n') sum_j l_j(theta') d w_j^val / d omega
    meta  = sum_i (dL_out/d w_i) d w_i / d omega,   dL_out/d w_i = -(lr/n) <grad l_i(theta), grad_theta' L_out>

A training sample's weight rises when its gradient agrees with the weighted validation gradient. ``meta`` needs no
second-order graph: with v = grad_theta' L_out, one forward-mode pass along lr v gives all inner products u_i, and
meta is the gradient of -(1/n) sum_i w_i(omega) u_i. The features are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.validation import check_choice, check_real
from normviz.weighting._forward_pass import ForwardPass, Named, call_with, forked_rng, random_state

__all__ = ["meta_gradient", "rescaler_gradient", "sample_cross_entropy"]

sample_cross_entropy: Callable[[Any, Any], Tensor] = partial(cross_entropy, reduction="none")
"""(logits, y) -> the cross-entropy of every sample."""


def rescaler_gradient(rescaler: nn.Module, objective: Tensor) -> Named:
    """Gradient of a scalar with respect to the rescaler's parameters; zeros where it does not depend on them."""
    omega = {name: p for name, p in rescaler.named_parameters() if p.requires_grad}
    if not objective.requires_grad:
        return {name: torch.zeros_like(p) for name, p in omega.items()}
    grads = torch.autograd.grad(objective, list(omega.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(omega, grads, strict=True))


@torch.enable_grad()
def meta_gradient(
    model: nn.Module,
    rescaler: nn.Module,
    batch: tuple[Any, Tensor],
    val_batch: tuple[Any, Tensor],
    lr: float,
    features_in: Tensor,
    features_val: Tensor,
    outer_scale: float = 0.01,
    method: str = "jvp",
) -> tuple[Named, Named]:
    """Both parts of dL_out/d omega for one plain SGD step with cross-entropy, in the model's present mode.

    The step's own forward pass starts from the present random state and the validation pass from where it ends, as in
    training; both methods draw the same dropout masks. Parameters, their ``grad``, buffers and the random
    state are the same afterwards.

    Args:
        model: Theta, maps x to logits [n, C].
        rescaler: Omega, maps features [n, d_f] to weights [n].
        batch: (x, y) of the step.
        val_batch: (x, y) of the second batch.
        lr: step size of the SGD step, >= 0.
        features_in, features_val: features of the two batches, constants.
        outer_scale: factor of the outer part (0.01, our choice), >= 0; 0 leaves the pure meta gradient.
        method: "jvp" (default): one forward-mode pass; "unroll": automatic differentiation through the step.

    Returns:
        (meta, outer), each keyed like ``rescaler.named_parameters()``; ``outer`` is already multiplied by
        ``outer_scale``, so that the whole gradient is their sum.

    Raises:
        ValueError: unknown method, lr or outer_scale negative.
    """
    check_choice("method", method, ("jvp", "unroll"))
    check_real("lr", lr, 0.0)
    check_real("outer_scale", outer_scale, 0.0)
    theta = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    step = ForwardPass.from_here(model, sample_cross_entropy, batch)
    validation = _pass_after(step, val_batch)
    w_val = rescaler(features_val)

    if method == "jvp":
        w = rescaler(features_in)
        _, g = step.losses_and_gradient(theta, w.detach())
        moved = {name: p - lr * g[name] for name, p in theta.items()}
        losses, v = validation.losses_and_gradient(moved, w_val.detach())
        u = step.directional(theta, {name: lr * value for name, value in v.items()})
        meta = rescaler_gradient(rescaler, -(w * u).mean())
    else:
        leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
        inner = (rescaler(features_in) * step.losses(leaves)).mean()
        grads = torch.autograd.grad(
            inner, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        moved = {name: p - lr * g for (name, p), g in zip(leaves.items(), grads, strict=True)}
        losses = validation.losses(moved)
        meta = rescaler_gradient(rescaler, (w_val.detach() * losses).mean())
        losses = losses.detach()
    outer = rescaler_gradient(rescaler, (w_val * losses).mean())
    return meta, {name: outer_scale * g for name, g in outer.items()}


def _pass_after(step: ForwardPass, batch: tuple[Any, Tensor]) -> ForwardPass:
    """The pass on ``batch`` that follows ``step``: with the buffers and the random state that it leaves behind."""
    model = step.model
    buffers = {name: buffer.clone() for name, buffer in step.buffers.items()}
    with torch.no_grad(), forked_rng(model, step.rng):
        call_with(model, buffers, step.batch[0])
        return ForwardPass(model, step.loss_fn, batch, buffers, random_state(model))
