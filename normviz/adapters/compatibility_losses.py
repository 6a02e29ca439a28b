"""What maps between two models' features are trained with: alignment both ways, contrast across models, orthogonality.

Ricci et al., "lambda-Orthogonality Regularization for Compatible Representation Learning", arXiv 2509.16664. The paper
sums a forward, a backward and a supervised contrastive term; their exact forms and weights were not at hand. Here: mean
squares, and the supervised contrastive loss over the union of mapped and old features.

With z = B(h_new) the new features in the old space, u = F(h_old) the updated old features, all [N, d]:

==============================================================  ==============================
L_B = mean (z - h_old)^2                                        ``BackwardAlignmentLoss``
L_F = mean (u - z)^2                                            ``ForwardAlignmentLoss``
L_C, over {z, u, h_old}                                         ``CrossModelSupConLoss``
w_F L_F + w_B L_B + w_C L_C + w_lambda L_lambda(W_B)            ``CompatibilityLoss``
==============================================================  ==============================
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from normviz.adapters._values import at_least_float32, full_precision
from normviz.adapters.orthogonality import LambdaOrthogonalityLoss
from normviz.validation import check_real

__all__ = ["BackwardAlignmentLoss", "CompatibilityLoss", "CrossModelSupConLoss", "ForwardAlignmentLoss"]

EPS = 1e-12
"""Lower bound of norms that are divided by."""


def _mean_square(names: tuple[str, str], a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    return (a - b).square().mean()


class BackwardAlignmentLoss(nn.Module):
    """L_B = mean (z - h_old)^2 over batch and dimensions: new features in the old space (arXiv 2509.16664).

    Shape:
        z, h_old [N, d] -> 0-dim.

    Raises:
        ValueError: different shapes.
    """

    def forward(self, z: Tensor, h_old: Tensor) -> Tensor:
        """The loss."""
        return _mean_square(("z", "h_old"), z, h_old)


class ForwardAlignmentLoss(nn.Module):
    """L_F = mean (u - z)^2 over batch and dimensions; the gradient reaches both maps (arXiv 2509.16664).

    Shape:
        u, z [N, d] -> 0-dim.

    Raises:
        ValueError: different shapes.
    """

    def forward(self, u: Tensor, z: Tensor) -> Tensor:
        """The loss."""
        return _mean_square(("u", "z"), u, z)


class CrossModelSupConLoss(nn.Module):
    """Supervised contrastive loss over the union of z, u and h_old, each with the batch's labels (arXiv 2509.16664).

    With rows normalised, c_ij their cosine, P(i) the other rows of i's label::

        L_C = mean_i -1/|P(i)| sum_{p in P(i)} log( exp(c_ip / tau) / sum_{a != i} exp(c_ia / tau) )

    The form is that of Khosla et al., arXiv 2004.11362 (eq. 2, L_out). Anchors without positives are left out. Scaling
    a row changes nothing.

    Args:
        temperature: tau > 0, 0.1 by default.

    Shape:
        z, u, h_old [N, d], labels [N] -> 0-dim, in the features' dtype but at least float32. 0 for an empty batch.

    Raises:
        ValueError: temperature <= 0, features of different shapes, labels of another length.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = check_real("temperature", temperature, 0, low_open=True, high_open=True)

    def extra_repr(self) -> str:
        """Temperature."""
        return f"temperature={self.temperature:g}"

    def forward(self, z: Tensor, u: Tensor, h_old: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        if z.ndim != 2 or z.shape != u.shape or z.shape != h_old.shape:
            raise ValueError(
                f"z, u and h_old must have the same shape [N, d], got {tuple(z.shape)}, {tuple(u.shape)} and "
                f"{tuple(h_old.shape)}."
            )
        if labels.shape != z.shape[:1]:
            raise ValueError(f"labels must have shape ({len(z)},), got {tuple(labels.shape)}.")
        dtype = at_least_float32(z, u, h_old)
        rows = normalize(torch.cat((z.to(dtype), u.to(dtype), h_old.to(dtype))), dim=1, eps=EPS)  # (3N, d)
        labels = labels.repeat(3)
        with full_precision(rows):
            scores = rows @ rows.mT / self.temperature  # (3N, 3N)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        log_p = scores - scores.masked_fill(itself, -math.inf).logsumexp(1, keepdim=True)
        positive = (labels[:, None] == labels) & ~itself
        count = positive.sum(1)
        each = -log_p.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
        return each.sum() / (count > 0).sum().clamp_min(1)


class CompatibilityLoss(nn.Module):
    """w_F L_F + w_B L_B + w_C L_C + w_lambda L_lambda(W_B), with all four terms (arXiv 2509.16664).

    Only the backward map's weight is regularised, never its bias nor the forward map.

    Args:
        lam: threshold of :class:`normviz.adapters.LambdaOrthogonalityLoss` (1); a distance, not a weight.
        w_forward, w_backward, w_contrastive, w_lambda: weights >= 0, all 1 by default (the paper's were not at hand).
        mode, beta, relative: of the orthogonality term.
        temperature: of the contrastive term (0.1).

    Shape:
        z, u, h_old [N, d], labels [N], weight [out, in] or None -> (total, parts), 0-dim; parts holds the unweighted
        "forward", "backward", "contrastive" and "lambda", which is 0 if weight is None (a strict map). h_old gets no
        gradient.

    Raises:
        ValueError: a negative weight, and whatever the terms refuse.
    """

    def __init__(
        self,
        lam: float = 1.0,
        *,
        w_forward: float = 1.0,
        w_backward: float = 1.0,
        w_contrastive: float = 1.0,
        w_lambda: float = 1.0,
        mode: str = "gated",
        beta: float | None = None,
        relative: bool = False,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.w_forward = check_real("w_forward", w_forward, 0, high_open=True)
        self.w_backward = check_real("w_backward", w_backward, 0, high_open=True)
        self.w_contrastive = check_real("w_contrastive", w_contrastive, 0, high_open=True)
        self.w_lambda = check_real("w_lambda", w_lambda, 0, high_open=True)
        self.forward_loss = ForwardAlignmentLoss()
        self.backward_loss = BackwardAlignmentLoss()
        self.contrastive_loss = CrossModelSupConLoss(temperature)
        self.lambda_loss = LambdaOrthogonalityLoss(lam, mode, beta, relative)

    def extra_repr(self) -> str:
        """Weights."""
        return (
            f"w_forward={self.w_forward:g}, w_backward={self.w_backward:g}, "
            f"w_contrastive={self.w_contrastive:g}, w_lambda={self.w_lambda:g}"
        )

    def forward(
        self, z: Tensor, u: Tensor, h_old: Tensor, labels: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms."""
        h_old = h_old.detach()
        parts = {
            "forward": self.forward_loss(u, z),
            "backward": self.backward_loss(z, h_old),
            "contrastive": self.contrastive_loss(z, u, h_old, labels),
            "lambda": z.new_zeros(()) if weight is None else self.lambda_loss(weight),
        }
        total = (
            self.w_forward * parts["forward"]
            + self.w_backward * parts["backward"]
            + self.w_contrastive * parts["contrastive"]
            + self.w_lambda * parts["lambda"]
        )
        return total, parts
