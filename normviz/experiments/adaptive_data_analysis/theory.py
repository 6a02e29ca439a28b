"""What theory says about the vote of d noise features: the accuracy that each mechanism's own data seem to show.

Dwork et al., arXiv 1411.2664. A row's product x y enters the answer about its own feature with 1/n. The sign of a noisy
answer agrees with it with probability 1/2 + f(0)/n, f the density of the rest of the answer (on the scale of c = 2 a -
1) at zero, so that a vote of d features is right about the row with probability Phi(2 sqrt(d) f(0) / n). With Gaussian
noise that is ``expected_attack_accuracy``; for Laplace noise of scale b beside N(0, v), f(0) = exp(v / (2 b^2))
erfc(sqrt(v / 2) / b) / (2 b).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.special import erfcx

from normviz.adaptive.data_analysis import expected_attack_accuracy

__all__ = ["laplace_attack_accuracy", "theory_accuracy"]


def laplace_attack_accuracy(n: int, d: int, scale: float) -> float:
    """Accuracy of the sign aggregation attack on its own rows when answers have Laplace noise.

    Args:
        n: rows.
        d: features.
        scale: of the noise of an answer a in [0, 1]; above 0.
    """
    b, v = 2 * scale, 1 / n
    density = float(erfcx(math.sqrt(v / 2) / b)) / (2 * b)
    return NormalDist().cdf(2 * math.sqrt(d) * density / n)


def theory_accuracy(kind: str, n: int, d: int, noise: float) -> float | None:
    """What a mechanism is expected to report about a vote of d noise features; None: theory gives no formula.

    Args:
        kind: the mechanism's key in the knobs.
        n: rows.
        d: features asked about.
        noise: standard deviation of the noise of an answer.
    """
    if kind == "splitting":
        return 0.5
    if kind == "plain" or (kind in ("laplace", "gaussian") and not noise):
        return expected_attack_accuracy(n, d)
    if kind == "gaussian":
        return expected_attack_accuracy(n, d, 2 * noise)
    return laplace_attack_accuracy(n, d, noise / math.sqrt(2)) if kind == "laplace" else None
