"""STORM's rescaler Omega: features of a sample -> the weight of its loss (Heck et al. 2025, arXiv 2412.12955).

Architecture and normalisation were not readable in the paper; this is a reconstruction:

    s = sigmoid(W2 tanh(W1 F + b1) + b2),   w_i = n s_i / (sum_j s_j + 1e-8)

W2 = 0 and b2 = 0 at the start, so that training begins with equal weights. The mean weight is 1, which keeps the
scale of the learning rate and rules out the collapse s -> 0.
"""

from __future__ import annotations

from torch import Tensor, nn

from normviz.validation import check_choice, check_integer
from normviz.weighting._values import at_least_float32

__all__ = ["NORMALIZE", "LossRescaler"]

NORMALIZE = ("mean", "none", "softmax")
EPS = 1e-8


class LossRescaler(nn.Module):
    """Omega: features F [n, d_f] of a batch -> weights w [n] of its losses.

    With "mean" the weights have mean 1 - eps/(sum s + eps), eps = 1e-8. The weights of a batch depend on one another
    through the normalisation. A batch of one always has weight 1 (to 1e-8).

    Args:
        num_features: d_f (7, those of :func:`sample_features`).
        hidden: width of the hidden layer (16, our choice).
        normalize: "mean" (default, our choice): w = n s / (sum s + 1e-8); "none": w = s; "softmax": n times the softmax
            of the pre-sigmoid values.

    Raises:
        ValueError: a size below 1, unknown normalize; in forward: features not [n, d_f].

    Example:
        >>> LossRescaler()(Tensor(3, 7).uniform_()).detach()
        tensor([1., 1., 1.])

    Reference: Heck et al., "Learning from Noisy Labels via Self-Taught On-the-Fly Meta Loss Rescaling", arXiv
        2412.12955, Omega of Algorithm 1.
    """

    def __init__(self, num_features: int = 7, hidden: int = 16, normalize: str = "mean") -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.hidden = check_integer("hidden", hidden, 1)
        self.normalize = check_choice("normalize", normalize, NORMALIZE)
        self.layer1 = nn.Linear(self.num_features, self.hidden)
        self.layer2 = nn.Linear(self.hidden, 1)
        nn.init.zeros_(self.layer2.weight)
        nn.init.zeros_(self.layer2.bias)

    def _scores(self, features: Tensor) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"features must have shape [n, {self.num_features}], got {tuple(features.shape)}."
            )
        scores: Tensor = self.layer2(self.layer1(features).tanh())
        return scores.squeeze(1)

    def raw(self, features: Tensor) -> Tensor:
        """s [n] in (0, 1): Omega's score of each sample by itself, before the normalisation over the batch."""
        return self._scores(features).sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """w [n]."""
        scores = self._scores(features)
        z = at_least_float32(scores)
        n = z.shape[0]
        if self.normalize == "softmax":
            w = n * z.softmax(0)
        elif self.normalize == "none":
            w = z.sigmoid()
        else:
            s = z.sigmoid()
            w = n * s / (s.sum() + EPS)
        return w.to(scores.dtype)

    def extra_repr(self) -> str:
        """The configuration."""
        return f"num_features={self.num_features}, hidden={self.hidden}, normalize={self.normalize!r}"
