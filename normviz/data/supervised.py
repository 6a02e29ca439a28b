"""What every labelled data set here is: standardised tensors, split once, with what is needed to undo the scaling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from normviz.data.sampling import TensorBatches
from normviz.validation import check_integer, check_real

__all__ = ["SupervisedData", "standardise", "stratified_split"]


@dataclass(frozen=True, eq=False)
class SupervisedData:
    """Inputs and targets of one task, split into training and test examples.

    The loaders cache what they return: clone a tensor before changing it in place.

    Attributes:
        name: of the data set.
        x_train: training inputs (n, ...), float32, standardised by training statistics.
        y_train: class numbers (n,) int64, or standardised values (n, 1) float32 in regression.
        x_test: test inputs (m, ...), scaled by the *training* statistics.
        y_test: test targets.
        mean: what was subtracted from the inputs, broadcastable to one example.
        scale: what they were then divided by (1 where an input is constant).
        class_names: one per class; empty in regression.
        feature_names: one per input column; empty for images.
        target_mean: what was subtracted from the target in regression (0 otherwise).
        target_scale: what it was then divided by (1 otherwise).
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: Tensor
    scale: Tensor
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0

    @classmethod
    def from_split(
        cls,
        name: str,
        x: Tensor,
        y: Tensor,
        split: tuple[NDArray[np.int64], NDArray[np.int64]],
        mean: ArrayLike,
        scale: ArrayLike,
        **more: Any,
    ) -> SupervisedData:
        """The data from all scaled examples and the indices of those for training and for testing.

        Args:
            name: of the data set.
            x: scaled inputs of all examples.
            y: their targets.
            split: indices for training and for testing.
            mean, scale: as :func:`standardise` gives them.
            **more: further fields.
        """
        train, test = split
        return cls(
            name,
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            mean=torch.as_tensor(mean, dtype=torch.float32),
            scale=torch.as_tensor(scale, dtype=torch.float32),
            **more,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 in regression."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.x_train.shape[1:])

    def unscale(self, x: Tensor) -> Tensor:
        """Inputs in their original units, e.g. pixel values to draw."""
        return x * self.scale + self.mean

    def train_batches(self, batch_size: int, *, replacement: bool = False, stream: int = 0) -> TensorBatches:
        """A source of training batches (x, y); see :class:`~normviz.data.sampling.TensorBatches`."""
        return TensorBatches((self.x_train, self.y_train), batch_size, replacement=replacement, stream=stream)

    def to(self, device: torch.device | str) -> SupervisedData:
        """The same data on another device."""
        moved = {
            key: getattr(self, key).to(device)
            for key in ("x_train", "y_train", "x_test", "y_test", "mean", "scale")
        }
        return replace(self, **moved)


def _test_count(n: int, test_size: float) -> int:
    if isinstance(test_size, int) and not isinstance(test_size, bool):
        return check_integer("test_size", test_size, low=1, high=n - 1)
    fraction = check_real("test_size", test_size, low=0.0, high=1.0, low_open=True, high_open=True)
    return min(max(round(fraction * n), 1), n - 1)


def stratified_split(
    labels: NDArray[np.int64], test_size: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and test examples with the same share of every class, each in ascending order.

    Every class gives its proportional number of test examples; what rounding leaves over goes to the classes with
    the largest remainders, so that the test set has exactly the size asked for. Give equal labels (zeros)
    for a plain random split.

    Args:
        labels: class of each example, (n,).
        test_size: number of test examples (int), or their share in (0, 1) (float).
        seed: non-negative integer.

    Returns:
        Indices of the training and of the test examples.

    Raises:
        ValueError: ``test_size`` leaves no training or no test example, or a negative seed.
    """
    check_integer("seed", seed, low=0)
    n = len(labels)
    total = _test_count(n, test_size)
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    quotas = np.array([len(m) * total / n for m in members])
    counts = np.floor(quotas).astype(int)
    counts[np.argsort(counts - quotas, kind="stable")[: total - counts.sum()]] += 1
    test = np.sort(np.concatenate([m[:count] for m, count in zip(members, counts, strict=True)]))
    return np.setdiff1d(np.arange(n), test), test


def standardise(
    x: NDArray[np.float64], train: NDArray[np.int64], axis: int | tuple[int, ...] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Subtract the mean and divide by the standard deviation of the training rows over ``axis``; constants by 1.

    Returns:
        The scaled array, the mean and the divisor.
    """
    mean, scale = x[train].mean(axis), x[train].std(axis)
    scale = np.where(scale > 0, scale, 1.0)
    return (x - mean) / scale, mean, scale
