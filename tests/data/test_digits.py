from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
import torch

from normviz.data import load_digits


def test_pixels_and_labels_are_scikit_learns() -> None:
    data = load_digits("flat")
    bunch = sklearn.datasets.load_digits()
    pixels = torch.cat((data.unscale(data.x_train), data.unscale(data.x_test))).round().numpy()
    labels = torch.cat((data.y_train, data.y_test)).numpy()
    ours = sorted(map(tuple, np.column_stack((pixels, labels)).tolist()))
    theirs = sorted(map(tuple, np.column_stack((bunch.data, bunch.target)).tolist()))
    assert ours == theirs


def test_standardised_by_training_statistics() -> None:
    data = load_digits()
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.x_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(data.x_test.mean().item()) > 1e-5
    assert data.x_train.dtype == torch.float32
    assert data.y_train.dtype == torch.int64


def test_pixel_scaling() -> None:
    data = load_digits("flat", scaling="pixel")
    spread = data.x_train.std(0, correction=0)
    constant = data.unscale(data.x_train).std(0) == 0
    assert constant.any()
    assert not data.x_train[:, constant].any()
    torch.testing.assert_close(spread[~constant], torch.ones_like(spread[~constant]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(data.x_train.mean(0), torch.zeros(64), rtol=0, atol=1e-5)
    image = load_digits("image", scaling="pixel")
    torch.testing.assert_close(image.unscale(image.x_test), load_digits().unscale(load_digits().x_test))


def test_layouts_are_the_same_numbers() -> None:
    image = load_digits("image")
    for layout, shape in {"flat": (64,), "pixels": (64, 1), "rows": (8, 8)}.items():
        other = load_digits(layout)
        assert other.input_shape == shape
        assert torch.equal(other.x_train, image.x_train.reshape(-1, *shape))
        assert torch.equal(other.y_test, image.y_test)
    assert image.input_shape == (1, 8, 8)


def test_split_is_stratified_and_fixed_by_the_seed() -> None:
    data = load_digits(test_size=397, seed=3)
    assert (len(data.x_train), len(data.x_test)) == (1400, 397)
    share = data.y_test.bincount() / torch.cat((data.y_train, data.y_test)).bincount()
    assert ((share - 397 / 1797).abs() < 1 / 170).all()
    load_digits.cache_clear()
    assert torch.equal(load_digits(test_size=397, seed=3).x_test, data.x_test)
    assert not torch.equal(load_digits(test_size=397, seed=4).x_test, data.x_test)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"layout": "images"}, "'image'"), ({"scaling": "none"}, "'global'"), ({"test_size": 0}, "test_size")],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_digits(**arguments)  # type: ignore[arg-type]


def test_loading_does_not_import_scikit_learn_and_takes_half_a_second_at_most() -> None:
    code = (
        "import sys, time, torch; t = time.process_time(); import normviz.data as d; d.load_digits(); "
        "d.load_table('wine'); d.pydoc_topics(); print(time.process_time() - t, 'sklearn' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out[1] == "False"
    assert float(out[0]) < 0.5
