"""What the papers of the page *Optimizer spectra* claim, measured here at each optimizer's best learning rate."""

from __future__ import annotations

from normviz.claims import Claim
from normviz.experiments.optimizer_spectra.orthogonal_claims import CLAIMS as ORTHOGONAL
from normviz.experiments.optimizer_spectra.projected_claims import CLAIMS as PROJECTED
from normviz.experiments.optimizer_spectra.stateless_claims import CLAIMS as STATELESS

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (*STATELESS, *ORTHOGONAL, *PROJECTED)
