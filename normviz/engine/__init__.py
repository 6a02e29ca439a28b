"""The engine: where an experiment runs (worker processes, here and now, Ray) and where its frames are kept.

Importing this loads no PyTorch, and neither does anything it exports: only the worker process does. The parts are
loaded when they are first asked for (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "RayEngine",
    "RunStore",
    "StoreError",
    "StoredRun",
    "WorkerEngine",
    "default_store_path",
    "extend_inline",
    "find_experiment",
    "read_parquet",
    "run_inline",
]

_HOME = {
    "RayEngine": "ray",
    "RunStore": "store",
    "StoreError": "run_file",
    "StoredRun": "stored_run",
    "WorkerEngine": "workers",
    "default_store_path": "store",
    "extend_inline": "inline",
    "find_experiment": "resolve",
    "read_parquet": "run_file",
    "run_inline": "inline",
}

if TYPE_CHECKING:
    from normviz.engine.inline import extend_inline, run_inline
    from normviz.engine.ray import RayEngine
    from normviz.engine.resolve import find_experiment
    from normviz.engine.run_file import StoreError, read_parquet
    from normviz.engine.store import RunStore, default_store_path
    from normviz.engine.stored_run import StoredRun
    from normviz.engine.workers import WorkerEngine


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"normviz.engine.{_HOME[name]}"), name)
    raise AttributeError(f"module 'normviz.engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
