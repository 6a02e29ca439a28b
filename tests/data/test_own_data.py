"""A reader's own tables and images as tensors: scaling against NumPy, splits, what is not here."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from normviz.data import load_own_images, load_own_table
from normviz.own_images import ImagesUploadError, keep_images
from normviz.own_tables import TableUploadError, keep_table

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@st.composite
def tables(draw: st.DrawFn) -> list[list[float | None]]:
    """Rows of numbers, some of them missing; the first of a column is there."""
    rows, columns = draw(st.integers(16, 40)), draw(st.integers(1, 5))
    cells = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.none())
    first = [draw(NUMBERS) for _ in range(columns)]
    return [first, *([draw(cells) for _ in range(columns)] for _ in range(rows - 1))]


@settings(max_examples=40, deadline=None)
@given(rows=tables(), seed=st.integers(0, 5))
def test_scaling_is_that_of_the_training_rows(
    rows: list[list[float | None]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against sums in float64, cell by cell; the marker column says which row went where."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"c{i}" for i in range(len(rows[0]))]
    lines = [",".join([*names, "marker", "kind"])]
    for i, row in enumerate(rows):
        cells = ["" if v is None else repr(v) for v in row]
        lines.append(",".join([*cells, repr(float(i * i)), "ab"[i % 2]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMVIZ_DATA", str(folder))
        data = load_own_table(keep_table("\n".join(lines).encode(), "a.csv"), "kind", seed=seed)
    kept = list(data.feature_names)
    where = kept.index("marker")

    def number_of(x: np.ndarray) -> list[int]:
        markers = x[:, where] * float(data.scale[where]) + float(data.mean[where])
        return [round(float(np.sqrt(max(m, 0.0)))) for m in markers.astype(np.float64)]

    train, test = number_of(data.x_train.numpy()), number_of(data.x_test.numpy())
    assert sorted(train + test) == list(range(len(rows)))
    for name in kept:
        if name == "marker":
            continue
        column = [row[names.index(name)] for row in rows]
        present = [v for i in train if (v := column[i]) is not None]
        mean = sum(present) / len(present) if present else 0.0
        deviation = (sum((v - mean) ** 2 for v in present) / len(present)) ** 0.5 if present else 0.0
        scale = deviation if deviation > 1e-9 * (1 + abs(mean)) else None
        for rows_of, x in ((train, data.x_train), (test, data.x_test)):
            for got, i in zip(x[:, kept.index(name)].tolist(), rows_of, strict=True):
                if (value := column[i]) is None:
                    assert got == 0.0
                elif scale is not None:
                    assert got == pytest.approx((value - mean) / scale, rel=1e-5, abs=1e-5)


def table(folder: Path, rows: int = 80) -> str:
    body = "\n".join(f"{i * 37 % 101},{'red' if i % 3 else 'blue'},{'abcd'[i % 4]}" for i in range(rows))
    return keep_table(f"size,colour,kind\n{body}\n".encode(), "a.csv", folder)


def test_a_table_is_split_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    key = table(tmp_path)
    one, two = (load_own_table(key, "kind", seed=seed) for seed in (0, 1))
    assert one.num_classes == 4
    assert one.class_names == ("a", "b", "c", "d")
    assert one.feature_names == ("size", "colour = blue", "colour = red")
    assert (tuple(one.x_train.shape), tuple(one.x_test.shape)) == ((60, 3), (20, 3))
    assert one.y_test.bincount().tolist() == [5, 5, 5, 5], "every class has its share"
    assert not one.x_train.equal(two.x_train)
    sizes = np.concatenate([one.unscale(x)[:, 0].numpy() for x in (one.x_train, one.x_test)])
    np.testing.assert_allclose(sorted(sizes), sorted(i * 37 % 101 for i in range(80)), atol=1e-3)
    with pytest.raises(TableUploadError, match="there is no column 'sort'"):
        load_own_table(key, "sort")
    with pytest.raises(TableUploadError, match="is not on this machine"):
        load_own_table("table-0123456789ab", "kind")


def images(folder: Path) -> tuple[str, np.ndarray]:
    drawn = np.random.default_rng(3).integers(0, 256, (24, 28, 28), dtype=np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, pixels in enumerate(drawn):
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            archive.writestr(f"{'xyz'[i // 8]}/{i:02}.png", picture.getvalue())
    return keep_images(buffer.getvalue(), "a.zip", folder), drawn


@pytest.mark.parametrize(("layout", "shape"), [("image", (1, 28, 28)), ("flat", (784,))])
def test_images_are_scaled_by_the_training_pixels(
    layout: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    key, drawn = images(tmp_path)
    data = load_own_images(key, layout, seed=2)
    assert data.input_shape == shape
    assert (data.class_names, len(data.x_train), len(data.x_test)) == (("x", "y", "z"), 18, 6)
    assert data.y_test.bincount().tolist() == [2, 2, 2]
    back = data.unscale(data.x_train).numpy().reshape(18, -1)
    rows = [int(np.abs(drawn.reshape(24, -1) - b).sum(1).argmin()) for b in back]
    assert [row // 8 for row in rows] == data.y_train.tolist()
    pixels = drawn[rows].astype(np.float64)
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(data.x_train.numpy().reshape(18, 28, 28), expected, rtol=1e-5, atol=1e-5)
    for side in (8, 14):
        assert load_own_images(key, side=side).input_shape == (1, side, side)
    with pytest.raises(ValueError, match="side must be one of 8, 14, 28, got 10"):
        load_own_images(key, side=10)
    with pytest.raises(ValueError, match="layout must be one of 'image', 'flat'"):
        load_own_images(key, "rows")
    with pytest.raises(ImagesUploadError, match="are not on this machine"):
        load_own_images("images-0123456789ab")
