"""normviz: see how normalization, optimizers, schedules, attention and reweighting shape training.

``normviz.list_optimizers()`` and ``normviz.list_norms()`` say what there is, ``normviz.create_optimizer(name, model)``
and ``normviz.create_norm(name, channels)`` build it, ``normviz.watch(model, optimizer)`` draws a training of your own.

The package is lazy (PEP 562): ``import normviz`` loads no PyTorch, so that the Streamlit server, which only
draws, stays light. Topic packages (``normviz.norms``, ``normviz.optim``, …) are loaded when they are first used.
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
    "create_norm": ("normviz.norms", "create_norm"),
    "create_optimizer": ("normviz.optim", "create_optimizer"),
    "list_norms": ("normviz.norms", "list_norms"),
    "list_optimizers": ("normviz.optim", "list_optimizers"),
}

_TOPICS = (
    "adapters",
    "adaptive",
    "attention",
    "catalog",
    "data",
    "decoding",
    "experiments",
    "federated",
    "figures",
    "norms",
    "optim",
    "probes",
    "residual",
    "schedules",
    "testing",
    "training",
    "weighting",
)

__all__ = [
    "Frame",
    "Run",
    "__version__",
    "create_norm",
    "create_optimizer",
    "get_experiment",
    "list_norms",
    "list_optimizers",
    "watch",
]

if TYPE_CHECKING:
    from normviz.experiments import get_experiment
    from normviz.experiments.run import Run
    from normviz.experiments.watch import watch
    from normviz.frame import Frame
    from normviz.norms import create_norm, list_norms
    from normviz.optim import create_optimizer, list_optimizers


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    if name in _TOPICS:
        return import_module(f"normviz.{name}")
    raise AttributeError(f"module 'normviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names: what can be built, shown and watched, and the topic packages."""
    return sorted({*__all__, *_TOPICS})
