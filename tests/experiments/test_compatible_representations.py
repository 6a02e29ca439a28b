"""The page *Compatible representations*: models, maps and measures against independent derivations; claims on logs."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.adapters import (
    LambdaOrthogonalityLoss,
    fit_adapters,
    fit_forward_transform,
    orthogonality_distance,
    singular_value_band,
)
from normviz.data import load_digit_source, load_digits
from normviz.experiments.compatible_representations import EXPERIMENT, PRESETS, Knobs
from normviz.experiments.compatible_representations.band_chart import BAND, band_limits
from normviz.experiments.compatible_representations.closed_forms import (
    DELTA,
    IMAGE,
    PENALTIES,
    penalty_figure,
    ring_figure,
)
from normviz.experiments.compatible_representations.found_digits import ASKS, RIGHT, WRONG
from normviz.experiments.compatible_representations.knobs import ARM_NAMES, FORWARD, LAMBDAS
from normviz.experiments.compatible_representations.learners import ForwardLearner, MapLearner
from normviz.experiments.compatible_representations.measured import Plane, precision, values_of
from normviz.experiments.compatible_representations.old_and_new import (
    FIT,
    TEST,
    ZERO_SHOT,
    OldAndNew,
    backbones,
)
from normviz.experiments.compatible_representations.recorded import ASKED, FOUND, FRACTIONS
from normviz.frame import Frame, FrameLog
from normviz.training import Diverged
from tests.figures.test_every_figure import check_scales

pytest.importorskip("vl_convert")

CPU = torch.device("cpu")
CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
TINY: dict[str, Any] = {"steps": 10, "old_steps": 20, "new_steps": 40, "seeds": 1}
Array = NDArray[np.float64]


def tiny(**values: Any) -> Knobs:
    return Knobs(**{**TINY, **values})


@cache
def world_of(downstream: str = "upright", models: int = 2, new_width: int = 16) -> OldAndNew:
    return OldAndNew(tiny(downstream=downstream, models=models, new_width=new_width), 3, CPU)


@cache
def run_of(what: str) -> tuple[FrameLog, Knobs]:
    """Small runs that several tests look at."""
    settings: dict[str, dict[str, Any]] = {
        "two": {"arms": ("strict", "lam_1"), "downstream": "upright"},
        "three": {"arms": ("lam_1",), "models": 3},
        "widths": {"arms": ("strict", "affine"), "new_width": 6},
        "forward": {"arms": FORWARD},
    }
    knobs = tiny(**settings[what])
    return FrameLog(EXPERIMENT.frames(knobs, "cpu")), knobs


def average_precision(query: Array, gallery: Array, labels: NDArray[np.int64]) -> float:
    """Mean average precision in percent, item by item."""
    found = []
    for i, q in enumerate(query):
        cosines = [
            (float(q @ g) / (math.sqrt(q @ q) * math.sqrt(g @ g) + 1e-30), j)
            for j, g in enumerate(gallery)
            if j != i
        ]
        cosines.sort(key=lambda pair: (-pair[0], pair[1]))
        right = [labels[j] == labels[i] for _, j in cosines]
        shares: list[float] = [sum(right[: rank + 1]) / (rank + 1) for rank, hit in enumerate(right) if hit]
        if shares:
            found.append(sum(shares) / len(shares))
    return 100 * float(np.mean(found))


# -- models and digits -------------------------------------------------------------------------------------------------


def test_a_turned_digit_is_turned_pixel_by_pixel() -> None:
    world = world_of("rotated")
    straight = load_digits("image", test_size=261, seed=3)
    upright = straight.unscale(straight.x_test)[:4, 0].numpy()
    for digit, turned in zip(upright, world.pixels[:4].numpy(), strict=True):
        for row in range(8):
            for column in range(8):
                assert turned[7 - column, row] == pytest.approx(digit[row, column], abs=1e-4)


@pytest.mark.parametrize(("data", "shape"), [("mnist1d", (40,)), ("mnist", (28, 28))])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str, shape: tuple[int, ...]) -> None:
    knobs = tiny(data=data, downstream="rotated", arms=("strict", "lam_1"))
    world = OldAndNew(knobs, 0, CPU)
    straight = load_digit_source(data, "flat", test_size=264, seed=0)
    upright = straight.unscale(straight.x_test)[:2].reshape(2, *shape).numpy()
    turned = np.flip(upright, 1) if data == "mnist1d" else np.rot90(upright, 1, (1, 2))
    np.testing.assert_allclose(world.pixels[:2].numpy(), turned, atol=1e-4)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert not log.events
    figure = EXPERIMENT.figures(log, knobs)["found"]
    assert figure.data is not None
    assert (figure.data["kind"] != "").sum() == 18
    assert ("picture" in figure.data) == (data == "mnist1d")


def test_noise_has_its_size_and_leaves_the_upright_digits_alone() -> None:
    noisy = OldAndNew(tiny(downstream="noisy", noise=0.5), 3, CPU)
    plain = world_of("upright")
    scale = load_digits("flat", test_size=261, seed=3).scale
    added = (noisy.pixels - plain.pixels) / scale.reshape(-1)[0]
    assert float(added.std()) == pytest.approx(0.5, rel=0.03)
    torch.testing.assert_close(noisy.features[1][ZERO_SHOT], plain.features[1][ZERO_SHOT])
    assert not torch.equal(noisy.features[1][TEST], plain.features[1][TEST])


def test_models_grow_from_the_oldest_to_the_newest() -> None:
    knobs = Knobs(models=3, old_classes=5, old_steps=120, new_steps=600, old_width=8, new_width=12)
    listed = [(b.classes, b.steps, b.hidden, b.width) for b in backbones(knobs)]
    assert [row[0] for row in listed][::2] == [5, 10]
    assert listed[1][0] in (7, 8)
    assert [row[1:] for row in listed] == [(120, 32, 8), (360, 80, 12), (600, 128, 12)]


def test_features_are_computed_once_and_the_old_model_knows_its_classes_only() -> None:
    knobs = tiny(downstream="upright", old_classes=3, old_steps=300)
    world = OldAndNew(knobs, 0, CPU)
    assert [f[TEST].shape for f in world.features] == [(261, 16), (261, 16)]
    assert len(world.labels[FIT]) == 1797 - 261
    assert not any(tensor.requires_grad for model in world.features for tensor in model.values())
    old, labels = world.features[0][TEST].double().numpy(), world.labels[TEST].numpy()
    known = labels < 3
    seen = average_precision(old[known], old[known], labels[known])
    unseen = average_precision(old[~known][:120], old[~known][:120], labels[~known][:120])
    assert seen > unseen + 10


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["strict", "lam_2", "affine", "decay"])
@pytest.mark.parametrize("start", ["procrustes", "identity"])
def test_steps_one_at_a_time_are_those_of_the_library(kind: str, start: str) -> None:
    base = world_of("upright")
    world = OldAndNew.__new__(OldAndNew)
    world.__dict__.update(base.__dict__)
    world.knobs = tiny(start=start, steps=30, w_forward=0.7, w_contrastive=1.3, learning_rate=0.01)
    learner = MapLearner(kind, world)
    for at in range(30):
        learner.step(at)
    expected, forward, history = fit_adapters(
        world.features[0][FIT],
        world.features[1][FIT],
        world.labels[FIT],
        backward={"strict": "strict", "lam_2": "lambda"}.get(kind, "affine"),
        lam=2.0,
        epochs=2,
        lr=0.01,
        batch_size=64,
        w_forward=0.7,
        w_contrastive=1.3,
        init=start,
        seed=3,
        every=1,
        weight_decay=1e-2 if kind == "decay" else 0.0,
        callback=lambda record, *_: record["step"] == 30,
    )
    assert history[-1]["step"] == 30
    torch.testing.assert_close(learner.weight, expected.weight.detach(), atol=2e-4, rtol=2e-4)
    digits = world.features[0][TEST]
    torch.testing.assert_close(learner.mapped(TEST).updated, forward(digits).detach(), atol=2e-4, rtol=2e-4)
    assert learner.parts["loss"] == pytest.approx(history[-1]["total"], rel=1e-3)


def test_before_the_first_step_there_is_no_map() -> None:
    world = world_of("upright")
    mapped = MapLearner("lam_1", world).mapped(TEST)
    raw = world.features[1][TEST]
    np.testing.assert_allclose(
        mapped.new.numpy(), (raw / world.features[1][FIT].norm(dim=1).mean()).numpy(), rtol=1e-5
    )
    log, _ = run_of("two")
    table = log.scalars("delta")
    assert table[table["step"] == 0]["value"].abs().max() == 0
    singular = [e for e in log.array_history("singular") if e.step == 0]
    assert all((e.value == 1).all() for e in singular)


def test_procrustes_is_the_closed_form_and_is_not_trained() -> None:
    world = world_of("upright")
    learner = MapLearner("procrustes", world)
    assert learner.step(0) == {}
    before = learner.weight.clone()
    assert learner.step(1) == {}
    assert torch.equal(learner.weight, before)
    old, new = (world.features[i][FIT].double().numpy() for i in (0, 1))
    p, _, rt = np.linalg.svd(old.T @ new, full_matrices=False)
    np.testing.assert_allclose(before.numpy(), p @ rt, atol=1e-3)


def test_forward_maps_pass_through_the_states_of_the_library() -> None:
    world = world_of("upright")
    learner = ForwardLearner("fastfill", world, every=5)
    for at in range(10):
        learner.step(at)
    expected, _ = fit_forward_transform(
        world.features[0][FIT],
        world.features[1][FIT],
        uncertainty=True,
        epochs=1,
        lr=world.knobs.learning_rate,
        batch_size=64,
        seed=3,
        every=1,
        callback=lambda record, _: record["step"] == 10,
    )
    digits = world.features[0][TEST]
    with torch.no_grad():
        torch.testing.assert_close(learner.mapped(TEST).updated, expected(digits), atol=1e-4, rtol=1e-4)
        doubt = learner.uncertainty(TEST)
        assert doubt is not None
        torch.testing.assert_close(doubt, expected.log_variance(digits), atol=1e-4, rtol=1e-4)
    assert sorted(learner.kept) == [5, 10]
    assert ForwardLearner("fct", world, every=5).uncertainty(TEST) is None


def test_a_loss_that_is_not_finite_ends_its_arm() -> None:
    base = world_of("upright")
    world = OldAndNew.__new__(OldAndNew)
    world.__dict__.update(base.__dict__)
    world.features = [dict(model) for model in base.features]
    world.features[1][FIT] = torch.full_like(world.features[1][FIT], 1e25)
    world.knobs = tiny(start="identity", w_backward=10.0)
    learner = MapLearner("affine", world)
    learner.pairs[0].scale_new.fill_(1e-12)

    def go_on() -> None:
        for at in range(10):
            learner.step(at)

    with pytest.raises(Diverged, match="training loss"):
        go_on()


# -- measures ----------------------------------------------------------------------------------------------------------


def test_precision_is_counted_item_by_item() -> None:
    rng = np.random.default_rng(0)
    query, gallery, labels = rng.normal(size=(30, 5)), rng.normal(size=(30, 5)), rng.integers(0, 4, 30)
    found = precision(torch.tensor(query), torch.tensor(gallery), torch.tensor(labels))
    assert found == pytest.approx(average_precision(query, gallery, labels), abs=1e-9)


def test_the_plane_holds_the_old_class_means() -> None:
    world = world_of("upright")
    plane = Plane(world)
    old = world.features[0][TEST].double().numpy()
    labels = world.labels[TEST].numpy()
    unit = old / np.maximum(np.linalg.norm(old, axis=1, keepdims=True), 1e-12)
    means = np.stack([unit[labels == c].mean(0) for c in range(10)])
    centred = means - means.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    places = plane.places(world.features[0][TEST])
    for axis in range(2):
        expected = (unit[: len(places)] - means.mean(0)) @ vectors[:, -1 - axis]
        sign = np.sign(expected @ places[:, axis])
        np.testing.assert_allclose(places[:, axis], sign * expected, atol=1e-6)
    assert values[-1] >= values[-2]
    torch.testing.assert_close(torch.tensor(plane.places(5 * world.features[0][TEST])), torch.tensor(places))


def test_curves_of_backfilling_end_at_the_updated_and_the_new_gallery() -> None:
    log, _ = run_of("two")
    for name in ("backfill", "backfill_random"):
        for entry in log.arrays(name):
            for place, scalar in ((0, "updated"), (-1, "self")):
                table = log.scalars(scalar)
                own = table[(table["arm"] == entry.arm) & (table["step"] == entry.step)]["value"].iloc[0]
                assert entry.value[place] == pytest.approx(own, abs=1e-3)
            assert len(entry.value) == len(FRACTIONS)
    curve = next(e for e in log.arrays("backfill") if e.arm == "λ = 1").value.astype(float)
    area = log.final("area").set_index("arm")["value"]["λ = 1"]
    assert area == pytest.approx(sum((a + b) / 2 / 5 for a, b in pairwise(curve)), abs=1e-3)


def test_a_strict_map_keeps_what_the_new_model_finds() -> None:
    log, _ = run_of("two")
    table = log.scalars("zero_shot")
    own = table[table["arm"] == "Strict"]["value"]
    raw = log.scalars("new_zero_shot")["value"].iloc[0]
    np.testing.assert_allclose(own, raw, atol=0.05)
    assert log.final("delta").set_index("arm")["value"]["Strict"] < 1e-5


def test_the_matrix_and_the_numbers_agree() -> None:
    log, _ = run_of("two")
    cells = {e.arm: e.value for e in log.arrays("matrix")}
    for arm, matrix in cells.items():
        for name, (row, column) in {"cross": (2, 0), "updated": (2, 1), "self": (2, 2)}.items():
            assert matrix[row, column] == pytest.approx(
                log.final(name).set_index("arm")["value"][arm], abs=1e-3
            )
        assert matrix[0, 0] == pytest.approx(log.scalars("old_self")["value"].iloc[0], abs=1e-3)
        share = log.final("average_compatibility").set_index("arm")["value"][arm]
        assert share == float(matrix[2, 0] > matrix[0, 0])


def test_three_models_have_a_map_each_and_a_larger_matrix() -> None:
    log, knobs = run_of("three")
    assert log.arrays("matrix")[0].value.shape == (4, 4)
    matrix = log.arrays("matrix")[0].value
    met = [matrix[2, 0] > matrix[0, 0], matrix[3, 0] > matrix[0, 0], matrix[3, 2] > matrix[2, 2]]
    assert log.final("average_compatibility")["value"].iloc[0] == pytest.approx(sum(met) / 3)
    figure = EXPERIMENT.figures(log, knobs, names=["matrix"])["matrix"]
    assert figure.data is not None
    assert set(figure.data["asks"]) == {"old", "updated", "middle", "new"}


def test_features_of_different_widths_are_mapped() -> None:
    log, knobs = run_of("widths")
    assert {len(e.value) for e in log.arrays("singular")} == {6}
    assert set(log.final("cross")["arm"]) == {"Strict", "Affine"}
    assert EXPERIMENT.figures(log, knobs, names=["band"])["band"].moment


def test_old_digits_that_are_found_are_the_most_similar_ones() -> None:
    world = world_of("upright")
    learner = MapLearner("lam_1", world)
    for at in range(3):
        learner.step(at)
    mapped, labels = learner.mapped(TEST), world.labels[TEST].tolist()
    values = values_of(learner, Plane(world), {}, 3) if world.seed == world.knobs.first_seed else None
    assert values is None, "pictures are of the first seed only"
    world.knobs = tiny(downstream="upright", first_seed=3)
    values = values_of(learner, Plane(world), {}, 3)
    found = np.asarray(values["found_labels"]).astype(int)
    images = np.asarray(values["found"])
    assert mapped.old is not None
    new, old = mapped.new.double().numpy(), mapped.old.double().numpy()
    for row, asked in enumerate(ASKED):
        i = labels.index(asked)
        cosines = [
            -np.inf
            if j == i
            else new[i] @ old[j] / max(np.linalg.norm(new[i]) * np.linalg.norm(old[j]), 1e-30)
            for j in range(len(old))
        ]
        order = sorted(range(len(old)), key=lambda j: -cosines[j])[:FOUND]
        gaps = np.diff([cosines[j] for j in sorted(range(len(old)), key=lambda j: -cosines[j])[: FOUND + 1]])
        assert found[row, 0] == asked
        np.testing.assert_array_equal(images[row, 0], world.pixels[i].numpy())
        if (np.abs(gaps) > 1e-9).all():
            assert found[row, 1:].tolist() == [labels[j] for j in order]


# -- charts ------------------------------------------------------------------------------------------------------------


def test_the_picture_joins_the_centres_of_each_class() -> None:
    log, knobs = run_of("two")
    figure = EXPERIMENT.figures(log, knobs, names=["features"])["features"]
    assert figure.data is not None
    data = figure.data
    assert (data["part"] == "old").sum() == (data["part"] == "new").sum() == 90
    for digit, part in data[data["part"] == "centre"].groupby("digit"):
        for which, columns in {"old": ("x", "y"), "new": ("x2", "y2")}.items():
            own = data[(data["part"] == which) & (data["digit"] == digit)]
            assert part[columns[0]].iloc[0] == pytest.approx(own["x"].mean(), abs=2e-4)
            assert part[columns[1]].iloc[0] == pytest.approx(own["y"].mean(), abs=2e-4)


def test_bands_are_those_of_the_library_and_values_those_of_the_run() -> None:
    log, knobs = run_of("two")
    assert all(band_limits(lam) == pytest.approx(singular_value_band(lam)) for lam in (0.0, 0.3, 1.0, 2.5))
    data = EXPERIMENT.figures(log, knobs, names=["band"])["band"].data
    assert data is not None
    band = data[data["part"] == "band"]
    assert band["arm"].tolist() == ["λ = 1"]
    assert (band["low"].iloc[0], band["high"].iloc[0]) == pytest.approx((0.0, math.sqrt(2)))
    assert (data["part"] == "value").sum() == 32
    own = EXPERIMENT.figures(log, knobs, names=["own_band"])["own_band"].data
    assert own is not None
    assert "band" not in set(own["part"])


def test_frames_of_found_digits_say_who_is_right() -> None:
    log, knobs = run_of("two")
    data = EXPERIMENT.figures(log, knobs, names=["found"])["found"].data
    assert data is not None
    framed = data[data["kind"] != ""].reset_index(drop=True)
    labels = log.arrays("found_labels")[-1].value.astype(int)
    expected = [
        kind for row in labels for kind in (ASKS, *(RIGHT if label == row[0] else WRONG for label in row[1:]))
    ]
    assert framed["kind"].tolist() == expected


def test_the_plane_of_stability_leaves_out_the_moment_without_a_map() -> None:
    log, knobs = run_of("two")
    data = EXPERIMENT.figures(log, knobs, names=["tradeoff"])["tradeoff"].data
    assert data is not None
    path = data[data["part"] == "path"]
    assert path["step"].min() > 0
    ends = path[path["last"].astype(bool)].set_index("arm")
    assert ends["cross"]["λ = 1"] == pytest.approx(
        log.final("cross").set_index("arm")["value"]["λ = 1"], abs=1e-2
    )
    assert data[data["part"] == "criterion"]["cross"].iloc[0] == pytest.approx(
        log.scalars("old_self")["value"].iloc[0], abs=1e-2
    )


@pytest.mark.parametrize("what", ["two", "forward"])
def test_every_chart_is_drawn_at_every_moment(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    log, knobs = run_of(what)
    for step in (0, None):
        for name, figure in EXPERIMENT.figures(log, knobs, step).items():
            assert figure.alt, name
            if step is None:
                check_scales(figure)
    assert "WARN" not in "".join(capfd.readouterr())


# -- formulas that follow their sliders --------------------------------------------------------------------------------


class Datum:
    """A row of a chart's data, for expressions that Vega and Python read alike."""

    def __init__(self, **fields: float) -> None:
        self.__dict__.update(fields)


def evaluated(expression: str, **names: Any) -> float:
    functions = {name: getattr(math, name) for name in ("sqrt", "exp", "log", "cos", "sin", "pow")}
    return float(eval(expression, {"PI": math.pi, "max": max, **functions, **names}))


@pytest.mark.parametrize("lam", [0.1, 0.7, 2.0, 4.0])
@pytest.mark.parametrize("mode", list(PENALTIES))
def test_penalties_are_those_of_the_library(mode: str, lam: float) -> None:
    slope = max(1.0, 10 / lam)
    for stretch in (1.0, 1.1, 1.6, 2.0):
        weight = stretch * torch.eye(3, dtype=torch.float64)
        delta = math.sqrt(3) * (stretch**2 - 1)
        found = evaluated(PENALTIES[mode], datum=Datum(delta=delta), lam=lam, slope=slope)
        assert found == pytest.approx(float(LambdaOrthogonalityLoss(lam, mode)(weight)), abs=1e-9)


def test_the_ring_is_drawn_for_the_map_that_its_sliders_say() -> None:
    s1, s2, turn, lam = 1.4, 0.6, 35.0, 0.8
    a = math.radians(turn)
    weight = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) @ np.diag([s1, s2])
    for t in (0.0, 0.4, 2.0):
        place = [evaluated(e, datum=Datum(t=t), s1=s1, s2=s2, turn=turn) for e in IMAGE]
        np.testing.assert_allclose(place, weight @ [math.cos(t), math.sin(t)], atol=1e-12)
    distance = float(orthogonality_distance(torch.tensor(weight)))
    assert evaluated(DELTA, s1=s1, s2=s2) == pytest.approx(distance)
    assert [evaluated(e, lam=lam) for e in BAND] == pytest.approx(singular_value_band(lam))


@pytest.mark.parametrize("make", [ring_figure, penalty_figure])
def test_charts_to_play_with_are_quiet(make: Any, capfd: pytest.CaptureFixture[str]) -> None:
    check_scales(make())
    assert make().to_svg()
    assert "WARN" not in "".join(capfd.readouterr())


# -- claims ------------------------------------------------------------------------------------------------------------


def made_log(preset: str, changes: dict[tuple[str, str], float]) -> tuple[FrameLog, Knobs]:
    """A log of two seeds whose last numbers are those of a run in which every claim holds, but for the changes."""
    knobs = Knobs.parse({**PRESETS[preset].knobs, "seeds": 2})
    deltas = {"lam_05": 0.3, "lam_1": 0.6, "lam_2": 1.2, "lam_4": 2.0, "affine": 5.0}
    frames = []
    for seed in (0, 1):
        for kind in knobs.kinds():
            free = {"strict": 0, **dict.fromkeys(LAMBDAS, 1), "affine": 2}.get(kind, 1)
            values = {
                "cross": 60.0 + 5 * free,
                "zero_shot": 90.0 - 5 * free * (free > 1),
                "updated": 70.0 if kind not in FORWARD else 60.0,
                "area": 80.0 if kind not in FORWARD else 60.0,
                "area_random": 70.0,
                "delta": deltas.get(kind, 0.0),
                "outside": 0.0,
            }
            values = {n: v + 0.01 * seed * (n not in ("outside", "zero_shot")) for n, v in values.items()}
            values |= {name: value for (k, name), value in changes.items() if k == kind}
            start = {"old_self": 50.0, "new_zero_shot": 90.0, "outside": 0.0}
            frames.append(Frame(0, ARM_NAMES[kind], seed, start))
            frames.append(Frame(knobs.steps, ARM_NAMES[kind], seed, values))
    return FrameLog(frames), knobs


CHANGES: dict[str, dict[tuple[str, str], float]] = {
    "between-strict-and-affine": {("lam_1", "cross"): 50.0},
    "freedom-has-a-price": {("affine", "zero_shot"): 95.0},
    "lambda-sets-the-distance": {("lam_2", "delta"): 0.1},
    "distance-below-lambda": {("lam_05", "delta"): 0.7},
    "worst-first": {("lam_1", "area"): 60.0},
    "strict-keeps-everything": {("strict", "zero_shot"): 89.0},
    "band-holds": {("lam_4", "outside"): 0.1},
    "better-than-old": {("strict", "cross"): 40.0, ("lam_1", "cross"): 45.0},
    "better-than-a-weak-old": {("strict", "cross"): 40.0, ("lam_1", "cross"): 45.0},
    "hinge-stops-at-lambda": {("lam_1", "delta"): 1.2},
    "better-than-forward-maps": {("fct", "updated"): 75.0},
}


@pytest.mark.parametrize("name", list(CLAIMS))
def test_claims_follow_the_numbers(name: str) -> None:
    claim = CLAIMS[name]
    assert claim.verdict(*made_log(claim.preset, {})).outcome == "reproduced"
    assert claim.verdict(*made_log(claim.preset, CHANGES[name])).outcome == "opposite"


def test_claims_are_judged_at_the_last_moment_not_on_the_way() -> None:
    log, knobs = made_log("rotated", {})
    early = [Frame(30, "λ = 1", seed, {"area": 99.0, "area_random": 0.0}) for seed in (0, 1)]
    verdict = CLAIMS["worst-first"].verdict(FrameLog([*early, *log.frames]), knobs)
    assert verdict.estimate == pytest.approx(10.0)


def setting(arms: str) -> Knobs:
    return Knobs.parse({"arms": arms})


def test_looked_at_and_compared_arms() -> None:
    assert Knobs().looked() == "lam_1"
    assert setting("affine,lam_4").looked() == "lam_4"
    assert setting("fct,fastfill").looked() == ""
    assert Knobs().compared() == ["strict", "lam_1", "affine"]
    assert setting("soft,decay").compared() == ["soft", "decay"]
    assert Knobs().recipe("lam_2").lam == LAMBDAS["lam_2"]
    assert isinstance(Knobs().recipe("affine").lam, float)
    assert math.isinf(Knobs().recipe("affine").lam)
    assert isinstance(world_of().pixels, Tensor)
