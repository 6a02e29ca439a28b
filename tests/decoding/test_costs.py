"""Cost accountings: the paper's arithmetic, a recount of every token, order of the two."""

from __future__ import annotations

import math

import pytest
import torch

from normviz.decoding import (
    EADResult,
    EntropyAdaptiveDecoder,
    EntropySwitchController,
    RandomSwitchController,
    cost_report,
)
from tests.decoding.references import table_lm


def result_of(large: int, small: int, processed: tuple[int, int] = (0, 0), prompt: int = 1) -> EADResult:
    n = large + small
    return EADResult(
        torch.zeros(n, dtype=torch.long),
        ["large"] * large + ["small"] * small,
        [0.0] * n,
        [0.0] * n,
        1,
        large / n if n else 0.0,
        {"small": 0, "large": 0},
        {"small": processed[0], "large": processed[1]},
        0.0,
        prompt,
    )


@pytest.mark.parametrize(
    ("large", "small", "sizes", "cost", "saving"),
    [(43, 57, (3e9, 11e9), 0.585, 0.415), (25, 75, (1.5, 14), 0.330, 0.67)],
)
def test_check_9_the_abstracts_figures(
    large: int, small: int, sizes: tuple, cost: float, saving: float
) -> None:
    report = cost_report(result_of(large, small), *sizes)
    assert report.decode_only == pytest.approx(cost, abs=5e-4)
    assert 1 - report.decode_only == pytest.approx(saving, abs=2e-3)
    assert report.large_fraction == large / 100


@pytest.mark.parametrize(
    "options", [{}, {"immediate": True}, {"cache_policy": "drop"}, {"cache_policy": "sync"}]
)
def test_check_10_with_catch_up_is_never_less(options: dict) -> None:
    small, large = table_lm(7, 0, 10), table_lm(7, 1, 40)
    for seed in range(12):
        controller = RandomSwitchController(
            0.4, min_tokens=1 + seed % 3, generator=torch.Generator().manual_seed(seed)
        )
        decoder = EntropyAdaptiveDecoder(small, large, controller, **options)
        small.fed.clear()
        large.fed.clear()
        result = decoder.generate(torch.arange(1 + seed % 4), 1 + 3 * seed)
        report = cost_report(result, 10, 40)
        assert report.with_catch_up >= report.decode_only - 1e-12
        written = sum(40 if owner == "large" else 10 for owner in result.owner)
        assert report.decode_only == pytest.approx(written / (40 * len(result.owner)))
        fed = sum(10 * len(piece) for piece in small.fed) + sum(40 * len(piece) for piece in large.fed)
        assert report.with_catch_up == pytest.approx(fed / (40 * (1 + seed % 4 + 3 * seed)))


def test_one_model_alone_costs_its_share() -> None:
    small, large = table_lm(7, 0, 10), table_lm(7, 1, 40)
    for threshold, start, cost in ((-1.0, "large", 1.0), (99.0, "small", 0.25)):
        decoder = EntropyAdaptiveDecoder(small, large, EntropySwitchController(threshold, start=start))
        report = cost_report(decoder.generate(torch.tensor([1, 2]), 9), 10, 40)
        assert (report.decode_only, report.with_catch_up) == pytest.approx((cost, cost))


def test_nothing_written() -> None:
    report = cost_report(result_of(0, 0), 1, 4)
    assert (report.decode_only, report.large_fraction) == (0.25, 0.0)
    assert math.isnan(report.with_catch_up)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_sizes_are_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="n_small"):
        cost_report(result_of(1, 1), bad, 4)
    with pytest.raises(ValueError, match="n_large"):
        cost_report(result_of(1, 1), 1, bad)
