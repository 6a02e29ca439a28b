"""The page *Context adapters*: tasks, covariances, starts, discarding against NumPy; charts; claims on made logs."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from normviz.adapters import LoRALinear, corda_init, pissa_init
from normviz.data import load_digit_source, load_digits
from normviz.experiments.context_adapters import EXPERIMENT, PRESETS, Knobs
from normviz.experiments.context_adapters.context_plane import (
    DERIVED,
    DIRECTIONS,
    SPREAD,
    plane_figure,
)
from normviz.experiments.context_adapters.decomposition import (
    energy_gain,
    pooled,
    spectra,
    truncated,
    truncation,
)
from normviz.experiments.context_adapters.frames import Adapted
from normviz.experiments.context_adapters.knobs import ARMS, IPA, KPA, LORA, PISSA
from normviz.experiments.context_adapters.recorded import JUDGED_SHARES, LAYERS, METHODS, SHARES, SOURCES
from normviz.experiments.context_adapters.starts import merged, started
from normviz.experiments.context_adapters.tasks import World, changed
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from tests.figures.test_every_figure import check_scales

vl_convert = pytest.importorskip("vl_convert")

Array = NDArray[np.float64]
CPU = torch.device("cpu")
CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
SMALL: dict[str, Any] = {"first_steps": 50, "samples": 40, "steps": 10, "seeds": 1, "first_seed": 5}
EVERY = tuple(ARMS)


@cache
def world() -> World:
    return World(Knobs(**{**SMALL, "arms": EVERY}), 5, CPU)


@cache
def log() -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**{**SMALL, "arms": EVERY}), "cpu"))


def weights(model: nn.Module) -> list[tuple[Array, Array]]:
    """Weight and bias of both hidden layers and the head, float64."""
    layers = [model.get_submodule(name) for name in (*LAYERS, "head")]
    return [tuple(p.detach().double().numpy() for p in layer.parameters()) for layer in layers]  # type: ignore[misc]


def forward(parts: list[tuple[Array, Array]], x: Array) -> tuple[Array, list[Array]]:
    """Logits, and the inputs of both hidden layers."""
    inputs = []
    for W, b in parts[:-1]:
        inputs.append(x)
        x = np.maximum(x @ W.T + b, 0)
    W, b = parts[-1]
    return x @ W.T + b, inputs


def nll(logits: Array, y: Array) -> float:
    """Mean negative logarithm of the probability of the right class."""
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(y)), y.astype(int)]
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - chosen))


def covariance(rows: Array) -> Array:
    """Sample by sample: each divided by the size of its largest entry."""
    total = np.zeros((rows.shape[1],) * 2)
    for row in rows:
        scaled = row / abs(row.max())
        total += np.outer(scaled, scaled)
    return total / len(rows)


def damped(C: Array, share: float = 0.01) -> Array:
    found: Array = C + share * np.trace(C) / len(C) * np.eye(len(C))
    return found


# ---- tasks


def test_pictures_are_the_digits_from_zero_to_one_and_the_new_ones_have_the_same_pixels() -> None:
    first, new = world().first, world().new
    data = load_digits("flat", seed=5)
    table = (data.x_train * data.scale + data.mean).numpy() / 16
    np.testing.assert_allclose(first.x.numpy(), table, atol=1e-6)
    assert float(first.x.min()) == 0.0
    assert float(first.x.max()) == pytest.approx(1.0)
    for old, shuffled in ((first.x, new.x), (first.x_test, new.x_test)):
        np.testing.assert_array_equal(np.sort(old.numpy(), 1), np.sort(shuffled.numpy(), 1))
        assert not torch.equal(old, shuffled)
    assert [(int(a) + 5) % 10 for a in first.y_test] == new.y_test.tolist()


def test_one_shuffling_for_each_seed() -> None:
    codes = torch.arange(64.0)[None]
    order = changed(codes, "permuted", 5)[0].long()
    assert torch.equal(world().new.x_test, world().first.x_test[:, order])
    assert not torch.equal(changed(codes, "permuted", 6)[0].long(), order)


def test_turned_and_relabelled_pictures() -> None:
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    turned = changed(x, "rotated", 0).numpy().reshape(3, 8, 8)
    for one, other in zip(x.numpy().reshape(3, 8, 8), turned, strict=True):
        np.testing.assert_array_equal(other, np.rot90(one))
    assert changed(x, "relabelled", 0) is x


@pytest.mark.parametrize(("data", "shape"), [("mnist1d", (40,)), ("mnist", (28, 28))])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str, shape: tuple[int, ...]) -> None:
    knobs = Knobs(
        **{**SMALL, "data": data, "new_task": "rotated", "arms": ("kpa", "full"), "first_steps": 50}
    )
    world, values = World(knobs, 5, CPU), math.prod(shape)
    given = load_digit_source(data, "flat", seed=5)
    pictures = given.unscale(given.x_test) / (255 if data == "mnist" else 1)
    np.testing.assert_allclose(world.first.x_test.numpy(), pictures.numpy(), atol=1e-5)
    upright = pictures[:5].reshape(5, *shape).numpy()
    turned = np.flip(upright, 1) if data == "mnist1d" else np.rot90(upright, 1, (1, 2))
    np.testing.assert_allclose(world.new.x_test[:5].numpy(), turned.reshape(5, values), atol=1e-5)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.last_step == 10
    assert np.isfinite(log.scalars("loss")["value"]).all()
    assert (values > 40) == any(f"of the {values} directions" in e.text for e in log.events)
    figures = EXPERIMENT.figures(log, knobs, None, ["pixels", "covariance", "spectra"])
    pixels, maps = figures["pixels"].data, figures["covariance"].data
    assert pixels is not None
    assert maps is not None
    assert ("picture" in pixels) == (data == "mnist1d")
    assert len([c for c in pixels["caption"] if c]) == 5 + 2
    side = 20 if data == "mnist1d" else 28
    assert len(maps) == 3 * side**2
    covariance = world.contexts["first task"].covariances[LAYERS[0]].numpy()
    means = covariance.reshape(side, values // side, side, values // side).mean((1, 3))
    drawn = maps["value"].to_numpy(float)[: side**2].reshape(side, side)
    np.testing.assert_allclose(drawn, means / means.max(), atol=1e-3)


def test_a_rank_above_the_inputs_is_refused_with_the_greatest_that_works() -> None:
    with pytest.raises(KnobError, match=r"rank of 41 .* The largest that works is 40\."):
        Knobs.parse({"data": "mnist1d", "rank": 41})
    assert Knobs.parse({"data": "mnist1d", "rank": 40}).rank == 40


def test_calibration_samples_are_training_pictures_of_both_tasks_and_noise() -> None:
    samples = world().samples
    assert tuple(samples) == SOURCES
    for source, task in (("first task", world().first), ("new task", world().new)):
        assert samples[source].shape == (40, 64)
        training = {row.tobytes() for row in task.x.numpy()}
        assert all(row.tobytes() in training for row in samples[source].numpy())
    assert 0.45 < float(samples["noise"].mean()) < 0.55


# ---- what layers have seen


@pytest.mark.parametrize("source", SOURCES)
def test_covariances_and_sizes_are_those_of_a_loop(source: str) -> None:
    context, samples = world().contexts[source], world().samples[source].double().numpy()
    _, inputs = forward(weights(world().base), samples)
    for name, rows in zip(LAYERS, inputs, strict=True):
        np.testing.assert_allclose(context.covariances[name].numpy(), covariance(rows), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(context.abs_means[name].numpy(), np.abs(rows).sum(0), rtol=1e-4, atol=1e-4)


def test_a_pooled_map_is_the_covariance_of_means_of_two_neighbours() -> None:
    x = np.random.default_rng(0).random((20, 64))
    pairs = x.reshape(20, 32, 2).mean(2)
    expected = pairs.T @ pairs
    found = pooled(torch.from_numpy(x.T @ x))
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-12)


# ---- starts


def components(W: Array, C: Array | None, which: slice) -> Array:
    """The product of some components of W, by eigenvectors of (W C)(W C)^T: no SVD of the weight."""
    oriented = W if C is None else W @ C
    values, vectors = np.linalg.eigh(oriented @ oriented.T)
    vectors = vectors[:, np.argsort(-values)][:, : min(W.shape)][:, which]
    found: Array = vectors @ vectors.T @ W
    return found


@pytest.mark.parametrize(
    ("kind", "source", "which"),
    [
        ("pissa", None, slice(8)),
        ("ipa", "new task", slice(8)),
        ("ipa_wrong", "first task", slice(8)),
        ("ipa_noise", "noise", slice(8)),
        ("kpa", "first task", slice(-8, None)),
        ("kpa_wrong", "new task", slice(-8, None)),
        ("kpa_noise", "noise", slice(-8, None)),
    ],
)
def test_an_adapter_starts_with_its_components(kind: str, source: str | None, which: slice) -> None:
    model = started(kind, world())
    name = LAYERS[0]
    layer = model.get_submodule(name)
    assert isinstance(layer, LoRALinear)
    W = weights(world().base)[0][0]
    C = None
    if source is not None:
        C = damped(world().contexts[source].covariances[name].double().numpy())
    expected = components(W, C, which)
    found = layer.delta_weight().detach().double().numpy()
    # Along small singular values float32 knows a component less well: compare what the inputs feel of it.
    felt = np.eye(64) if C is None else C
    scale = np.abs(W @ felt).max()
    np.testing.assert_allclose(found @ felt, expected @ felt, atol=2e-3 * scale)
    residual = layer.weight.double().numpy()
    np.testing.assert_allclose(residual + found, W, atol=1e-5)


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_trained_and_that_the_network_is_unchanged(kind: str) -> None:
    model = started(kind, world())
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if kind == "full":
        assert count == 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    else:
        assert trained == {"lora_A", "lora_B"}
        assert count == 8 * (64 + 128 + 128 + 128)
    x = world().first.x_test
    expected, _ = forward(weights(world().base), x.double().numpy())
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-3, atol=1e-3)


def test_lora_starts_without_effect_and_the_same_each_time() -> None:
    one, other = (dict(started("lora", world()).named_parameters()) for _ in range(2))
    for name in LAYERS:
        A, B = (one[f"{name}.lora_{letter}"].detach() for letter in "AB")
        assert torch.equal(A, other[f"{name}.lora_A"])
        assert float(B.abs().max()) == 0.0
        assert 0 < float(A.abs().max()) <= 1 / math.sqrt(A.shape[1])


def test_a_first_step_of_an_adapter_is_adam_on_the_chain_rule() -> None:
    member = Adapted("kpa", world())
    layer = member.model.get_submodule(LAYERS[1])
    A, B = (getattr(layer, n).detach().double().numpy().copy() for n in ("lora_A", "lora_B"))
    x, y = (t.double().numpy() for t in member.batches(5, 0))
    parts = weights(world().base)
    logits, inputs = forward(parts, x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y.astype(int)] -= 1
    (_, _), (W, b), (head, _) = parts
    upper = (p / len(y)) @ head * (inputs[1] @ W.T + b > 0)  # gradient at the second layer's output
    G = upper.T @ inputs[1]
    loss = member.step(0)["loss"]
    assert loss == pytest.approx(nll(logits, y), rel=1e-4)
    for name, before, gradient in (("lora_A", A, B.T @ G), ("lora_B", B, G @ A.T)):
        moved = getattr(layer, name).detach().double().numpy() - before
        expected = -1e-3 * gradient / (np.abs(gradient) + 1e-8)  # Adam's first step with its bias corrections
        sure = np.abs(gradient) > 1e-2 * np.abs(gradient).max()
        np.testing.assert_allclose(moved[sure], expected[sure], rtol=2e-2)


def test_merging_leaves_ordinary_layers_and_the_same_outputs() -> None:
    member = Adapted("ipa", world())
    for at in range(3):
        member.step(at)
    plain = merged(member.model)
    assert all(type(plain.get_submodule(name)) is nn.Linear for name in LAYERS)
    x = world().new.x_test
    with torch.no_grad():
        torch.testing.assert_close(plain(x), member.model(x), rtol=1e-4, atol=1e-4)
    W = weights(plain)[0][0]
    np.testing.assert_allclose(member.weight(LAYERS[0]).double().numpy(), W, atol=1e-5)


# ---- discarding


def rebuilt(W: Array, kept: int, method: str, C: Array, sizes: Array) -> Array:
    scale = {"svd": np.eye(len(C)), "asvd": np.diag(np.sqrt(sizes) + 1e-6), "corda": damped(C)}[method]
    U, S, Vt = np.linalg.svd(W @ scale, full_matrices=False)
    found: Array = (U[:, :kept] * S[:kept]) @ Vt[:kept] @ np.linalg.inv(scale)
    return found


def test_losses_and_errors_after_discarding_are_those_of_a_derivation() -> None:
    losses, errors = truncation(world())
    assert losses.shape == errors.shape == (3, len(SHARES))
    context, parts = world().contexts["first task"], weights(world().base)
    x, y = (t.double().numpy() for t in (world().first.x_test, world().first.y_test))
    for row, method in enumerate(METHODS):
        for share in (0.5, 0.9):
            cut, felt = [], []
            for (W, b), name in zip(parts, LAYERS, strict=False):
                C = context.covariances[name].double().numpy()
                kept = min(W.shape) - round(share * min(W.shape))
                Wk = rebuilt(W, kept, method, C, context.abs_means[name].double().numpy())
                cut.append((Wk, b))
                felt.append(np.linalg.norm((W - Wk) @ damped(C)) / np.linalg.norm(W @ damped(C)))
            column = SHARES.index(share)
            logits, _ = forward([*cut, parts[2]], x)
            assert losses[row, column] == pytest.approx(nll(logits, y), rel=2e-2), (method, share)
            assert errors[row, column] == pytest.approx(np.mean(felt), rel=1e-2), (method, share)


def test_nothing_discarded_is_the_network_itself_and_the_judged_shares_are_the_cards() -> None:
    same = truncated(world().base, world().contexts["first task"], 0.0, "corda")
    x = world().first.x_test
    with torch.no_grad():
        torch.testing.assert_close(same(x), world().base(x), rtol=1e-3, atol=1e-3)
    assert JUDGED_SHARES == (0.8, 0.85, 0.9, 0.95)
    assert set(JUDGED_SHARES) <= set(SHARES)


def test_spectra_and_the_gain_of_energy() -> None:
    gains = []
    for i, name in enumerate(LAYERS):
        W = weights(world().base)[i][0]
        rows = [W] + [W @ damped(world().contexts[s].covariances[name].double().numpy()) for s in SOURCES[:2]]
        values = [np.linalg.svd(M, compute_uv=False) for M in rows]
        found = spectra(world(), name)
        for row, expected in zip(found, values, strict=True):
            np.testing.assert_allclose(row, expected / expected[0], rtol=1e-3, atol=1e-5)
        shares = [float((v[:8] ** 2).sum() / (v**2).sum()) for v in values[:2]]
        gains.append(shares[1] - shares[0])
    assert energy_gain(world()) == pytest.approx(np.mean(gains), abs=1e-4)


# ---- frames


def test_tests_at_the_start_are_those_of_the_trained_network() -> None:
    first, new = world().first, world().new
    for name, task in (("kept", first), ("new", new)):
        logits, _ = forward(weights(world().base), task.x_test.double().numpy())
        right = 100 * float(np.mean(logits.argmax(1) == task.y_test.numpy()))
        for what, expected, tolerance in (
            ("accuracy", right, 100 / len(logits) + 1e-6),
            ("loss", nll(logits, task.y_test.numpy()), 1e-3),
        ):
            table = log().scalars(f"{name}_{what}")
            at_start = table[table["step"] == 0]
            assert set(at_start["arm"]) == set(ARMS.values())
            assert (at_start["value"] - expected).abs().max() < tolerance


def test_distances_are_zero_at_the_start_and_grow() -> None:
    for name in ("moved", "moved_as_felt"):
        table = log().scalars(name)
        assert table[table["step"] == 0]["value"].max() < 1e-4
        assert table[table["step"] == 10]["value"].min() > 1e-4
    assert set(log().scalars("start_change")["step"]) == {0}
    assert set(log().scalars("merge_change")["step"]) == {10}


def test_the_pixels_that_are_read_are_lengths_of_columns() -> None:
    first = {e.arm: e.value for e in log().array_history("read") if e.step == 0}
    assert np.abs(first[LORA]).max() == 0.0
    layer = started("pissa", world()).get_submodule(LAYERS[0])
    assert isinstance(layer, LoRALinear)
    product = layer.delta_weight().detach()
    expected = [math.sqrt(float((product[:, j] ** 2).sum())) for j in range(64)]
    np.testing.assert_allclose(first[PISSA], expected, rtol=1e-4)


def test_few_samples_are_told_once() -> None:
    told = [e.text for e in log().events if e.kind == "note"]
    assert len(told) == 1
    assert told[0].startswith("40 samples excite at most 40 of the 64 directions")
    quiet = Knobs(**{**SMALL, "samples": 64, "arms": ("kpa",)})
    frames = EXPERIMENT.frames(quiet, "cpu")
    assert all(frame.event is None for frame, _ in zip(frames, range(4), strict=False))


@pytest.mark.parametrize(
    "values", [{"samples": 1}, {"rank": 64, "alpha": 1.0}, {"damp": 1e-4, "sigma_fuse": "V"}]
)
def test_the_ends_of_what_can_be_set_run(values: dict[str, Any]) -> None:
    knobs = Knobs(**{**SMALL, "arms": ("kpa", "ipa"), **values})
    found = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert found.last_step == 10
    assert np.isfinite(found.scalars("loss")["value"]).all()
    assert found.scalars("start_change")["value"].max() < 1e-3


@pytest.mark.parametrize("values", [{"rank": 65}, {"samples": 0}, {"new_task": "mirrored"}, {"damp": 0.0}])
def test_bad_input_is_refused_with_what_is_allowed(values: dict[str, Any]) -> None:
    with pytest.raises(KnobError, match=f"{next(iter(values))} = .* is not allowed: it takes"):
        Knobs.parse(values)


# ---- charts


def test_the_picture_has_a_trail_and_a_point_for_each_arm_up_to_the_moment() -> None:
    knobs = Knobs(**{**SMALL, "arms": EVERY})
    figure = EXPERIMENT.figures(log(), knobs, 6, ["trade"])["trade"]
    data = figure.data
    assert data is not None
    assert figure.moment == "step 6"
    assert data[data["part"] == "trail"]["order"].max() == 6
    now = data[data["part"] == "now"].set_index("arm")
    assert set(now.index) == set(ARMS.values())
    table = log().scalars("new_accuracy")
    expected = table[(table["step"] == 6) & (table["arm"] == KPA)]["value"].iloc[0]
    assert now.loc[KPA, "x"] == pytest.approx(expected, abs=0.01)


def test_pictures_of_pixels_and_grey_fields_of_the_spectra() -> None:
    knobs = Knobs(**{**SMALL, "arms": EVERY})
    figures = EXPERIMENT.figures(log(), knobs, None, ["pixels", "spectra", "covariance"])
    pixels = figures["pixels"].data
    assert pixels is not None
    captions = [c for c in pixels["caption"] if c]
    assert captions[:5] == ["old digit", "new digit", "old pixels", "new pixels", "noise"]
    assert len(captions) == 5 + len(EVERY)
    spectra_data = figures["spectra"].data
    assert spectra_data is not None
    fields = spectra_data[spectra_data["curve"] == "mark"]
    assert fields[["x", "x2"]].to_numpy().tolist() == [[0.5, 8.5], [56.5, 64.5]]
    maps = figures["covariance"].data
    assert maps is not None
    assert len(maps) == 3 * 32 * 32
    assert maps["value"].max() == 1.0


@pytest.mark.parametrize("name", ["trade", "ends", "spectra", "truncation", "truncation_error", "covariance"])
@pytest.mark.parametrize("full", [False, True])
def test_ends_of_the_axes_are_said(name: str, full: bool, capfd: pytest.CaptureFixture[str]) -> None:
    figure = EXPERIMENT.figures(
        log() if full else FrameLog(), Knobs(**{**SMALL, "arms": EVERY}), None, [name]
    )[name]
    check_scales(figure)
    assert ("nothing is measured yet" in figure.alt) is not full
    assert "WARN" not in "".join(capfd.readouterr())


# ---- the plane in the browser


def in_vega(expressions: list[str], params: Mapping[str, float]) -> list[float]:
    """What Vega computes for these settings of the sliders."""
    derived = [{"name": name, "expr": expression} for name, expression in DERIVED.items()]
    marks = [
        {
            "mark": "text",
            "transform": [{"calculate": f"({expression}) + ''", "as": "text"}],
            "encoding": {"text": {"field": "text", "type": "nominal"}},
        }
        for expression in expressions
    ]
    settings = [{"name": name, "value": value} for name, value in params.items()]
    spec = {"data": {"values": [{"one": 1}]}, "params": [*settings, *derived], "layer": marks}
    svg = vl_convert.vegalite_to_svg(spec)
    return [float(html.unescape(t).replace("−", "-")) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


@pytest.mark.parametrize(
    ("angle", "short", "turn", "s"), [(60, 0.3, 20, 0.6), (150, 0.05, 100, 0.1), (35, 1.0, 80, 0.5)]
)
def test_directions_in_the_plane_are_those_of_the_librarys_adapters(
    angle: int, short: float, turn: int, s: float
) -> None:
    def rotation(degrees: float) -> Array:
        c, d = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return np.array([[c, -d], [d, c]])

    C = rotation(angle) @ np.diag([1.0, short**2]) @ rotation(angle).T
    W = np.diag([1.0, s]) @ rotation(turn).T
    tensors = torch.from_numpy(W), torch.from_numpy(C)
    rows = {
        PISSA: pissa_init(tensors[0], 1)[0],
        KPA: corda_init(*tensors, 1, "kpm")[0],
        IPA: corda_init(*tensors, 1, "ipm")[0],
    }
    sliders = {"angle": angle, "short": short, "turn": turn, "s": s}
    for arm, (x, y) in DIRECTIONS.items():
        row = rows[arm][0].numpy() / np.linalg.norm(rows[arm][0].numpy())
        *found, spread = in_vega([x, y, SPREAD.format(x=x, y=y)], sliders)
        assert abs(np.dot(found, row)) == pytest.approx(1.0, abs=1e-9), arm
        assert spread == pytest.approx(math.sqrt(row @ C @ row), rel=1e-6), arm


def test_the_chart_of_the_plane_is_quiet_and_has_equal_units(capfd: pytest.CaptureFixture[str]) -> None:
    figure = plane_figure()
    check_scales(figure)
    assert figure.spec is not None
    assert figure.data is not None
    drawn = {**figure.spec, "data": {"values": figure.data.to_dict("records")}, "width": 660}
    svg = vl_convert.vegalite_to_svg(drawn, show_warnings=True)
    told = re.findall(r">(\w+), spread ([\d.]+)</text>", svg)
    assert {name for name, _ in told} == {"PiSSA", "KPA", "IPA"}
    ticks = re.findall(r"translate\(([-\d.]+),([-\d.]+)\)\"[^>]*>(−?\d+)</text>", svg)
    across = {int(text.replace("−", "-")): float(x) for x, _, text in ticks if float(x) > 0}
    upwards = {int(text.replace("−", "-")): float(y) for x, y, text in ticks if float(x) < 0}
    assert across[2] - across[0] == pytest.approx(upwards[0] - upwards[2], abs=1.0)
    assert "WARN" not in "".join(capfd.readouterr())


# ---- claims


def made(values: dict[str, dict[str, float]], seeds: int = 5, steps: int = 300) -> FrameLog:
    """A log of a whole run: each arm's values at the end, at half of them in the middle of the run."""
    frames = []
    for seed in range(seeds):
        for arm, own in values.items():
            for at in (0, steps // 2, steps):
                share = 1.0 if at == steps else 0.5
                frames.append(Frame(at, arm, seed, {n: share * v + 1e-3 * seed for n, v in own.items()}))
    return FrameLog(frames)


@pytest.mark.parametrize(
    ("claim", "better", "worse", "name"),
    [
        ("kpa-keeps-more-than-pissa", KPA, PISSA, "kept_accuracy"),
        ("kpa-keeps-more-than-ipa", KPA, IPA, "kept_accuracy"),
        ("kpa-learns-more-than-lora", KPA, LORA, "new_accuracy"),
        ("right-data-keep", KPA, "KPA, wrong data", "kept_accuracy"),
        ("right-data-teach", IPA, "IPA, wrong data", "new_accuracy"),
        ("noise-keeps-less", KPA, "KPA, noise", "kept_accuracy"),
        ("noise-teaches-less", IPA, "IPA, noise", "new_accuracy"),
        ("kpa-keeps-with-the-same-pictures", KPA, LORA, "kept_accuracy"),
    ],
)
def test_which_side_a_claim_takes(claim: str, better: str, worse: str, name: str) -> None:
    knobs = Knobs.parse({**PRESETS[CLAIMS[claim].preset].knobs, "seeds": 5})
    for high, low, outcome in (
        (80.0, 60.0, "reproduced"),
        (60.0, 80.0, "opposite"),
        (70.0, 70.0, "no effect"),
    ):
        log = made({better: {name: high}, worse: {name: low}})
        assert CLAIMS[claim].verdict(log, knobs).outcome == outcome


def test_nearly_as_much_is_enough_where_the_rule_says_so() -> None:
    knobs = Knobs(seeds=5)
    for kept, outcome in ((59.0, "reproduced"), (57.0, "opposite")):
        log = made({KPA: {"kept_accuracy": kept}, LORA: {"kept_accuracy": 60.0}})
        assert CLAIMS["kpa-keeps-as-much-as-lora"].verdict(log, knobs).outcome == outcome


def test_the_order_after_discarding_must_hold_against_both_rivals() -> None:
    knobs = Knobs(seeds=5)
    for svd, outcome in ((-0.1, "reproduced"), (0.1, "opposite")):
        log = made({LORA: {"worst_loss_gap_svd": svd, "worst_loss_gap_asvd": -0.2}})
        constants = FrameLog(f for f in log.frames if f.step == 300)
        assert CLAIMS["truncation-order"].verdict(constants, knobs).outcome == outcome
