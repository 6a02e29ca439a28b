"""Forward transformation of old features by an MLP, the comparator of compatible maps: FCT and its uncertainty.

Ramanujan et al., "Forward Compatible Training for Large-Scale Embedding Retrieval Systems", arXiv 2112.02805: an MLP
maps old features into the new model's space, fitted by squared error; new features stay as they are. Jaeckle et al.,
"FastFill: Efficient Compatible Model Update", arXiv 2303.04766, add an uncertainty of each transformed feature, learned
with it, and re-extract the most uncertain items first. Not here: FCT's side information, which needs images, and
FastFill's second term, which needs the new model's classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normviz.adapters.compatibility_fit import checked_pair, mean_norm, shuffled_batches
from normviz.validation import check_integer, check_real

__all__ = ["ForwardTransform", "fit_forward_transform"]


class ForwardTransform(nn.Module):
    """y = W_2 relu(W_1 h_old / in_scale + b_1) + b_2, and a log variance from the same hidden layer.

    FCT (arXiv 2112.02805, an MLP; depth and width are this library's choice); the variance is FastFill's
    (arXiv 2303.04766).

    Args:
        in_features, out_features: widths of the old and of the new features.
        hidden: width of the hidden layer, 128 by default.

    Attributes:
        in_scale: 0-dim buffer, 1: a scale that the features are divided by.

    Shape:
        (..., in) -> (..., out); ``log_variance``: (..., in) -> (...).

    Raises:
        ValueError: a width below 1.
    """

    in_scale: Tensor

    def __init__(self, in_features: int, out_features: int, hidden: int = 128) -> None:
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("out_features", out_features, 1)
        check_integer("hidden", hidden, 1)
        self.hidden = nn.Linear(in_features, hidden)
        self.mean = nn.Linear(hidden, out_features)
        self.spread = nn.Linear(hidden, 1)
        self.register_buffer("in_scale", torch.ones(()))

    def _hidden(self, h: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(h / self.in_scale)
        return hidden.relu()

    def forward(self, h: Tensor) -> Tensor:
        """Transformed features."""
        mean: Tensor = self.mean(self._hidden(h))
        return mean

    def log_variance(self, h: Tensor) -> Tensor:
        """How uncertain each transformed feature is; sorted descending, an order for backfilling."""
        spread: Tensor = self.spread(self._hidden(h))
        return spread[..., 0]


def fit_forward_transform(
    h_old: Tensor,
    h_new: Tensor,
    *,
    hidden: int = 128,
    uncertainty: bool = False,
    epochs: int = 50,
    lr: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
    every: int = 10,
    callback: Callable[[dict[str, Any], ForwardTransform], object] | None = None,
) -> tuple[ForwardTransform, list[dict[str, Any]]]:
    """Fit an MLP from old to new features of the same items, with Adam.

    The loss is mean (u - h_new)^2 over batch and dimensions (FCT); with ``uncertainty`` the Gaussian likelihood
    ``mean_i 1/2 (exp(-s_i) e_i + s_i)``, e_i the item's squared error per dimension and s_i its log variance. Both
    models' features are divided by their mean norm; u is in the new model's space up to that scale.

    Args:
        h_old: [N, d_o].
        h_new: [N, d_n].
        hidden: width of the hidden layer (128).
        uncertainty: learn the log variance too (False).
        epochs, lr, batch_size: 50, 1e-3 and 256 by default, as in :func:`normviz.adapters.fit_adapters`.
        seed: of start and order; torch's own random state is left as it is.
        every: steps between records (10).
        callback: called as ``callback(record, transform)``; returning True stops the fit.

    Returns:
        (transform, history): in eval mode and h_new's dtype; records {"step", "loss"} at every ``every``-th and the
        last step.

    Raises:
        ValueError: no matrices of the same items, a count below 1, lr <= 0.

    References:
        Ramanujan et al., arXiv 2112.02805; Jaeckle et al., arXiv 2303.04766.
    """
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("every", every, 1)
    check_integer("seed", seed)
    check_real("lr", lr, 0, low_open=True, high_open=True)
    h_old, h_new = checked_pair(h_old, h_new)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transform = ForwardTransform(h_old.shape[1], h_new.shape[1], hidden).to(h_new)
    transform.in_scale.copy_(mean_norm(h_old))
    target = h_new / mean_norm(h_new)
    optimizer = torch.optim.Adam(transform.parameters(), lr=lr)
    history: list[dict[str, Any]] = []
    for step, batch, is_last in shuffled_batches(h_new, batch_size, epochs, seed):
        with torch.enable_grad():
            error = (transform(h_old[batch]) - target[batch]).square().mean(1)
            if uncertainty:
                s = transform.log_variance(h_old[batch])
                error = ((-s).exp() * error + s) / 2
            loss = error.mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        if step % every == 0 or is_last:
            history.append({"step": step, "loss": loss.item()})
            if callback is not None and callback(history[-1], transform) is True:
                break
    optimizer.zero_grad()
    return transform.eval(), history
