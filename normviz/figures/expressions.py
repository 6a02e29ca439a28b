"""Functions that Vega's expression language lacks, as expressions, for charts that compute in the browser."""

from __future__ import annotations

__all__ = ["log_beta", "log_gamma"]

SHIFT = 7
"""Stirling's series is used for x + SHIFT, where three terms are exact to 1e-7."""


def log_gamma(x: str) -> str:
    """log Gamma(x) for x > 0: Stirling's series at z = x + 7, less log of x (x + 1) ... (x + 6).

    Args:
        x: an expression.
    """
    z = f"(({x}) + {SHIFT})"
    product = " * ".join(f"(({x}) + {k})" for k in range(SHIFT))
    series = f"({z} - 0.5) * log({z}) - {z} + 0.5 * log(2 * PI) + 1 / (12 * {z}) - 1 / (360 * pow({z}, 3))"
    return f"({series} - log({product}))"


def log_beta(x: str, y: str) -> str:
    """log B(x, y) for x, y > 0."""
    return f"({log_gamma(x)} + {log_gamma(y)} - {log_gamma(f'({x}) + ({y})')})"
