r"""Core (reconstructed): a loss of unlabelled logits that keeps the predictions of different classes apart.

Fuming You, Jingjing Li, Zhou Zhao, "Test-time Batch Statistics Calibration for Covariate Shift", arXiv 2110.04065,
train batch norm's gain and bias at test time with a loss on the pairwise correlation of classes. The paper's formula
was not available to us. What stands here is a RECONSTRUCTION: the row-normalised class correlation of the minimum class
confusion loss (Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020, arXiv 1912.03699), the
closest published loss of that name.

With logits Z (B, C), P = softmax(Z / temperature) and constant sample weights w (B,)::

    A = P^T diag(w) P          r_i = sum_j A_ij = sum_n w_n p_ni          q_i = A_ii = sum_n w_n p_ni^2
    loss = (1/C) sum_i sum_{j != i} A_ij / (r_i + eps) = (1/C) sum_i (r_i - q_i) / (r_i + eps)

so the matrix is never built: the cost is O(B C). r_i - q_i = sum_n w_n p_ni (1 - p_ni) is the mass of class i that it
shares with others. One-hot predictions of all classes cost 0, uniform ones (C-1)/C. If all samples fall into one class,
every other class keeps a little mass, all of it shared, and costs about 1/C: collapse costs (C-1)/C, while its entropy
is 0. The price: classes that are truly absent from a batch are pushed to appear. Without the row normalisation the loss
is the mean Gini impurity, which rewards collapse as entropy does.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from normviz.validation import check_choice, check_real

__all__ = ["CoreLoss", "EntropyLoss", "class_correlation"]

WEIGHTINGS = ("none", "entropy")


def class_correlation(logits: Tensor, temperature: float = 1.0, weighting: str = "none") -> Tensor:
    """``A = P^T diag(w) P``: how much probability classes i and j share over the batch.

    Symmetric and positive semidefinite; with weights none the rows sum to the classes' total probabilities and all of A
    to the number of rows B.

    Args:
        logits: (B, C), or (B, C, ...) where every position is a row of its own.
        temperature: divides the logits, > 0. Default 1.
        weighting: "none" (default) or "entropy", as for :class:`CoreLoss`.

    Returns:
        (C, C), at least float32.

    Raises:
        ValueError: an argument out of range; logits with one class, without rows or without a class axis.
        TypeError: logits not floating point.

    Example:
        >>> class_correlation(torch.tensor([[50.0, 0.0], [0.0, 50.0], [0.0, 50.0]])).round()
        tensor([[1., 0.],
                [0., 2.]])
    """
    p, w = _probabilities(logits, temperature, weighting)
    device = p.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return p.T @ (w[:, None] * p)


def _probabilities(logits: Tensor, temperature: float, weighting: str) -> tuple[Tensor, Tensor]:
    """P (rows, C) and the constant weights w (rows,)."""
    check_real("temperature", temperature, 0, low_open=True, high_open=True)
    check_choice("weighting", weighting, WEIGHTINGS)
    log_p = (_rows(logits) / temperature).log_softmax(1)
    p = log_p.exp()
    if weighting == "none":
        return p, p.new_ones(len(p))
    certainty = 1 + (-_entropy(log_p.detach())).exp()
    return p, certainty * (len(p) / certainty.sum())


def _rows(logits: Tensor) -> Tensor:
    """Logits as (rows, C), at least float32."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        given = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating point tensor, got {given}.")
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (B, C, ...) with C >= 2, got {tuple(logits.shape)}.")
    if not logits.numel():
        raise ValueError(f"logits must not be empty, got shape {tuple(logits.shape)}.")
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    return rows.to(torch.promote_types(logits.dtype, torch.float32))


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(1)


class CoreLoss(nn.Module):
    """Core (reconstructed): mean share of each class's probability that it shares with other classes.

    A reconstruction of the loss of You, Li, Zhao, arXiv 2110.04065; formula and facts in the module's docstring.

    Args:
        temperature: divides the logits, > 0. Default 1 (ours; minimum class confusion uses 2.5).
        weighting: of the rows: "none" (default), or "entropy": 1 + exp(-H_n) with the row's entropy H_n, scaled to sum
            to the number of rows, and constant for the gradient (minimum class confusion).
        normalize: "row" (default): as above. "global": sum_{i != j} A_ij / (sum A + eps). "none": sum_{i != j} A_ij
            / B, which without weights is the mean Gini impurity 1 - sum_c p_c^2.
        eps: guard of the division, > 0. Default 1e-8; it must stay tiny, since classes with less mass cost nothing.

    Raises:
        ValueError: an argument out of range; logits with one class, without rows or without a class axis.
        TypeError: logits not floating point.

    Example:
        >>> loss = CoreLoss()
        >>> round(float(loss(torch.zeros(4, 5))), 6)
        0.8
    """

    def __init__(
        self, temperature: float = 1.0, weighting: str = "none", normalize: str = "row", eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.temperature = check_real("temperature", temperature, 0, low_open=True, high_open=True)
        self.weighting = check_choice("weighting", weighting, WEIGHTINGS)
        self.normalize = check_choice("normalize", normalize, ("row", "global", "none"))
        self.eps = check_real("eps", eps, 0, low_open=True, high_open=True)

    def forward(self, logits: Tensor) -> Tensor:
        """The loss of logits (B, C) or (B, C, ...), every position a row of its own; 0-dim, at least float32."""
        p, w = _probabilities(logits, self.temperature, self.weighting)
        weighted = w[:, None] * p
        mass = weighted.sum(0)  # r (C,)
        shared = (weighted * (1 - p)).sum(0)  # r - q (C,)
        if self.normalize == "row":
            return (shared / (mass + self.eps)).mean()
        if self.normalize == "global":
            return shared.sum() / (mass.sum() + self.eps)
        return shared.sum() / len(p)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"temperature={self.temperature}, weighting={self.weighting!r}, normalize={self.normalize!r}, "
            f"eps={self.eps}"
        )


class EntropyLoss(nn.Module):
    """Mean entropy of the predictions, ``mean_n -sum_c p_nc log p_nc``: the loss of TENT.

    Wang et al., "Tent: Fully Test-time Adaptation by Entropy Minimization", ICLR 2021, arXiv 2006.10726.

    Raises:
        ValueError: logits with one class, without rows or without a class axis.
        TypeError: logits not floating point.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """The loss of logits (B, C) or (B, C, ...), every position a row of its own; 0-dim, at least float32."""
        return _entropy(_rows(logits).log_softmax(1)).mean()
