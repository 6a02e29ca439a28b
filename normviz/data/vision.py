"""MNIST and CIFAR-10 for those who have them: read by torchvision from the original files.

torchvision is imported only when a loader is called, and nothing is downloaded unless asked for. It must be the
build that belongs to the installed torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from normviz.data.supervised import SupervisedData
from normviz.validation import check_integer

__all__ = ["load_cifar10", "load_mnist"]

_MNIST_FILES = "MNIST/raw/{train,t10k}-images-idx3-ubyte and MNIST/raw/{train,t10k}-labels-idx1-ubyte"
_CIFAR_FILES = "cifar-10-batches-py/{data_batch_1,...,data_batch_5,test_batch,batches.meta}"


def load_mnist(
    root: str | Path,
    *,
    download: bool = False,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> SupervisedData:
    """MNIST, images (1, 28, 28), standardised by the mean and deviation of all training pixels.

    Args:
        root: folder that holds ``MNIST/raw/`` with the four idx-ubyte files.
        download: let torchvision fetch missing files into ``root`` (default False: never).
        train_size: so many training images, drawn by ``seed`` (default None: all).
        test_size: so many test images, drawn by ``seed`` (default None: all).
        seed: of that draw (0 by default).

    Returns:
        The data; ``unscale`` gives pixel values in 0..255.

    Raises:
        ImportError: torchvision is missing, or does not fit the installed torch; says what to install.
        FileNotFoundError: the files are not under ``root``; says where to put them.
        ValueError: a size below 1 or above the number of images, a negative seed.
    """

    def read(datasets: Any, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        source = datasets.MNIST(str(root), train=train, download=download)
        return source.data.numpy()[:, None], source.targets.numpy()

    names = tuple("0123456789")
    return _load("MNIST", read, root, download, _MNIST_FILES, names, train_size, test_size, seed)


def load_cifar10(
    root: str | Path,
    *,
    download: bool = False,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> SupervisedData:
    """CIFAR-10, images (3, 32, 32), standardised per colour channel over all training pixels.

    Args:
        root: folder that holds ``cifar-10-batches-py/`` (the unpacked Python version).
        download: let torchvision fetch missing files into ``root`` (default False: never).
        train_size: so many training images, drawn by ``seed`` (default None: all 50,000, 614 MB as float32).
        test_size: so many test images, drawn by ``seed`` (default None: all).
        seed: of that draw (0 by default).

    Returns:
        The data; ``unscale`` gives pixel values in 0..255.

    Raises:
        ImportError: torchvision is missing, or does not fit the installed torch; says what to install.
        FileNotFoundError: the files are not under ``root`` or damaged; says where to put them.
        ValueError: a size below 1 or above the number of images, a negative seed.
    """

    def read(datasets: Any, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        source = datasets.CIFAR10(str(root), train=train, download=download)
        return source.data.transpose(0, 3, 1, 2), np.asarray(source.targets, dtype=np.int64)

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _load("CIFAR-10", read, root, download, _CIFAR_FILES, names, train_size, test_size, seed)


def _torchvision_datasets() -> Any:
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise ImportError(
            "torchvision is needed to read MNIST and CIFAR-10: install it from the same index as torch "
            f"{torch.__version__} (pip install torchvision)."
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"the installed torchvision does not work with torch {torch.__version__} ({error}): install the "
            "torchvision built for it, from the same index."
        ) from error
    return datasets


def _load(
    name: str,
    read: Callable[[Any, bool], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    root: str | Path,
    download: bool,
    files: str,
    class_names: tuple[str, ...],
    train_size: int | None,
    test_size: int | None,
    seed: int,
) -> SupervisedData:
    check_integer("seed", seed, low=0)
    datasets = _torchvision_datasets()
    try:
        x_train, y_train = read(datasets, True)
        x_test, y_test = read(datasets, False)
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"{name} was not found under {Path(root).resolve()} ({error}). Put its original files there as {files}, "
            "or call with download=True."
        ) from error
    rng = np.random.default_rng(seed)
    kept_train = _subset("train_size", rng, len(y_train), train_size)
    kept_test = _subset("test_size", rng, len(y_test), test_size)
    pixels = x_train.reshape(*x_train.shape[:2], -1)  # (n, c, H * W)
    mean = torch.from_numpy(pixels.mean((0, 2))).float()[:, None, None]  # (c, 1, 1)
    scale = torch.from_numpy(pixels.std((0, 2))).float()[:, None, None]  # (c, 1, 1)
    return SupervisedData(
        name=name,
        x_train=(torch.from_numpy(x_train[kept_train]).float() - mean) / scale,
        y_train=torch.from_numpy(y_train[kept_train]),
        x_test=(torch.from_numpy(x_test[kept_test]).float() - mean) / scale,
        y_test=torch.from_numpy(y_test[kept_test]),
        mean=mean,
        scale=scale,
        class_names=class_names,
    )


def _subset(name: str, rng: np.random.Generator, n: int, size: int | None) -> NDArray[np.int64]:
    if size is None:
        return np.arange(n)
    return np.sort(rng.permutation(n)[: check_integer(name, size, low=1, high=n)])
