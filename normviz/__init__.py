"""normviz: see how normalization, optimizers, schedules, attention and reweighting shape training.

The package is lazy (PEP 562): ``import normviz`` loads no PyTorch, so that the Streamlit server, which only
draws, stays light. Topic packages (``normviz.norms``, ``normviz.optim``, …) load PyTorch when they are imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "watch": ("normviz.experiments.watch", "watch"),
    "get_experiment": ("normviz.experiments", "get_experiment"),
    "Run": ("normviz.experiments.run", "Run"),
    "Frame": ("normviz.frame", "Frame"),
}

__all__ = ["Frame", "Run", "__version__", "get_experiment", "watch"]

if TYPE_CHECKING:
    from normviz.experiments import get_experiment
    from normviz.experiments.run import Run
    from normviz.experiments.watch import watch
    from normviz.frame import Frame


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'normviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
