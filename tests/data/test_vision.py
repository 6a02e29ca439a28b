"""The readers of MNIST and CIFAR-10, on small files in the original formats."""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normviz.data import load_cifar10, load_mnist


@pytest.fixture
def datasets() -> Any:
    """torchvision's readers. Skips where torchvision does not load; skips say why."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision does not load here: {error}")
    return datasets


def idx(array: np.ndarray) -> bytes:
    """The idx-ubyte format: two zeros, type 8 (unsigned byte), number of axes, big-endian sizes, the bytes."""
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_mnist(root: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    written = {}
    for prefix, n in (("train", 20), ("t10k", 8)):
        images, labels = rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
        written |= {f"{prefix}_x": images, f"{prefix}_y": labels}
    return written


def write_cifar(root: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content: dict[str, dict[str, Any]] = {
        name: {
            "data": rng.integers(0, 256, (4, 3072)).astype(np.uint8),
            "labels": rng.integers(0, 10, 4).tolist(),
        }
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    }
    content["batches.meta"] = {"label_names": [str(i) for i in range(10)]}
    sums = {}
    for name, value in content.items():
        data = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    train = [content[f"data_batch_{i}"] for i in range(1, 6)]
    written = {
        "train_x": np.concatenate([batch["data"] for batch in train]),
        "train_y": np.concatenate([batch["labels"] for batch in train]),
        "test_x": content["test_batch"]["data"],
        "test_y": np.array(content["test_batch"]["labels"]),
    }
    return written, sums


def test_mnist(datasets: Any, tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    data = load_mnist(tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert data.num_classes == 10
    np.testing.assert_allclose(data.unscale(data.x_train)[:, 0].numpy(), written["train_x"], atol=1e-3)
    np.testing.assert_allclose(data.unscale(data.x_test)[:, 0].numpy(), written["t10k_x"], atol=1e-3)
    assert data.y_train.tolist() == written["train_y"].tolist()
    assert data.y_test.tolist() == written["t10k_y"].tolist()
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.x_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_mnist_subset(datasets: Any, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    whole, part = load_mnist(tmp_path), load_mnist(tmp_path, train_size=7, test_size=3, seed=1)
    assert (len(part.x_train), len(part.y_test)) == (7, 3)
    rows = [next(i for i, x in enumerate(whole.x_train) if torch.equal(x, image)) for image in part.x_train]
    assert rows == sorted(set(rows))
    assert torch.equal(whole.y_train[rows], part.y_train)
    assert torch.equal(part.mean, whole.mean)
    with pytest.raises(ValueError, match="train_size"):
        load_mnist(tmp_path, train_size=21)


def test_cifar10(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, sums = write_cifar(tmp_path)
    # torchvision compares checksums with the originals'; here those of the small files.
    reader = datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", [[name, sums[name]] for name, _ in reader.train_list])
    monkeypatch.setattr(reader, "test_list", [[name, sums[name]] for name, _ in reader.test_list])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sums["batches.meta"]})
    data = load_cifar10(tmp_path)
    assert data.input_shape == (3, 32, 32)
    pixels = written["train_x"].reshape(-1, 3, 32, 32)
    np.testing.assert_allclose(data.unscale(data.x_train).numpy(), pixels, atol=1e-3)
    np.testing.assert_allclose(
        data.unscale(data.x_test).numpy(), written["test_x"].reshape(-1, 3, 32, 32), atol=1e-3
    )
    assert data.y_train.tolist() == written["train_y"].tolist()
    assert data.y_test.tolist() == written["test_y"].tolist()
    torch.testing.assert_close(data.x_train.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_missing_files(datasets: Any, tmp_path: Path) -> None:
    for load, place in ((load_mnist, "MNIST/raw"), (load_cifar10, "cifar-10-batches-py")):
        with pytest.raises(FileNotFoundError, match=place) as caught:
            load(tmp_path)
        assert str(tmp_path.resolve()) in str(caught.value)
        assert "download=True" in str(caught.value)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match=f"install it from the same index as torch {torch.__version__}".replace("+", r"\+")
    ):
        load_mnist(tmp_path)


def test_torchvision_of_another_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = types.ModuleType("torchvision")

    def fail(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    broken.__getattr__ = fail  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "torchvision", broken)
    with pytest.raises(ImportError, match=r"does not work with torch .*nms"):
        load_cifar10(tmp_path)


def test_bad_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        load_mnist(tmp_path, seed=-1)
