"""What the paper of the page *Modular diffusion* claims, measured here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Identity, claims_of
from normviz.experiments.modular_diffusion.knobs import ARM_NAMES
from normviz.measures import Measure, array, constant, scalar

__all__ = ["CLAIMS", "slope"]

ORTHOGONAL, DISJOINT, GAUSSIAN, LORA, FROZEN, SHARED, LORA_SHARED = (
    ARM_NAMES[kind]
    for kind in ("orthogonal", "disjoint", "gaussian", "lora", "frozen", "shared", "lora_shared")
)

AS_GOOD = 1.2
"""Ratio of distances up to which one is as good as the other: "within 20 %"."""
HALF, LITTLE = 0.5, 0.1
"""Distance below 1 of a ratio that has to be below one half, and of one that has to be below 1 at all."""
VISIBLE = 0.02
"""Difference of distances that counts: about twice the distance of a concept before merging."""

SUMMARY = "The ordering of the methods. Figures were not readable to us."
OURS = "Not in the paper: our control."


def _distance(arm: str, how: str) -> Measure:
    return scalar(f"distance_{how}", arm)


def _added(arm: str, how: str = "sum") -> Measure:
    """Distance after merging minus that before, mean over concepts."""
    return _distance(arm, how) - _distance(arm, "alone")


def slope(added: NDArray[np.float64]) -> float:
    """Growth of the added distance with every further concept, by least squares from two concepts on.

    Args:
        added: added distance for 1, 2, … concepts.
    """
    merged = np.arange(2, len(added) + 1)
    return float(np.polyfit(merged, added[1:], 1)[0])


_claim = claims_of("orthogonal-adaptation")

CLAIMS: tuple[Claim, ...] = (
    _claim(
        "weights-apart",
        "Adapters with frames that were fixed before training hardly share directions; trained ones do.",
        "Shown by the construction; no figure.",
        "weight crosstalk of two concepts, LoRA minus Orthogonal, mean over pairs and layers",
        scalar("weight_crosstalk", LORA) - scalar("weight_crosstalk", ORTHOGONAL),
        Effect("above", floor=0.1),
        "three-concepts",
    ),
    _claim(
        "token-turns-into-its-frame",
        "A token that is trained with its adapters turns into its own frame, where the other adapters do not read.",
        "Not in the paper: it follows from the gradient, which passes the frame.",
        "share of a token's squared length in its own frame over that in another concept's",
        scalar("own_share", ORTHOGONAL) / scalar("other_share", ORTHOGONAL),
        Effect("above", floor=1.0, null=1.0),
        "three-concepts",
        unit="times",
    ),
    _claim(
        "sum-against-lora-sum",
        "Summed orthogonal adapters damage the concepts less than half as much as summed LoRA.",
        SUMMARY + " The factor of one half is ours.",
        "distance added by the sum, Orthogonal over LoRA",
        _added(ORTHOGONAL) / _added(LORA),
        Effect("below", floor=0.2, bar=HALF, null=1.0),
        "four-concepts",
        unit="times",
    ),
    _claim(
        "sum-against-lora-average",
        "Summed orthogonal adapters damage the concepts less than averaged LoRA (FedAvg).",
        SUMMARY,
        "distance added by merging, sum of Orthogonal over average of LoRA",
        _added(ORTHOGONAL) / _added(LORA, "average"),
        Effect("below", floor=LITTLE, null=1.0),
        "four-concepts",
        unit="times",
    ),
    _claim(
        "sum-against-fusion",
        "The sum keeps the concepts as well as Mix-of-Show's gradient fusion of LoRA.",
        SUMMARY + " Within 20 % is our reading of it.",
        "distance after merging, sum of Orthogonal over gradient fusion of LoRA",
        _distance(ORTHOGONAL, "sum") / _distance(LORA, "fused"),
        Bound("below", AS_GOOD),
        "four-concepts",
        unit="times",
        caveat="Here a layer sees one token per concept. Fusion can then keep every concept exactly, which it cannot "
        "do with the many inputs of a text-to-image model.",
    ),
    _claim(
        "sum-is-fast",
        "Merging by sum takes less than a hundredth of the time of gradient fusion.",
        "Near-instant against minutes of optimisation.",
        "time of the sum over that of gradient fusion by L-BFGS with 50 iterations",
        scalar("sum_ms", ORTHOGONAL) / scalar("fusion_ms", ORTHOGONAL),
        Bound("below", 0.01),
        "four-concepts",
        unit="times",
        caveat="Three small layers with one input per concept: L-BFGS ends early. The benchmark has layers of the "
        "paper's size.",
    ),
    _claim(
        "alone-as-good",
        "With one factor fixed a concept alone is learned as well as with LoRA.",
        "Comparable before merging. Figures were not readable to us.",
        "distance before merging, Orthogonal over LoRA",
        _distance(ORTHOGONAL, "alone") / _distance(LORA, "alone"),
        Bound("below", AS_GOOD),
        "four-concepts",
        unit="times",
    ),
    _claim(
        "average-dilutes",
        "Orthogonal adapters are made to be summed: an average leaves 1/N of each.",
        "The method sums.",
        "distance of the averaged minus that of the summed model, Orthogonal",
        _distance(ORTHOGONAL, "average") - _distance(ORTHOGONAL, "sum"),
        Effect("above", floor=VISIBLE),
        "four-concepts",
    ),
    _claim(
        "grows-slowly",
        "With every further concept the damage grows less than with LoRA.",
        "Qualitative: it scales to many concepts.",
        "growth of the added distance per concept from 2 to 6, LoRA minus Orthogonal",
        array("added_by_count", LORA, slope) - array("added_by_count", ORTHOGONAL, slope),
        Effect("above", floor=0.005),
        "six-concepts",
        given={"concepts": 6},
    ),
    _claim(
        "disjoint-is-exact",
        "Frames without a common column give residuals with no crosstalk at all.",
        "Exact by construction.",
        "largest weight crosstalk of two concepts, Disjoint",
        constant("largest_crosstalk", DISJOINT, reduce="max"),
        Identity("below", 1e-6),
        "three-frames",
    ),
    _claim(
        "no-agreement-needed",
        "Random frames are as good as frames that somebody has assigned: users need not speak with each other.",
        "Qualitative: no data and no coordination.",
        "distance after the sum, random frames over Disjoint",
        {arm: _distance(arm, "sum") / _distance(DISJOINT, "sum") for arm in (ORTHOGONAL, GAUSSIAN)},
        Bound("below", AS_GOOD),
        "three-frames",
        unit="times",
    ),
    _claim(
        "token-must-be-trained",
        "Without training the tokens, most of the effect is lost.",
        OURS + " The paper trains the token embeddings.",
        "distance added by the sum, fixed token minus trained token",
        _added(FROZEN) - _added(ORTHOGONAL),
        Effect("above", floor=VISIBLE),
        "fixed-token",
    ),
    _claim(
        "shared-input-weights",
        "Also in layers with a shared input the weights of the adapters are apart.",
        "Qualitative: the principle holds for nearly all layers.",
        "weight crosstalk of two concepts, Orthogonal in layers with a shared input",
        scalar("weight_crosstalk", SHARED),
        Bound("below", 0.1),
        "shared-input",
    ),
    _claim(
        "shared-input-functions",
        "Also in layers with a shared input the sum damages the concepts less than half as much as with LoRA.",
        "Qualitative: the principle holds for nearly all layers. We expect that it fails here.",
        "distance added by the sum in layers with a shared input, Orthogonal over LoRA",
        _added(SHARED) / _added(LORA_SHARED),
        Effect("below", floor=0.2, bar=HALF, null=1.0),
        "shared-input",
        unit="times",
    ),
    _claim(
        "shared-input-average",
        "In layers with a shared input an average is better than the sum.",
        OURS + " It limits the method.",
        "distance after the sum minus that after the average, Orthogonal in layers with a shared input",
        _distance(SHARED, "sum") - _distance(SHARED, "average"),
        Effect("above", floor=VISIBLE),
        "shared-input",
    ),
)
