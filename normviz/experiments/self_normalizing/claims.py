"""What the paper of the page *Self-normalizing networks* claims, measured here."""

from __future__ import annotations

import numpy as np

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.pools import TEST_DIGITS, TEST_ROWS
from normviz.experiments.self_normalizing.knobs import ALPHA_DROPOUT, SNN, arm_name
from normviz.experiments.self_normalizing.recorded import FOREST, SVM
from normviz.measures import Measure, absolute, array, constant, scalar

__all__ = ["CLAIMS"]

BN, LN, WN, RELU = (arm_name(kind) for kind in ("relu_bn", "relu_ln", "relu_wn", "relu"))
RIVALS = {"batch norm": BN, "layer norm": LN, "weight norm": WN, "ReLU": RELU}
TAIL = 10
"""Training losses that are averaged for a final value."""


def _worst_variance(arm: str) -> Measure:
    """Largest |log2 variance| of a hidden layer over the whole training."""
    return array("var_by_layer", arm, lambda v: float(np.abs(np.log2(v[1:])).max()), reduce="max", since=0.0)


def _accuracy(arm: str) -> Measure:
    return scalar("validation_accuracy", arm, window=3, bad=-np.inf)


RACE = "121 UCI tasks: SNNs significantly better than ReLU nets alone, with batch, layer, weight norm (abstract)."
SMALL = (
    "75 UCI tasks with fewer than 1,000 examples: recalled, not confirmed, that SVM and forests lead there."
)
OVER_NETWORKS: dict[str, Measure] = {rival: _accuracy(SNN) - _accuracy(arm) for rival, arm in RIVALS.items()}
OVER_CLASSICAL: dict[str, Measure] = {
    "SVM": _accuracy(SNN) - constant(SVM),
    "random forest": _accuracy(SNN) - constant(FOREST),
}
STANDARD = {"fixed_mean": 0.0, "fixed_var": 1.0}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="attracting-fixed-point",
        paper="self-normalizing",
        statement="The moment map contracts at its fixed point, mean 0 and variance 1.",
        paper_figure="Spectral norm of the Jacobian there: 0.7877.",
        measured="spectral norm of the Jacobian at mean 0, variance 1",
        measure=constant("theorem/fixed_point_norm"),
        rule=Identity("below", 1.0),
        preset="deep",
    ),
    Claim(
        id="theorem-1",
        paper="self-normalizing",
        statement="It contracts on a whole box around the fixed point and maps the box into itself.",
        paper_figure="Theorem 1: means and weight sums within ±0.1, variances 0.8 to 1.5, squares 0.95 to 1.1.",
        measured="largest spectral norm of the Jacobian on a grid of 9⁴ points (infinite if a point leaves the box)",
        measure=constant("theorem/contraction"),
        rule=Identity("below", 1.0),
        preset="deep",
    ),
    Claim(
        id="theorem-2",
        paper="self-normalizing",
        statement="A large variance shrinks, whatever the mean and weights in a wide range: no exploding activations.",
        paper_figure="Theorem 2: variances from 3 to 16.",
        measured="greatest growth of the variance by a layer on a grid of 9⁴ points",
        measure=constant("theorem/large_variance"),
        rule=Identity("below", 0.0),
        preset="deep",
    ),
    Claim(
        id="theorem-3",
        paper="self-normalizing",
        statement="A small variance grows: no vanishing activations.",
        paper_figure="Theorem 3: variances up to 0.16, or up to 0.24 with squared weights of at least 0.9.",
        measured="least growth of the variance by a layer on two grids of 9⁴ points",
        measure=constant("theorem/small_variance"),
        rule=Identity("above", 0.0),
        preset="deep",
    ),
    Claim(
        id="converges-through-depth",
        paper="self-normalizing",
        statement="Through many layers, activations converge to mean 0 and variance 1.",
        paper_figure="Abstract, a theorem (Banach's fixed point).",
        measured="distance from (0, 1) after 64 random layers of width 256 whose inputs have variance 1.44",
        measure=constant("fresh/distance"),
        rule=Bound("below", 0.25),
        preset="deep",
    ),
    Claim(
        id="alpha-dropout-keeps-variance",
        paper="self-normalizing",
        statement="Alpha dropout leaves mean and variance as they are.",
        paper_figure="Exact by construction.",
        measured="change of the variance of 2¹⁸ SELU outputs by alpha dropout at the rate that is set",
        measure=absolute(constant("dropout/alpha")),
        rule=Identity("below", 0.02),
        preset="deep",
    ),
    *(
        Claim(
            id=name,
            paper="self-normalizing",
            statement=statement,
            paper_figure="Qualitative: weights stay near the conditions of the theorems.",
            measured=f"largest |log₂ variance| of a layer of {arm} during training (1 means a factor of 2)",
            measure=_worst_variance(arm),
            rule=Bound("below", 1.0),
            preset="deep",
            given=STANDARD,
            unit="octaves",
        )
        for name, arm, statement in (
            (
                "variance-while-training",
                SNN,
                "The network normalizes itself in every layer, also while its weights are trained.",
            ),
            ("variance-with-alpha-dropout", ALPHA_DROPOUT, "It does so with alpha dropout too."),
        )
    ),
    Claim(
        id="gradients-neither-vanish-nor-explode",
        paper="self-normalizing",
        statement="In a deep SNN gradients neither vanish nor explode.",
        paper_figure="Qualitative (abstract): vanishing and exploding gradients are impossible.",
        measured="|log10| ratio of the first hidden layer's gradient (root mean square of a weight's) to the last's, "
        "largest over the run",
        measure=array(
            "gradient_by_layer", SNN, lambda v: float(abs(np.log10(v[0] / v[-1]))), reduce="max", since=0.0
        ),
        rule=Bound("below", 1.0),
        preset="deep",
        given={**STANDARD, "depth": lambda depth: depth >= 32},
        given_words="at least 32 layers",
        unit="orders of magnitude",
        caveat="The limit of one order is ours: 8 % per layer over 31 layers would exceed it.",
    ),
    Claim(
        id="trains-deep",
        paper="self-normalizing",
        statement="Very deep SNNs train where plain networks do not.",
        paper_figure=RACE,
        measured=f"training loss of SNN minus ReLU, mean of the last {TAIL} steps",
        measure=scalar("loss", SNN, window=TAIL) - scalar("loss", RELU, window=TAIL),
        rule=Effect("below", floor=0.1),
        preset="deep",
        given={"depth": lambda depth: depth >= 32},
        given_words="at least 32 layers",
        unit="nats",
        caveat="One learning rate for both; the paper chose the rate for each of its tasks.",
    ),
    *(
        Claim(
            id=f"better{where}{suffix}",
            paper="self-normalizing",
            statement=f"{arm} classifies better than ReLU networks alone and with batch, layer and weight norm{words}.",
            paper_figure=RACE,
            measured=f"accuracy of {arm} minus each rival's on held-out examples",
            measure={rival: _accuracy(arm) - _accuracy(other) for rival, other in RIVALS.items()},
            rule=Effect("above", floor=0.5),
            preset=preset,
            given={"depth": depths},
            given_words=given,
            unit="points",
            resolution=100 / TEST_DIGITS,
            caveat=caveat,
        )
        for arm, suffix in ((SNN, ""), (ALPHA_DROPOUT, "-with-dropout"))
        for where, preset, depths, given, words, caveat in (
            (
                "-deep",
                "deep",
                lambda depth: depth >= 32,
                "at least 32 layers",
                ", at 32 layers and one learning rate",
                "Every network has the same learning rate; at its own best rate a rival may do better.",
            ),
            (
                "",
                "best-rates",
                8,
                "",
                ", each at its best learning rate",
                "One task with 1,348 training examples; the paper has 121.",
            ),
        )
    ),
    Claim(
        id="beats-classical",
        paper="self-normalizing",
        statement="On a task with more than 1,000 examples an SNN is better than a support vector machine and a random "
        "forest.",
        paper_figure="UCI tasks with more than 1,000 examples: better than all other methods, SVM and forests among "
        "them. That there are 46 of them is recalled, not confirmed.",
        measured="accuracy of SNN at its best learning rate minus each rival's on the same held-out examples",
        measure=OVER_CLASSICAL,
        rule=Effect("above", floor=0.5),
        preset="best-rates",
        given={"data": "digits", "depth": 8, "classical": True},
        unit="points",
        resolution=100 / TEST_DIGITS,
        caveat="One task. The SVM has the best of six settings by cross-validation, the forest 500 trees.",
    ),
    *(
        Claim(
            id=f"better{rest}-{preset}",
            paper="self-normalizing",
            statement=f"On a small table ({what}) an SNN classifies better than {rivals_words}.",
            paper_figure=figure,
            measured="accuracy of SNN at its best learning rate minus each rival's on the same held-out examples",
            measure=measure,
            rule=Effect("above", floor=floor),
            preset=preset,
            given={"data": data, "depth": 8, "classical": True},
            unit="points",
            resolution=floor,
            caveat=f"One table with {tested} held-out examples: one of them is {floor:.1f} points.",
        )
        for preset, data, what, tested in (
            ("breast-cancer", "breast_cancer", "breast tumours", TEST_ROWS["breast_cancer"]),
            ("wine", "wine", "wines", TEST_ROWS["wine"]),
        )
        for floor in (100 / tested,)
        for rest, rivals_words, figure, measure in (
            ("", "ReLU networks alone and with batch, layer and weight norm", RACE, OVER_NETWORKS),
            ("-than-classical", "a support vector machine and a random forest", SMALL, OVER_CLASSICAL),
        )
    ),
    Claim(
        id="depth-pays",
        paper="self-normalizing",
        statement="The best SNNs are deep: depth costs them less than networks with batch norm.",
        paper_figure="Mean depth of the networks selected on UCI: 10.8, with batch norm 6.0 (quoted second-hand).",
        measured="accuracy gained from 8 to 32 layers, SNN's minus ReLU + BN's",
        measure=(_accuracy(SNN) - _accuracy(arm_name("snn", 8)))
        - (_accuracy(BN) - _accuracy(arm_name("relu_bn", 8))),
        rule=Effect("above", floor=0.5),
        preset="two-depths",
        given={"depth": 32, "second_depth": 8},
        unit="points",
        resolution=200 / TEST_DIGITS,
    ),
)
