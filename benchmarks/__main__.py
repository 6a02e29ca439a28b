"""``python -m benchmarks``: run every benchmark, or those that are named."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks

HELPERS = {"report", "__main__"}


def main() -> None:
    found = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in HELPERS)
    wanted = sys.argv[1:] or found
    unknown = [name for name in wanted if name not in found]
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}. There are: {', '.join(found)}.")
    for name in wanted:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
