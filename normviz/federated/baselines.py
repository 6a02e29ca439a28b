"""The rivals of FedTiny (arXiv 2212.01977) under one roof: one-shot magnitude, SNIP, SynFlow, PruneFL, FedDST.

Dense federated averaging is :class:`normviz.federated.FedAvg`; FedTiny-Clean and the ablations are settings of
:class:`normviz.federated.FedTiny`.
"""

from normviz.federated.feddst import FedDST, sparse_average
from normviz.federated.one_shot import OneShotMagnitude
from normviz.federated.prunefl import PruneFL, prunefl_select
from normviz.federated.saliency import snip_masks, snip_scores, synflow_masks, synflow_scores

__all__ = [
    "FedDST",
    "OneShotMagnitude",
    "PruneFL",
    "prunefl_select",
    "snip_masks",
    "snip_scores",
    "sparse_average",
    "synflow_masks",
    "synflow_scores",
]
