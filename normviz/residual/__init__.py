"""Residual towers and their expansion, one file per paper or concept.

The parts are loaded when they are first asked for (PEP 562), so that the counts and closed forms of ``counting.py`` can
be had without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "ConvBlock",
    "FixupBlock",
    "MLPBlock",
    "ReZero",
    "ResidualTower",
    "SkipInit",
    "build_tower",
    "ensemble_size",
    "expansion_terms",
    "expected_norm_ratio",
    "fixup_init_",
    "fixup_param_groups",
    "geometric_complexity",
    "level_coefficients",
    "level_contributions",
    "level_weights",
    "log_level_weights",
    "path_count",
    "remainder_bound",
    "remainder_slope",
    "residual_scale",
    "sample_paths",
    "tree_count",
    "truncated_forward",
]

_HOME = {
    "ConvBlock": "blocks",
    "FixupBlock": "blocks",
    "MLPBlock": "blocks",
    "ReZero": "blocks",
    "ResidualTower": "blocks",
    "SkipInit": "blocks",
    "build_tower": "blocks",
    "ensemble_size": "counting",
    "expansion_terms": "expansion",
    "expected_norm_ratio": "counting",
    "fixup_init_": "blocks",
    "fixup_param_groups": "blocks",
    "geometric_complexity": "complexity",
    "level_coefficients": "expansion",
    "level_contributions": "expansion",
    "level_weights": "counting",
    "log_level_weights": "counting",
    "path_count": "counting",
    "remainder_bound": "counting",
    "remainder_slope": "expansion",
    "residual_scale": "counting",
    "sample_paths": "expansion",
    "tree_count": "counting",
    "truncated_forward": "expansion",
}

if TYPE_CHECKING:
    from normviz.residual.blocks import (
        ConvBlock,
        FixupBlock,
        MLPBlock,
        ResidualTower,
        ReZero,
        SkipInit,
        build_tower,
        fixup_init_,
        fixup_param_groups,
    )
    from normviz.residual.complexity import geometric_complexity
    from normviz.residual.counting import (
        ensemble_size,
        expected_norm_ratio,
        level_weights,
        log_level_weights,
        path_count,
        remainder_bound,
        residual_scale,
        tree_count,
    )
    from normviz.residual.expansion import (
        expansion_terms,
        level_coefficients,
        level_contributions,
        remainder_slope,
        sample_paths,
        truncated_forward,
    )


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"normviz.residual.{_HOME[name]}"), name)
    raise AttributeError(f"module 'normviz.residual' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
