"""Compatible representations: maps between an old and a new model's features, and how they are judged.

Ricci, Biondi, Pernici, Patras, Del Bimbo, "lambda-Orthogonality Regularization for Compatible Representation Learning",
NeurIPS 2025, arXiv 2509.16664.

A retrieval system keeps an old model's features h_old; a new model's h_new are better, but cannot be compared with them.
Two maps on stored features mend this without touching a model. The backward map B brings new features into the old
space; an orthogonal B keeps the new model's geometry, a free one adapts better to a new distribution and deforms it, and
lambda-orthogonality lets B leave the orthogonal matrices by a distance of about lambda. The forward map F updates old
features without their images. What is left can be re-extracted item by item, the worst represented first.

Confirmed from the abstract and public summaries: the orthogonal backward and affine forward map, the threshold, the
three kinds of loss, partial backfilling, the metrics. The exact formulas and weights were not at hand; each choice is
named where it is made.

==========================================================================  =====================================
B, F                                                                        ``OrthogonalAdapter``, ``AffineAdapter``
delta(W) = ||W^T W - I||_F and L_lambda                                     ``orthogonality_distance``, ``LambdaOrthogonalityLoss``
L_B, L_F, L_C and their sum                                                 ``CompatibilityLoss`` and its parts
training on stored features                                                 ``fit_adapters``
CMC, mAP, compatibility between models                                      ``retrieval_metrics``, ``compatibility_matrix``
partial backfilling                                                         ``backfill_order``, ``backfill_curve``
comparator: an MLP forward (FCT)                                            ``fit_forward_transform``
==========================================================================  =====================================
"""  # noqa: E501

from __future__ import annotations

from normviz.adapters.backfilling import BACKFILL_STRATEGIES, backfill_curve, backfill_order
from normviz.adapters.compatibility_fit import BACKWARD_MAPS, fit_adapters
from normviz.adapters.compatibility_losses import (
    BackwardAlignmentLoss,
    CompatibilityLoss,
    CrossModelSupConLoss,
    ForwardAlignmentLoss,
)
from normviz.adapters.feature_maps import AffineAdapter, OrthogonalAdapter
from normviz.adapters.forward_transform import ForwardTransform, fit_forward_transform
from normviz.adapters.orthogonality import (
    LAMBDA_MODES,
    LambdaOrthogonalityLoss,
    orthogonality_distance,
    procrustes_orthogonal,
    singular_value_band,
)
from normviz.adapters.retrieval import (
    RETRIEVAL_METRICS,
    average_compatibility,
    backward_compatible,
    compatibility_matrix,
    retrieval_metrics,
    update_gain,
)

__all__ = [
    "BACKFILL_STRATEGIES",
    "BACKWARD_MAPS",
    "LAMBDA_MODES",
    "RETRIEVAL_METRICS",
    "AffineAdapter",
    "BackwardAlignmentLoss",
    "CompatibilityLoss",
    "CrossModelSupConLoss",
    "ForwardAlignmentLoss",
    "ForwardTransform",
    "LambdaOrthogonalityLoss",
    "OrthogonalAdapter",
    "average_compatibility",
    "backfill_curve",
    "backfill_order",
    "backward_compatible",
    "compatibility_matrix",
    "fit_adapters",
    "fit_forward_transform",
    "orthogonality_distance",
    "procrustes_orthogonal",
    "retrieval_metrics",
    "singular_value_band",
    "update_gain",
]
