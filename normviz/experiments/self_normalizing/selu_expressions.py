r"""The moment map of self-normalizing networks as Vega expressions, for pictures that react while a slider is dragged.

Klambauer et al., arXiv 1706.02515; the equations are those of :mod:`normviz.norms.selu_moments`, written once more in
the browser's language. E_k = E[e^{kz}; z <= 0] for z ~ N(m, v) is e^{km + k^2 v/2} Phi(-x) with x = (m + k v)/sqrt(v);
Vega's ``cumulativeNormal`` is Phi to about 1e-9 of itself, also far out in the tail. Where it gives up (x > 37) the
first two terms of the tail's expansion stand in. The tests compare what Vega computes with the library.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Calculation", "jacobian_steps", "map_steps", "solved_selu"]


class Calculation(NamedTuple):
    """A named Vega expression; it may use the names of earlier ones."""

    name: str
    expression: str


def _truncated(k: int, m: str, v: str, s: str) -> str:
    """E[e^{kz}; z <= 0]."""
    x = f"(({m} + {k} * {v}) / {s})"
    plain = f"exp({k} * {m} + {k * k / 2} * {v}) * cumulativeNormal(-{x})"
    tail = f"densityNormal({m} / {s}) / {x} * (1 - 1 / ({x} * {x}))"
    return f"{x} < 37 ? {plain} : {tail}"


def map_steps(
    prefix: str, m: str, v: str, alpha: str, scale: str, *, at: str = "datum."
) -> list[Calculation]:
    """The moment map at pre-activations N(m, v).

    Args:
        prefix: begins every name.
        m: expression of the pre-activation's mean, in brackets unless a single name.
        v: expression of its variance, likewise.
        alpha: expression of SELU's alpha.
        scale: expression of SELU's lambda.
        at: how a calculated name is referred to: ``"datum."`` for fields, ``""`` for signals.

    Returns:
        The integrals ``s Phi phi E1 E2`` and the moments ``mu nu`` after the layer, each name behind the prefix.
    """
    P, f, s, E1, E2, mu = (f"{at}{prefix}{name}" for name in ("Phi", "phi", "s", "E1", "E2", "mu"))
    second = f"({m} * {m} + {v}) * {P} + {m} * {s} * {f} + {alpha} * {alpha} * ({E2} - 2 * {E1} + 1 - {P})"
    steps = {
        "s": f"sqrt({v})",
        "Phi": f"cumulativeNormal({m} / {s})",
        "phi": f"densityNormal({m} / {s})",
        "E1": _truncated(1, m, v, s),
        "E2": _truncated(2, m, v, s),
        "mu": f"{scale} * ({m} * {P} + {s} * {f} + {alpha} * ({E1} - (1 - {P})))",
        "nu": f"{scale} * {scale} * ({second}) - {mu} * {mu}",
    }
    return [Calculation(prefix + name, text) for name, text in steps.items()]


def jacobian_steps(
    prefix: str, m: str, omega: str, tau: str, alpha: str, scale: str, *, at: str = "datum."
) -> list[Calculation]:
    """The map's Jacobian J, after :func:`map_steps` with the same prefix and mean.

    Args:
        prefix: as in :func:`map_steps`.
        m: as in :func:`map_steps`.
        omega: expression of the sum of the weights.
        tau: expression of the sum of their squares.
        alpha: as in :func:`map_steps`.
        scale: as in :func:`map_steps`.
        at: as in :func:`map_steps`.

    Returns:
        J's entries by rows ``Ja Jb Jc Jd``, its spectral ``norm`` and its spectral ``radius``, and helpers.
    """
    P, f, s, E1, E2, mu, M_m, M_v, a, b, c, d, squares, det, half, disc = (
        f"{at}{prefix}{name}"
        for name in (
            *("Phi", "phi", "s", "E1", "E2", "mu", "Mm", "Mv"),
            *("Ja", "Jb", "Jc", "Jd", "squares", "det", "half", "disc"),
        )
    )
    X_m = f"2 * {scale} * {scale} * ({m} * {P} + {s} * {f} + {alpha} * {alpha} * ({E2} - {E1}))"
    X_v = f"{scale} * {scale} * ({P} + {alpha} * {alpha} * (2 * {E2} - {E1}))"
    steps = {
        "Mm": f"{scale} * ({P} + {alpha} * {E1})",
        "Mv": f"{scale} * ({alpha} * {E1} + (1 - {alpha}) * {f} / {s}) / 2",
        "Ja": f"{omega} * {M_m}",
        "Jb": f"{tau} * {M_v}",
        "Jc": f"{omega} * ({X_m} - 2 * {mu} * {M_m})",
        "Jd": f"{tau} * ({X_v} - 2 * {mu} * {M_v})",
        "squares": f"{a} * {a} + {b} * {b} + {c} * {c} + {d} * {d}",
        "det": f"{a} * {d} - {b} * {c}",
        "half": f"({a} + {d}) / 2",
        "norm": f"sqrt(({squares} + sqrt(max(0, {squares} * {squares} - 4 * {det} * {det}))) / 2)",
        "disc": f"{half} * {half} - {det}",
        "radius": f"{disc} < 0 ? sqrt({det}) : abs({half}) + sqrt({disc})",
    }
    return [Calculation(prefix + name, text) for name, text in steps.items()]


def solved_selu(mean: str, var: str, omega: str, tau: str) -> list[Calculation]:
    """Signals ``q_alpha`` and ``q_scale`` for which (mean, var) is a fixed point; NaN where no SELU has it there.

    As :func:`normviz.norms.selu_moments.selu_parameters`: with beta = scale alpha, a line and an ellipse in the plane
    of (scale, beta), P scale + N beta = mean and R scale^2 + S beta^2 = mean^2 + var.

    Args:
        mean: expression of the fixed point's mean.
        var: expression of its variance.
        omega: expression of the sum of the weights.
        tau: expression of the sum of their squares.
    """
    m, v = f"({mean} * {omega})", f"({var} * {tau})"
    solution = {
        "P": f"{m} * q_Phi + q_s * q_phi",
        "N": "q_E1 - (1 - q_Phi)",
        "R": f"({m} * {m} + {v}) * q_Phi + {m} * q_s * q_phi",
        "S": "q_E2 - 2 * q_E1 + 1 - q_Phi",
        "second": f"{mean} * {mean} + {var}",
        "G": "q_S * q_P * q_P + q_R * q_N * q_N",
        "root": f"sqrt(q_second * q_G - q_S * q_R * {mean} * {mean})",
        "line": f"(q_P * q_S * {mean} - q_N * q_root) / q_G",
        "beta": f"(q_N * q_R * {mean} + q_P * q_root) / q_G",
        "alpha": "q_line > 0 && q_beta > 0 ? q_beta / q_line : NaN",
        "scale": "q_line > 0 && q_beta > 0 ? q_line : NaN",
    }
    integrals = map_steps("q_", m, v, "1", "1", at="")[:5]
    return [*integrals, *(Calculation(f"q_{name}", text) for name, text in solution.items())]
