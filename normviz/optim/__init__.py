"""Optimizers, one file per paper or concept."""

from normviz.optim._matrix import MatrixOptimizer
from normviz.optim._projected import ProjectedOptimizer
from normviz.optim.adadagrad import AdAdaGrad, AdAdaGradNorm
from normviz.optim.adagrad_norm import AdaGradNorm
from normviz.optim.conda import Conda, OrthogonalProjector, conda_param_groups
from normviz.optim.distributed_normuon import DistributedNorMuon, simulate_sharded_step
from normviz.optim.factory import OPTIMIZER_NAMES, create_optimizer, list_optimizers
from normviz.optim.fira import (
    FiraAdamW,
    FiraRMSProp,
    NormGrowthLimiter,
    fira_param_groups,
    norm_scaling_factor,
)
from normviz.optim.galore import GaLoreAdamW, GaLoreRMSProp, LowRankProjector
from normviz.optim.matrix_norms import (
    ColumnNorm,
    FrobeniusNorm,
    MatrixNorm,
    MaxNorm,
    RowNorm,
    SpectralNorm,
)
from normviz.optim.multinorm import (
    MultiNormGD,
    SinkGD,
    multi_normalize,
    multi_normalize_fixed_point,
    sr_sinkhorn,
)
from normviz.optim.muon import Muon
from normviz.optim.newton_schulz import newton_schulz
from normviz.optim.normuon import NorMuon, assign_owners, neuron_normalize
from normviz.optim.param_groups import split_matrix_params
from normviz.optim.plasticity import L2, NoisyUpdates, RegenerativeL2, shrink_and_perturb_
from normviz.optim.redo import ReDO
from normviz.optim.soap import SOAP
from normviz.optim.swan import SWAN, SWANFast, exact_whitening, grad_norm, grad_whitening, swan_update

__all__ = [
    "L2",
    "OPTIMIZER_NAMES",
    "SOAP",
    "SWAN",
    "AdAdaGrad",
    "AdAdaGradNorm",
    "AdaGradNorm",
    "ColumnNorm",
    "Conda",
    "DistributedNorMuon",
    "FiraAdamW",
    "FiraRMSProp",
    "FrobeniusNorm",
    "GaLoreAdamW",
    "GaLoreRMSProp",
    "LowRankProjector",
    "MatrixNorm",
    "MatrixOptimizer",
    "MaxNorm",
    "MultiNormGD",
    "Muon",
    "NoisyUpdates",
    "NorMuon",
    "NormGrowthLimiter",
    "OrthogonalProjector",
    "ProjectedOptimizer",
    "ReDO",
    "RegenerativeL2",
    "RowNorm",
    "SWANFast",
    "SinkGD",
    "SpectralNorm",
    "assign_owners",
    "conda_param_groups",
    "create_optimizer",
    "exact_whitening",
    "fira_param_groups",
    "grad_norm",
    "grad_whitening",
    "list_optimizers",
    "multi_normalize",
    "multi_normalize_fixed_point",
    "neuron_normalize",
    "newton_schulz",
    "norm_scaling_factor",
    "shrink_and_perturb_",
    "simulate_sharded_step",
    "split_matrix_params",
    "sr_sinkhorn",
    "swan_update",
]
