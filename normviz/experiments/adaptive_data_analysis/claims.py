"""What the paper of the page *Adaptive data analysis* claims, measured here."""

from __future__ import annotations

import math
from typing import Any

from normviz.claims import Bound, Claim, Effect, Identity, claims_of
from normviz.experiments.adaptive_data_analysis.knobs import ARMS
from normviz.measures import Measure, absolute, constant, scalar

__all__ = ["CLAIMS"]

PAPER = "adaptive-data-analysis"
ROWS = 2000
"""Rows and questions at which the claims are decided."""

CLOSE = 2.0
"""How far a measured accuracy may be from the closed form, in points."""
TRUE_GAP = 15.0
"""Least overstatement of plain reuse at d = n, in points; theory says 28.8."""
EFFECT = 5.0
"""Least difference between two mechanisms that counts, in points."""
CLIMB_EFFECT = 2.0
"""The same for the hill climb, whose classifiers differ little."""
LOOSE = 100 * 7 / math.sqrt(ROWS)
"""T + 3 sigma with T = 4 / sqrt(n), sigma = 1 / sqrt(n): what Thresholdout promises, in points."""
FIXED = 100 * math.sqrt(math.log(2 * ROWS / 0.05) / (2 * ROWS))
"""Hoeffding's bound on the error of 2,000 answers at once, with probability 0.95, in points."""

PLAIN, THRESHOLDOUT, PMW = ARMS["plain"], ARMS["thresholdout"], ARMS["pmw"]
AT_SIZE: dict[str, Any] = {"rows": ROWS, "queries": ROWS}
PURE_NOISE: dict[str, Any] = {"task": "noise", "signal": False, **AT_SIZE}
SCIENCE = (
    "Science 349:636, n = d = 10,000: the reused holdout reports about 63 % at 500 features where 50 % are true "
    "(quoted from memory); Thresholdout's report stays close to the truth."
)
RESOLUTION = 100 / ROWS


def _end(name: str, arm: str, bad: float = math.inf) -> Measure:
    return scalar(name, arm, bad=bad)


def _from_theory(arm: str, name: str) -> dict[str, Measure]:
    """The distance from the closed form in both directions."""
    measured = _end(name, arm) - _end("theory", arm) + 50.0
    return {"larger than theory": measured, "smaller than theory": measured * -1.0}


_claim = claims_of(PAPER, unit="points", resolution=RESOLUTION)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "plain-reuse-overfits",
        "A holdout that is asked n questions, one per feature of pure noise, makes their vote look good.",
        "Naive reuse needs n = Ω(m) rows for m adaptive questions. Closed form at d = n: 78.8 % reported, 50 % true.",
        "reported minus fresh accuracy of plain reuse after 2,000 questions about 2,000 rows",
        _end("gap", PLAIN, -math.inf),
        Effect("above", floor=TRUE_GAP),
        "noise",
        given=PURE_NOISE,
    ),
    _claim(
        "plain-reuse-as-theory",
        "By how much it overstates follows from n and d alone.",
        "Φ(√(2d/πn)) − ½, derived for this attack.",
        "reported minus fresh accuracy of plain reuse, minus the closed form, both ways",
        _from_theory(PLAIN, "gap"),
        Bound("below", CLOSE),
        "noise",
        given=PURE_NOISE,
    ),
    _claim(
        "noise-as-theory",
        "Noise in the answers lowers the overfitting by as much as the closed form says.",
        "Φ(√(2d/π) (1/n) / √(1/n + s²)) − ½ with noise s on the scale of correlations.",
        "accuracy of the Gaussian mechanism's vote on its own rows minus fresh accuracy, minus the closed form, both "
        "ways",
        _from_theory(ARMS["gaussian"], "overfit"),
        Bound("below", CLOSE),
        "noise",
        given=PURE_NOISE,
        caveat="Measured on the holdout's rows themselves, which the analyst never sees: the answer itself is noisy.",
    ),
    _claim(
        "noise-improves-validity",
        "Noise makes answers more valid: a private mechanism lets the analyst overfit less.",
        "Transfer theorem: what a differentially private algorithm finds in the sample holds in the population.",
        "how far the vote overfits to the holdout's rows: plain reuse minus each noisy mechanism",
        {
            ARMS[kind]: _end("overfit", PLAIN, -math.inf) - _end("overfit", ARMS[kind])
            for kind in ("laplace", "gaussian")
        },
        Effect("above", floor=EFFECT),
        "noise",
        given=PURE_NOISE,
    ),
    _claim(
        "fixed-questions-are-safe",
        "Questions that do not depend on answers are all answered accurately, even without any mechanism.",
        "Hoeffding: error at most √(ln(2m/β)/2n) for m questions at once, 5.3 points here at β = 0.05.",
        "largest error of plain reuse over 2,000 single answers",
        _end("worst", PLAIN),
        Bound("below", FIXED),
        "noise",
        given=PURE_NOISE,
        caveat="The same questions whose vote overstates by 29 points: only the last question depends on answers.",
    ),
    _claim(
        "standard-holdout-overstates",
        "A holdout that helps to select features reports too much.",
        SCIENCE,
        "reported minus fresh accuracy of plain reuse at 500 features, without signal",
        _end("gap", PLAIN, -math.inf),
        Effect("above", floor=EFFECT),
        "reusable-holdout",
        given={"task": "holdout", "signal": False, **AT_SIZE},
    ),
    _claim(
        "thresholdout-keeps-its-promise",
        "Thresholdout's report is within T and its noise of the truth.",
        "Its guarantee at n = 2,000: T + 3σ = 15.7 points, which is loose.",
        "distance of Thresholdout's report from fresh accuracy at 500 features, without signal",
        absolute(_end("gap", THRESHOLDOUT)),
        Bound("below", LOOSE),
        "reusable-holdout",
        given={"task": "holdout", "signal": False, **AT_SIZE},
    ),
    _claim(
        "thresholdout-overstates-less",
        "Thresholdout does not overstate where the reused holdout does.",
        SCIENCE,
        "overstatement of plain reuse minus that of Thresholdout at 500 features, without signal",
        _end("gap", PLAIN, -math.inf) - _end("gap", THRESHOLDOUT),
        Effect("above", floor=EFFECT),
        "reusable-holdout",
        given={"task": "holdout", "signal": False, **AT_SIZE},
    ),
    _claim(
        "thresholdout-finds-signal",
        "Thresholdout finds the features with signal as well as the standard holdout does.",
        "Science 349:636: curves of holdout and fresh accuracy agree (numbers not confirmed).",
        "fresh accuracy of the classifier with the highest report, Thresholdout minus plain reuse, each its own number "
        "of features",
        constant("chosen/fresh", THRESHOLDOUT) - constant("chosen/fresh", PLAIN),
        Bound("above", -CLOSE),
        "signal",
        given={"task": "holdout", "signal": True, **AT_SIZE},
        caveat="At 2,000 rows T = 4/√n is four times the noise of a correlation: it hides the overfitting of the first "
        "features. The paper has 10,000 rows.",
    ),
    _claim(
        "pmw-stays-valid",
        "Private multiplicative weights answers as many questions without being overfitted.",
        "n = O(log m √(log|X|)) rows are enough up to the accuracy τ: exponentially many questions.",
        "overstatement of plain reuse minus that of PMW after 2,000 questions on a universe of 1,024 elements",
        _end("gap", PLAIN, -math.inf) - _end("gap", PMW),
        Effect("above", floor=EFFECT),
        "small-universe",
        given={"task": "universe", "signal": False, **AT_SIZE},
    ),
    _claim(
        "pmw-updates-are-few",
        "However many questions are asked, the hypothesis is corrected only a few times.",
        "At most 4 ln|X| / γ² updates: KL divergence starts below ln|X| and every update lowers it.",
        "updates of PMW in 2,000 questions, as a share of the bound for γ = T",
        _end("spent", PMW) / (4 * math.log(1024) / 0.1**2 / 100),
        Identity("below", 100.0),
        "small-universe",
        given={"task": "universe", "threshold": 0.1, **AT_SIZE},
        unit="%",
        resolution=0.0,
    ),
    _claim(
        "hill-climb-overstates",
        "Tuning on a reused holdout reports too much.",
        "Qualitative: reuse of the holdout in adaptive tuning overfits to it.",
        "reported minus fresh accuracy of plain reuse after 500 configurations",
        _end("gap", PLAIN, -math.inf),
        Effect("above", floor=CLIMB_EFFECT),
        "hill-climb",
        given={"task": "climb", "queries": 500},
        resolution=100 / 200,
    ),
    _claim(
        "thresholdout-rescues-the-climb",
        "Thresholdout makes the report of such a search honest.",
        "Follows from the guarantee, if the training accuracy is a good guess for most configurations.",
        "overstatement of plain reuse minus that of Thresholdout after 500 configurations",
        _end("gap", PLAIN, -math.inf) - _end("gap", THRESHOLDOUT),
        Effect("above", floor=CLIMB_EFFECT),
        "hill-climb",
        given={"task": "climb", "queries": 500},
        resolution=100 / 200,
        caveat="The guess is the training accuracy, far above the holdout's for every configuration: each answer comes "
        "from the holdout. No effect is expected.",
    ),
)
