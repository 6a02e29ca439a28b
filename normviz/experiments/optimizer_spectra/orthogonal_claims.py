"""Claims about NorMuon, which evens out the rows of Muon's orthogonal updates."""

from __future__ import annotations

import math

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.optimizer_spectra.claim_measures import (
    ORDERS,
    claim,
    condition,
    count,
    late,
    speed_claim,
)
from normviz.experiments.optimizer_spectra.knobs import NAMES, PLANS
from normviz.measures import absolute, array

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    speed_claim(
        "normuon-beats-adam",
        "normuon",
        "normuon",
        "adamw",
        "NorMuon trains more efficiently than Adam.",
        "21.74 % better training efficiency, 1.1B.",
        bar=0.109,
        floor=0.05,
    ),
    speed_claim(
        "normuon-beats-muon",
        "normuon",
        "normuon",
        "muon",
        "NorMuon trains more efficiently than Muon.",
        "11.31 % better training efficiency, 1.1B.",
        bar=0.057,
        floor=0.025,
    ),
    claim(
        "muon-rows-uneven",
        "normuon",
        "digits",
        late("row_cv", "muon"),
        Bound("above", 0.2),
        "Muon's updates of a tall matrix give its neurons very uneven steps.",
        "Neuron norms of Muon's updates: highly non-uniform (figure).",
        "spread of Muon's row norms, standard deviation over mean, second half of the run",
        given={"matrix": "tall"},
    ),
    claim(
        "normuon-rows-even",
        "normuon",
        "digits",
        late("row_cv", "normuon") / late("row_cv", "muon"),
        Effect("below", 0.1, 0.75, null=1.0),
        "NorMuon evens the neurons' steps out.",
        "Neuron norms of NorMuon's updates: uniform (figure).",
        "spread of NorMuon's row norms over Muon's, second half of the run",
        given={"matrix": "tall"},
    ),
    claim(
        "muon-conditioning",
        "normuon",
        "digits",
        condition("muon", "adamw"),
        Effect("below", ORDERS, 1.0),
        "Muon's updates are far better conditioned than Adam's.",
        "Condition numbers of Muon's updates orders of magnitude below Adam's (figure).",
        "log10 of the update's condition number, Muon's less AdamW's, second half of the run",
        unit="orders of magnitude",
    ),
    claim(
        "normuon-keeps-conditioning",
        "normuon",
        "digits",
        condition("normuon", "muon"),
        Bound("below", math.log10(2)),
        "NorMuon's updates are about as well conditioned as Muon's.",
        "Qualitative: it preserves the benefit of orthogonalization (abstract, figure).",
        "log10 of the update's condition number, NorMuon's less Muon's, second half of the run",
        given={"matrix": "tall"},
        unit="orders of magnitude",
        caveat="On a tall matrix even rows and a flat spectrum exclude each other. The limit is a factor of 2.",
    ),
    claim(
        "normuon-memory",
        "normuon",
        "digits",
        absolute(
            count("state_numbers", "normuon") - count("state_numbers", "muon") - count("rows", "normuon")
        ),
        Identity("below", 0.5),
        "NorMuon keeps one number per neuron more than Muon.",
        "Memory comparable to Muon's: m more numbers for an m × n matrix.",
        "|numbers in NorMuon's state less those in Muon's less the number of rows|",
        unit="numbers",
    ),
    claim(
        "normuon-sharded",
        "normuon",
        "digits",
        count("sharded_difference", "normuon"),
        Identity("below", 1e-10),
        "The step over several machines is the step on one.",
        "Exact by construction.",
        "largest difference of a weight after three steps, float64",
    ),
    claim(
        "normuon-balanced",
        "normuon",
        "digits",
        array(
            f"plan/{PLANS['sorted']}",
            NAMES["normuon"],
            lambda v: float(v.max() / v.mean()),
            since=0.0,
            until=0.0,
        ),
        Identity("below", 1.05),
        "Sorted by size and dealt out, the matrices load all machines alike.",
        "Work spread evenly over the devices.",
        "operations of the busiest machine over the mean, Newton–Schulz on GPT-2 small",
    ),
)
