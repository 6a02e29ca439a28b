"""Measurements on activations, gradients, updates and attention maps, one file per paper or concept."""

from normviz.probes.activations import ActivationHistogram
from normviz.probes.attention import (
    AttentionEntropy,
    attention_rows,
    entropy_norm_correlation,
    row_entropy,
)
from normviz.probes.depth import LayerGradients, LayerMoments
from normviz.probes.filtration import OutlierFiltration
from normviz.probes.gradients import GradientNorm
from normviz.probes.inference import allocated_bytes, compare_inference
from normviz.probes.input_gradient import InputGradient
from normviz.probes.operations import count_operations
from normviz.probes.optimizer_memory import optimizer_state_bytes
from normviz.probes.outliers import ActivationOutliers
from normviz.probes.probe import Probe
from normviz.probes.reach import warn_of_blind_spots
from normviz.probes.spectrum import (
    SpectrumValues,
    col_norm_cv,
    condition_number,
    cosine,
    effective_rank,
    numerical_rank,
    rms,
    row_norm_cv,
    singular_values,
    stable_rank,
    update_spectrum,
)
from normviz.probes.statistics import StatisticsGap
from normviz.probes.stream import ResidualStream
from normviz.probes.update_recorder import UpdateRecord, UpdateSpectrum

__all__ = [
    "ActivationHistogram",
    "ActivationOutliers",
    "AttentionEntropy",
    "GradientNorm",
    "InputGradient",
    "LayerGradients",
    "LayerMoments",
    "OutlierFiltration",
    "Probe",
    "ResidualStream",
    "SpectrumValues",
    "StatisticsGap",
    "UpdateRecord",
    "UpdateSpectrum",
    "allocated_bytes",
    "attention_rows",
    "col_norm_cv",
    "compare_inference",
    "condition_number",
    "cosine",
    "count_operations",
    "effective_rank",
    "entropy_norm_correlation",
    "numerical_rank",
    "optimizer_state_bytes",
    "rms",
    "row_entropy",
    "row_norm_cv",
    "singular_values",
    "stable_rank",
    "update_spectrum",
    "warn_of_blind_spots",
]
