"""What Entropy Adaptive Decoding costs against the large model alone, counted in two ways."""

from __future__ import annotations

import math
from typing import NamedTuple

from normviz.decoding.entropy_adaptive import EADResult
from normviz.validation import check_real

__all__ = ["CostReport", "cost_report"]


class CostReport(NamedTuple):
    """Costs relative to the large model alone.

    Attributes:
        decode_only: C, the published accounting.
        with_catch_up: C_full, with every token that was fed to either model.
        large_fraction: f_L, share of tokens written by the large model.

    Reference: Simonds 2025, arXiv 2502.06833: C reproduces the savings of its abstract; C_full is this library's.
    Equations in :func:`cost_report`.
    """

    decode_only: float
    with_catch_up: float
    large_fraction: float


def cost_report(result: EADResult, n_small: float, n_large: float) -> CostReport:
    """Relative cost of a run, in products of tokens and parameters.

    ::

        C      = f_L + (1 - f_L) N_S / N_L
        C_full = (n_S N_S + n_L N_L) / ((P + T - 1) N_L)

    C is the paper's accounting (arXiv 2502.06833): f_L = 0.43 with N_S/N_L = 3/11 gives 0.585 and f_L = 0.25 with
    1.5/14 gives 0.330, the savings of 41.5 % and 67 % of its abstract. It leaves out the two passes over the prompt and
    the catch-up at changes. C_full counts them: n_m is the number of tokens fed to model m, so a large model that
    writes the last token has processed the whole text, whatever f_L is. Catch-up costs work, but little time: it is one
    parallel pass. C_full >= C for all results with tokens.

    Args:
        result: of a decoder; P is its prompt's length, T its number of new tokens.
        n_small, n_large: numbers of parameters N_S and N_L, in any common unit.

    Returns:
        C, C_full (NaN without tokens: nothing over nothing) and f_L.

    Raises:
        ValueError: n_small or n_large not positive and finite.

    Example:
        >>> import torch
        >>> counts = {"small": 6, "large": 5}
        >>> result = EADResult(
        ...     torch.zeros(4), ["large"] * 2 + ["small"] * 2, [0.0] * 4, [0.0] * 4, 1, 0.5,
        ...     {"small": 0, "large": 0}, counts, 0.0, 3,
        ... )
        >>> report = cost_report(result, 1, 4)
        >>> report.decode_only, round(report.with_catch_up, 3)
        (0.625, 1.083)
    """
    n_small = check_real("n_small", n_small, 0, low_open=True, high_open=True)
    n_large = check_real("n_large", n_large, 0, low_open=True, high_open=True)
    f, ratio = result.large_fraction, n_small / n_large
    new, processed = len(result.tokens), result.processed_tokens
    full = math.nan
    if new:
        full = (processed["small"] * ratio + processed["large"]) / (result.prompt_length + new - 1)
    return CostReport(f + (1 - f) * ratio, full, f)
