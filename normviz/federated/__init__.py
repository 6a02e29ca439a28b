"""Federated learning and pruning, one file per concept."""

from normviz.federated.accounting import (
    adjustment_flops,
    communication_bytes,
    device_memory,
    model_macs,
    sparse_bytes,
    training_flops,
)
from normviz.federated.budget import (
    adjust_count,
    cosine_adjust_fraction,
    layer_densities,
    prunable_budget,
)
from normviz.federated.data import dirichlet_partition, iid_partition
from normviz.federated.fedavg import FedAvg, fedavg, train_client
from normviz.federated.feddst import FedDST, sparse_average
from normviz.federated.fedtiny import FedTiny, child_blocks
from normviz.federated.one_shot import OneShotMagnitude
from normviz.federated.progressive import (
    BlockSchedule,
    TopKBuffer,
    aggregate_topk,
    prune_and_grow,
    topk_gradients,
)
from normviz.federated.prunefl import PruneFL, prunefl_select
from normviz.federated.pruning import SparseModel, magnitude_mask
from normviz.federated.saliency import snip_masks, snip_scores, synflow_masks, synflow_scores
from normviz.federated.selection import (
    AdaptiveBNSelection,
    CandidatePool,
    aggregate_bn_stats,
    client_bn_stats,
    load_bn_stats,
    noisy_layer_densities,
    select_candidate,
)

__all__ = [
    "AdaptiveBNSelection",
    "BlockSchedule",
    "CandidatePool",
    "FedAvg",
    "FedDST",
    "FedTiny",
    "OneShotMagnitude",
    "PruneFL",
    "SparseModel",
    "TopKBuffer",
    "adjust_count",
    "adjustment_flops",
    "aggregate_bn_stats",
    "aggregate_topk",
    "child_blocks",
    "client_bn_stats",
    "communication_bytes",
    "cosine_adjust_fraction",
    "device_memory",
    "dirichlet_partition",
    "fedavg",
    "iid_partition",
    "layer_densities",
    "load_bn_stats",
    "magnitude_mask",
    "model_macs",
    "noisy_layer_densities",
    "prunable_budget",
    "prune_and_grow",
    "prunefl_select",
    "select_candidate",
    "snip_masks",
    "snip_scores",
    "sparse_average",
    "sparse_bytes",
    "synflow_masks",
    "synflow_scores",
    "topk_gradients",
    "train_client",
    "training_flops",
]
