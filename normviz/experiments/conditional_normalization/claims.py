"""What the two papers of the page *Conditional normalization* claim, measured here.

The rules follow from the papers and were fixed before any run of this page.
"""

from __future__ import annotations

import math
from typing import Any

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.conditional_normalization.knobs import MODELS, PAINTERS
from normviz.experiments.conditional_normalization.recorded import PAINTED, TESTED
from normviz.measures import Measure, constant, scalar

__all__ = ["CLAIMS"]

LATE, LOAN, LATE_DAY, LOAN_DAY = (MODELS[kind] for kind in ("late", "loan", "late_day", "loan_day"))
LAYOUT, SPADE, SSTAN = (PAINTERS[kind] for kind in ("layout", "spade", "sstan"))

BETTER = "LOAN's network is better than the other baselines on FireCube, 2020 and 2021 (numbers unconfirmed)."
QUALITY = "Better quality than existing methods in metrics and a user study (numbers unconfirmed)."
QUALITATIVE = "Qualitative: pictures in the paper."
RECONSTRUCTED = "The inside of SSTAN is our reconstruction from the published description."

FIRE: dict[str, Any] = {"task": "fire", "response": "local", "season": 0.0, "knots": 4, "contrast": 2.0}
PAINT: dict[str, Any] = {"task": "paint", "adversary": False}


def _auroc(arm: str) -> Measure:
    return scalar("auroc", arm, bad=-math.inf)


def _error(arm: str) -> Measure:
    return scalar("transfer_error", arm)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="joined-early",
        paper="loan",
        statement="Maps that scale and shift the weather's features pixel by pixel beat two branches that meet late.",
        paper_figure=BETTER,
        measured=f"AUROC on {TESTED} test patches at the end, LOAN minus Late fusion",
        measure=_auroc(LOAN) - _auroc(LATE),
        rule=Effect("above", floor=0.02),
        preset="place",
        given=FIRE,
        caveat="A world of ours, made so that dryness counts where the land cover burns.",
    ),
    Claim(
        id="scale-follows-the-place",
        paper="loan",
        statement="The scale learns what a place does to the weather: it comes to follow the true response.",
        paper_figure="The idea of the layer; no figure is known to us.",
        measured="correlation of γ with the true response over pixels of test patches, at the end minus at the start; "
        "channel and sign are chosen on training patches",
        measure=scalar("gamma_response", LOAN, bad=-math.inf)
        - scalar("gamma_response", LOAN, reduce="max", since=0.0, until=0.0),
        rule=Effect("above", floor=0.1),
        preset="place",
        given=FIRE,
    ),
    Claim(
        id="paper-size",
        paper="loan",
        statement="The network of the official code has 413,762 trainable parameters.",
        paper_figure="413,762 parameters, counted in the official code with its default arguments.",
        measured="difference of our network's parameters at the paper's sizes from that number",
        measure=constant("size_difference", LOAN, reduce="max"),
        rule=Identity("below", 0.5),
        preset="place",
        given={"task": "fire"},
        unit="parameters",
    ),
    Claim(
        id="nothing-to-join",
        paper="loan",
        statement="Where only the means of map and weather decide, joining them early gains nothing.",
        paper_figure="A control of ours, not the paper's.",
        measured="AUROC at the end, LOAN minus Late fusion",
        measure=_auroc(LOAN) - _auroc(LATE),
        rule=Bound("below", 0.02),
        preset="only-means",
        given={**FIRE, "response": "global"},
    ),
    Claim(
        id="day-code",
        paper="loan",
        statement="A code of the day of the year tells the network what the weather does not.",
        paper_figure="Networks with and without it are published; the gain is unconfirmed.",
        measured="AUROC at the end, LOAN + day minus LOAN",
        measure=_auroc(LOAN_DAY) - _auroc(LOAN),
        rule=Effect("above", floor=0.01),
        preset="season",
        given={"task": "fire", "response": "local", "season": lambda season: season > 0},
        given_words="a season",
    ),
    Claim(
        id="joined-early-with-season",
        paper="loan",
        statement="Joining early helps also where the day counts and the network is told it.",
        paper_figure=BETTER,
        measured="AUROC at the end, LOAN + day minus Late fusion + day",
        measure=_auroc(LOAN_DAY) - _auroc(LATE_DAY),
        rule=Effect("above", floor=0.02),
        preset="season",
        given={"task": "fire", "response": "local", "season": lambda season: season > 0},
        given_words="a season",
    ),
    Claim(
        id="style-in-every-norm",
        paper="sstan",
        statement="Style in every norm paints another picture's style better than style at the start alone.",
        paper_figure=QUALITY,
        measured="style transfer error at the end, SSTAN minus SPADE (colours from −1 to 1)",
        measure=_error(SSTAN) - _error(SPADE),
        rule=Effect("below", floor=0.01),
        preset="style-transfer",
        given=PAINT,
        caveat=RECONSTRUCTED + " Both generators start from the same style code, and they are very small.",
    ),
    Claim(
        id="style-is-used",
        paper="sstan",
        statement="A generator that sees the style paints in it; one that sees the layout alone cannot.",
        paper_figure=QUALITATIVE,
        measured="style transfer error at the end, SSTAN minus SPADE with the layout only",
        measure=_error(SSTAN) - _error(LAYOUT),
        rule=Effect("below", floor=0.05),
        preset="style-transfer",
        given=PAINT,
        caveat=RECONSTRUCTED,
    ),
    Claim(
        id="layout-alone-has-one-style",
        paper="sstan",
        statement="SPADE with the layout alone paints one picture whatever the style.",
        paper_figure="By construction.",
        measured="largest difference of a pixel between two styles on one layout, at the end",
        measure=scalar("style_change", LAYOUT),
        rule=Identity("below", 1e-4),
        preset="style-transfer",
        given={"task": "paint"},
    ),
    Claim(
        id="domains-apart",
        paper="sstan",
        statement="In the space of style codes planes separate the art domains.",
        paper_figure=QUALITATIVE,
        measured="test pictures whose code lies furthest on the side of its own domain's plane",
        measure=scalar("separated", SSTAN, bad=-math.inf) * 100.0,
        rule=Bound("above", 90.0),
        preset="one-encoder",
        given={**PAINT, "encoder": "one"},
        unit="%",
        resolution=100 / PAINTED,
        caveat="With one encoder per domain, the paper's choice, this is nearly given by construction; so here is one "
        "for all.",
    ),
    Claim(
        id="walk-to-another-domain",
        paper="sstan",
        statement="Moving a code along a plane's normal changes the domain of the painted picture.",
        paper_figure=QUALITATIVE,
        measured="pictures whose colours are nearest to the target domain's, moved by twice the domains' distance "
        "minus not moved, mean over four targets",
        measure=(scalar("at_the_end", SSTAN, bad=-math.inf) - scalar("at_the_start", SSTAN)) * 100.0,
        rule=Effect("above", floor=25.0),
        preset="one-encoder",
        given={**PAINT, "encoder": "one"},
        unit="points",
        caveat="The layout is an input and stays by construction.",
    ),
    Claim(
        id="walk-without-return",
        paper="sstan",
        statement="The domain changes gradually: further along the normal there are never fewer of the target.",
        paper_figure=QUALITATIVE,
        measured="least change of that share from one of seven positions to the next",
        measure=scalar("least_rise", SSTAN, bad=-math.inf) * 100.0,
        rule=Bound("above", -2.0),
        preset="one-encoder",
        given={**PAINT, "encoder": "one"},
        unit="points",
    ),
)
