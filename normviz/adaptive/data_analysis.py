"""Adaptive data analysis: questions chosen after seeing earlier answers, and mechanisms that keep answers valid.

Dwork, Feldman, Hardt, Pitassi, Reingold, Roth, "Preserving Statistical Validity in Adaptive Data Analysis", STOC 2015,
arXiv 1411.2664; "The reusable holdout", Science 349:636, 2015; "Generalization in Adaptive Data Analysis and Holdout
Reuse", NIPS 2015, arXiv 1506.02629.

Means of a reused sample stay accurate only for about as many adaptive queries as there are samples. If every answer
comes from a differentially private mechanism, no analyst can find a query on which sample and population differ.

======================================================  ============================================
plain, split, with Laplace or Gaussian noise            statistical_queries.py
sparse test with guesses (noise of Thresholdout)        _sparse_test.py
Thresholdout, SparseValidate                            reusable_holdout.py
private multiplicative weights, median mechanism        universe_mechanisms.py
sample sizes and privacy sums                           validity_bounds.py
sign aggregation, holdout experiment, Freedman          overfitting_attacks.py
======================================================  ============================================
"""

from normviz.adaptive.overfitting_attacks import (
    FreedmanParadox,
    ReusableHoldoutExperiment,
    expected_attack_accuracy,
    freedman_paradox,
    holdout_selection,
    reusable_holdout_experiment,
    sign_aggregation_attack,
)
from normviz.adaptive.reusable_holdout import SparseValidate, Thresholdout, ThresholdoutAnswer
from normviz.adaptive.statistical_queries import (
    BudgetExhausted,
    EmpiricalMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    SampleSplittingMechanism,
    StatisticalQueryMechanism,
)
from normviz.adaptive.universe_mechanisms import MedianMechanism, PrivateMultiplicativeWeights
from normviz.adaptive.validity_bounds import (
    gaussian_privacy,
    laplace_privacy,
    sample_size,
    sparse_privacy,
    thresholdout_parameters,
    transfer_sample_size,
)

__all__ = [
    "BudgetExhausted",
    "EmpiricalMechanism",
    "FreedmanParadox",
    "GaussianMechanism",
    "LaplaceMechanism",
    "MedianMechanism",
    "PrivateMultiplicativeWeights",
    "ReusableHoldoutExperiment",
    "SampleSplittingMechanism",
    "SparseValidate",
    "StatisticalQueryMechanism",
    "Thresholdout",
    "ThresholdoutAnswer",
    "expected_attack_accuracy",
    "freedman_paradox",
    "gaussian_privacy",
    "holdout_selection",
    "laplace_privacy",
    "reusable_holdout_experiment",
    "sample_size",
    "sign_aggregation_attack",
    "sparse_privacy",
    "thresholdout_parameters",
    "transfer_sample_size",
]
