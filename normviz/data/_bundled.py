"""The CSV files that scikit-learn ships, read without importing scikit-learn.

``import sklearn`` takes most of a second and 60 MB (it loads SciPy's statistics), too much before the first frame
of a training run; the files themselves take milliseconds. Tests compare with ``sklearn.datasets``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_bundled"]


def read_bundled(file_name: str, *, delimiter: str | None = ",", header: bool = False) -> NDArray[np.float64]:
    """The numbers of one of scikit-learn's data files (plain or gzip), as a 2-D array or a column as 1-D.

    Raises:
        FileNotFoundError: scikit-learn is not installed or does not hold the file.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("scikit-learn is not installed; its bundled data sets are needed here.")
    path = Path(spec.origin).parent / "datasets" / "data" / file_name
    if not path.exists():
        raise FileNotFoundError(f"the installed scikit-learn does not hold the data file {path}.")
    return np.loadtxt(path, delimiter=delimiter, skiprows=int(header))
