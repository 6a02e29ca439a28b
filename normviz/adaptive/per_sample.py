"""One gradient per sample: what tests of a batch's size look at.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", arXiv 2402.11215 (2024),
compare the spread of the samples' gradients g_i with their mean g. All g_i of a batch are computed together by
``torch.func.vmap`` over ``torch.func.grad``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.validation import check_choice, check_integer

__all__ = ["per_sample_gradients"]

RANDOMNESS = ("error", "different", "same")


def per_sample_gradients(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> dict[str, Tensor]:
    """The gradient of each sample's loss at the model's present parameters.

    Their mean over the batch is the gradient of the mean loss. Nothing of the model changes: no ``.grad``, buffer or
    mode.

    Args:
        model: the network. Its samples must not see each other.
        loss_fn: ``(outputs (1, …), targets (1, …)) -> scalar``, e.g. ``nn.functional.cross_entropy``.
        inputs: (B, …).
        targets: (B, …).
        chunk_size: samples that are computed at once; smaller needs less memory. Default None: all.
        randomness: of dropout and other draws, as in ``torch.func.vmap``: "error" (default) refuses them, "different"
            draws anew for each sample, "same" once for all.

    Returns:
        ``{name: (B, *shape)}``, detached, for every parameter that requires a gradient, in the model's order.

    Raises:
        RuntimeError: a batch norm that uses statistics of the batch (in train mode, or without running statistics): its
            samples see each other. Or a random layer with ``randomness="error"``.
        ValueError: inputs and targets of different or no length; no parameter that requires a gradient; chunk_size < 1;
            unknown randomness.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> grads = per_sample_gradients(model, nn.functional.mse_loss, torch.randn(5, 3), torch.randn(5, 2))
        >>> {name: tuple(g.shape) for name, g in grads.items()}
        {'weight': (5, 2, 3), 'bias': (5, 2)}

    Reference: Lau et al., arXiv 2402.11215, the g_i of the norm test.
    """
    check_choice("randomness", randomness, RANDOMNESS)
    if chunk_size is not None:
        check_integer("chunk_size", chunk_size, 1)
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(
            "inputs and targets must have one entry per sample, "
            f"got shapes {tuple(inputs.shape)} and {tuple(targets.shape)}."
        )
    _refuse_batch_statistics(model)
    named = dict(model.named_parameters())
    params = {name: p.detach() for name, p in named.items() if p.requires_grad}
    if not params:
        raise ValueError("model must have a parameter that requires a gradient, it has none.")
    # Copies: a layer may write to its buffers in the forward pass.
    fixed = {name: b.detach().clone() for name, b in model.named_buffers()}
    fixed |= {name: p.detach() for name, p in named.items() if not p.requires_grad}

    def loss_of_one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, {**params, **fixed}, (x.unsqueeze(0),))  # (1, …)
        return loss_fn(outputs, y.unsqueeze(0))

    per_sample = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness=randomness, chunk_size=chunk_size)
    grads: dict[str, Tensor] = per_sample(params, inputs, targets)
    return {name: grads[name].detach() for name in params}


def _refuse_batch_statistics(model: nn.Module) -> None:
    """Raise RuntimeError if a batch norm of ``model`` would compute statistics over the batch."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            which = f"{name!r}" if name else "the model itself"
            raise RuntimeError(
                f"per-sample gradients do not exist with {type(module).__name__} ({which}), whose statistics mix the "
                "samples: put it in eval mode with running statistics, or use GroupNorm or LayerNorm."
            )
