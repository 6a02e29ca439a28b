"""The experiment behind the page *Conditional normalization*: its worlds, what it trains, draws and claims."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normviz.experiments import conditional_normalization as cn
from normviz.experiments.conditional_normalization.claims import CLAIMS
from normviz.experiments.conditional_normalization.day_code import CODE, WIDTH
from normviz.experiments.conditional_normalization.fire_world import (
    HOTTEST,
    INSIDE,
    FireWorld,
    dryness_map,
    response_map,
)
from normviz.experiments.conditional_normalization.forecasters import (
    Forecaster,
    best_channel,
    build_model,
    modulation_maps,
    paper_parameters,
    response_correlations,
)
from normviz.experiments.conditional_normalization.knobs import MODELS, PAINTERS, Knobs
from normviz.experiments.conditional_normalization.painted_world import PaintedWorld, region_colours
from normviz.experiments.conditional_normalization.painters import Painter, Style, transfer_error
from normviz.experiments.conditional_normalization.recorded import (
    DAYS_SHOWN,
    DOMAINS,
    FORECASTS,
    LAYOUTS,
    PATCHES,
    POSITIONS,
    TESTED,
)
from normviz.experiments.conditional_normalization.style_moves import nearest_domain, plane_map
from normviz.experiments.conditional_normalization.tiles import (
    layout_colours,
    painted_colours,
    pixel_rows,
    signed_colours,
)
from normviz.experiments.conditional_normalization.year_curve import MONTHS, day_name
from normviz.frame import Frame, FrameLog
from normviz.norms import DayOfYearEncoding, leap_day_of_year

CPU = torch.device("cpu")
CLAIM = {claim.id: claim for claim in CLAIMS}
FIRE: dict[str, Any] = {"patches": 200, "epochs": 1, "width": 4, "season": 2.0}
PAINT: dict[str, Any] = {"task": "paint", "steps": 10}


@cache
def fire_run() -> tuple[FrameLog, Knobs]:
    """All five models, one epoch."""
    knobs = Knobs.parse({**FIRE, "models": tuple(MODELS)})
    return FrameLog(cn.EXPERIMENT.frames(knobs, "cpu")), knobs


@cache
def paint_run() -> tuple[FrameLog, Knobs]:
    """A painter without a style, one with codes, one with a style for each region; ten steps."""
    knobs = Knobs.parse({**PAINT, "painters": ("layout", "sstan", "sean")})
    return FrameLog(cn.EXPERIMENT.frames(knobs, "cpu")), knobs


@cache
def fire_world() -> FireWorld:
    return FireWorld(Knobs(**FIRE), 3, CPU)


@cache
def painted_world(jitter: float = 0.25) -> PaintedWorld:
    return PaintedWorld(Knobs(**PAINT, jitter=jitter), 3, CPU)


# -- the fire world ----------------------------------------------------------------------------------------------------


def test_danger_follows_from_response_dryness_and_day() -> None:
    """The law in float64 from the inputs alone: the logit of a patch is a line in its mean product, plus the season."""
    world = fire_world()
    weather, cover = (
        torch.cat([a, b]).double().numpy()
        for a, b in (
            (world.train.dynamic, world.test.dynamic),
            (world.train.landcover, world.test.landcover),
        )
    )
    day = torch.cat([world.train.day, world.test.day]).numpy()
    prob = torch.cat([world.train.prob, world.test.prob]).double().numpy()
    product = np.zeros(len(day))
    for i in range(len(day)):
        burns = cover[i, :3].sum(0) - cover[i, 3:].sum(0)
        dry = (weather[i, 0, 0] + weather[i, 0, 1] + weather[i, 0, 2]) / 3 + 0.5
        product[i] = (burns * dry).mean()
    middle = np.sort(product)[(len(product) - 1) // 2]
    logit = 4 * (product - middle) / product.std(ddof=1)
    logit += 2.0 * 1.5 * np.cos(2 * math.pi * (day - HOTTEST) / 366)
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-logit)), atol=1e-4)


def test_maps_that_are_drawn_are_those_of_the_law() -> None:
    world = fire_world()
    cover, weather = world.shown.landcover.double(), world.shown.dynamic.double()
    by_hand = cover[:, 0] + cover[:, 1] + cover[:, 2] - cover[:, 3] - cover[:, 4] - cover[:, 5]
    torch.testing.assert_close(response_map(cover), by_hand)
    torch.testing.assert_close(dryness_map(weather), weather[:, 0, 0:3].sum(1) / 3 + 0.5)


def test_the_true_year_passes_through_each_patch_at_its_own_day() -> None:
    world = fire_world()
    year = world.true_year()
    assert year.shape == (len(PATCHES), len(DAYS_SHOWN))
    for curve, patch_day, prob in zip(year, world.shown.day.tolist(), world.shown.prob.tolist(), strict=True):
        at = np.interp(patch_day, DAYS_SHOWN, curve.numpy())
        assert at == pytest.approx(prob, abs=0.01)
    nearest_to_july = int(np.abs(np.array(DAYS_SHOWN) - HOTTEST).argmin())
    assert (year.argmax(1) == nearest_to_july).all()


def test_an_epoch_sees_every_patch_once_and_the_next_in_another_order() -> None:
    world = FireWorld(Knobs(**FIRE), 3, CPU)
    each = world.knobs.steps_per_epoch()
    first, second = (torch.cat([world.batch(e * each + i).prob for i in range(each)]) for e in (0, 1))
    assert each == 4
    torch.testing.assert_close(first.sort().values, world.train.prob.sort().values, rtol=0, atol=0)
    torch.testing.assert_close(second.sort().values, world.train.prob.sort().values, rtol=0, atol=0)
    assert not torch.equal(first, second)
    assert len(world.test.label) == TESTED


def test_training_and_test_patches_are_the_seeds() -> None:
    other = FireWorld(Knobs(**FIRE), 4, CPU)
    assert not torch.equal(other.train.prob, fire_world().train.prob)
    again = FireWorld(Knobs(**FIRE), 3, CPU)
    assert torch.equal(again.test.dynamic, fire_world().test.dynamic)


# -- the forecasters ---------------------------------------------------------------------------------------------------


def test_loan_and_late_fusion_start_from_the_same_convolutions_and_head() -> None:
    knobs = Knobs(**FIRE)
    late, loan = (build_model(kind, knobs, 5, CPU) for kind in ("late", "loan"))
    for name in ("dynamic_convs", "static_convs", "head"):
        for a, b in zip(getattr(late, name).parameters(), getattr(loan, name).parameters(), strict=True):
            assert torch.equal(a, b), name


def test_knobs_of_the_first_layer_reach_it() -> None:
    net = build_model("loan", Knobs(**FIRE, kernel="5", normalize=False), 0, CPU)
    assert net.loan1 is not None
    assert net.loan1.kernel_size == 5
    assert net.loan1.norm_x is None
    assert modulation_maps(net.eval(), fire_world().shown)[0].shape == (3, 4, 13, 13)


def test_size_of_the_papers_network() -> None:
    """Counted by hand: three convolutions of each branch, batch norm, both LOANs, day code, head."""
    dynamic = (10 * 27 + 1) * 32 + (32 * 27 + 1) * 64 + (64 * 8 + 1) * 128
    static = (15 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 4 + 1) * 128 + 2 * 32
    loans = 2 * (32 * 32 * 9 + 32) + 2 * (64 * 64 * 9 + 64)
    head = (384 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 32 + (32 + 1) * 2
    assert dynamic + static + loans + head + 256 == 413_762 == paper_parameters()


def test_correlation_of_a_scale_that_is_the_response() -> None:
    """A network whose first channel is handed the response, its second the negative, the others nothing."""
    world = fire_world()
    net = build_model("loan", Knobs(**FIRE), 0, CPU).eval()
    truth = response_map(world.test.landcover)[:, INSIDE, INSIDE]
    scale = torch.zeros(len(truth), 4, 13, 13)
    scale[:, 0], scale[:, 1] = truth + 0.5, -2 * truth

    class Handed(nn.Module):
        def modulation(self, cond: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return scale[: len(cond)], torch.zeros_like(scale[: len(cond)])

    net.loan1 = Handed()  # type: ignore[assignment]
    np.testing.assert_allclose(response_correlations(net, world.test), [1, -1, 0, 0], atol=1e-5)
    assert best_channel(net, world.test)[1] in (1.0, -1.0)
    scale[:, 0] = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert best_channel(net, world.test) == (1, -1.0)


def test_only_models_that_are_told_the_day_depend_on_it() -> None:
    log, knobs = fire_run()
    years = {e.arm: e.value for e in log.arrays("year")}
    assert list(years) == list(knobs.shown_arms())
    for arm, year in years.items():
        spread = np.ptp(year, axis=1).max()
        assert (spread > 1e-4) == arm.endswith("+ day"), (arm, spread)


def test_forecasts_are_probabilities_of_fire() -> None:
    world, net = fire_world(), build_model("loan_day", Knobs(**FIRE), 0, CPU).eval()
    with torch.no_grad():
        fire = Forecaster("loan_day", world, net).fire(world.points)
        out = net(world.points.dynamic, world.points.static, world.points.landcover, world.points.day)
    assert fire.shape == (FORECASTS,)
    torch.testing.assert_close(fire, torch.softmax(out, 1)[:, 1])


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    log, _ = fire_run()
    world = FireWorld(Knobs(**FIRE), 0, CPU)
    net = build_model("loan", Knobs(**FIRE), 0, CPU)
    trainee = Forecaster("loan", world, net)
    for at in range(4):
        trainee.step(at)
    net.eval()
    with torch.no_grad():
        fire = trainee.fire(world.test).double()
    burned, spared = fire[world.test.label == 1], fire[world.test.label == 0]
    apart = burned[:, None] - spared
    pairs = float(((apart > 0).double() + 0.5 * (apart == 0).double()).mean())
    table = log.scalars("auroc")
    recorded = table[(table["arm"] == "LOAN")]["value"].iloc[-1]
    assert recorded == pytest.approx(pairs, abs=1e-4)


# -- the painted world -------------------------------------------------------------------------------------------------


def test_domains_palettes_are_the_means_of_their_pictures() -> None:
    world = painted_world()
    assert world.palettes.shape == (len(DOMAINS), 4, 3)
    for d in range(len(DOMAINS)):
        mean = world.train.palette[world.train.domain == d].mean(0)
        # Clamping to [-1, 1] pulls bright colours inwards.
        assert float((mean - world.palettes[d]).abs().mean()) < 0.08
    assert world.styles.domain.tolist() == [0, 1, 2, 3]
    assert len(world.layouts.domain) == LAYOUTS
    for layout in world.layouts.segmap:
        assert not any(torch.equal(layout, own) for own in world.styles.segmap)


def test_region_colours_and_transfer_error_by_a_loop() -> None:
    world = painted_world()
    image, segmap = world.test.image[:6], world.test.segmap[:6].clone()
    segmap[0][segmap[0] == 2] = 0  # a layout without a disc
    colours, there = region_colours(image, segmap)
    apart = []
    for n in range(6):
        for region in range(4):
            inside = (segmap[n] == region).numpy()
            assert bool(there[n, region]) == bool(inside.any())
            if inside.any():
                mean = image[n].double().numpy()[:, inside].mean(1)
                np.testing.assert_allclose(colours[n, region].numpy(), mean, atol=1e-5)
                apart.append(np.abs(mean - world.test.palette[n, region].double().numpy()))
    assert not there[0, 2]
    error = transfer_error(image, segmap, world.test.palette[:6])
    assert error == pytest.approx(float(np.mean(apart)), abs=1e-5)


def test_the_nearest_domain_of_a_picture_in_its_pure_palette_is_its_own() -> None:
    world = painted_world(0.0)
    found = nearest_domain(world.test.image, world.test.segmap, world.palettes)
    assert torch.equal(found, world.test.domain)


def test_pictures_are_the_seeds_and_test_pictures_are_others() -> None:
    world, other = painted_world(), PaintedWorld(Knobs(**PAINT), 4, CPU)
    assert not torch.equal(world.train.palette, other.train.palette)
    assert torch.equal(world.palettes, other.palettes), "the domains are the same"
    assert torch.equal(world.batch(5).image, painted_world().batch(5).image)
    assert not torch.equal(world.batch(5).image, world.batch(6).image)
    assert not torch.equal(world.train.palette[:96], world.test.palette)


# -- the painters ------------------------------------------------------------------------------------------------------


def test_painters_start_from_the_same_encoder() -> None:
    a, b = (Painter(kind, painted_world(), CPU) for kind in ("spade", "sstan"))
    assert a.encoder is not None
    assert b.encoder is not None
    for x, y in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("encoder", ["own", "trunk", "one"])
def test_only_one_encoder_for_all_is_not_told_the_domain(encoder: str) -> None:
    knobs = Knobs.parse({**PAINT, "encoder": encoder})
    world = PaintedWorld(knobs, 3, CPU)
    painter = Painter("sstan", world, CPU)
    assert painter.encoder is not None
    painter.encoder.eval()  # in training each look moves the estimate of the spectral norm
    some = world.test.at(slice(8))
    elsewhere = type(some)(some.image, some.segmap, (some.domain + 1) % 4, some.palette)
    with torch.no_grad():
        same = torch.allclose(painter.style(some).mu, painter.style(elsewhere).mu)  # type: ignore[arg-type]
    assert same == (encoder == "one")


def test_the_loss_is_that_of_the_formula() -> None:
    """Ten times the mean absolute error plus the KL divergence, by torch.distributions."""
    world = painted_world()
    painter = Painter("sstan", world, CPU)
    batch, draw = world.batch(0), world.generator(0)
    style = painter.style(batch, draw)
    painted = painter.paint(batch.segmap, style)
    assert style.mu is not None
    assert style.logvar is not None
    own = torch.distributions.Normal(style.mu, (style.logvar / 2).exp())
    kl = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    expected = 10 * (painted - batch.image).abs().mean() + 2e-3 * kl
    values = Painter("sstan", world, CPU).step(0)
    assert values["loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert values["kl"] == pytest.approx(float(kl.detach()), rel=1e-3, abs=1e-4)


def test_against_a_discriminator_both_sides_learn() -> None:
    knobs = Knobs(**PAINT, adversary=True)
    painter = Painter("sstan", PaintedWorld(knobs, 0, CPU), CPU)
    assert painter.opponent is not None
    before = [[p.detach().clone() for p in net.parameters()] for net in (painter.opponent, painter.generator)]
    values = painter.step(0)
    assert math.isfinite(float(values["loss"]))
    for net, old in zip((painter.opponent, painter.generator), before, strict=True):
        moved = sum(float((p.detach() - o).abs().sum()) for p, o in zip(net.parameters(), old, strict=True))
        assert moved > 0


def test_the_layout_alone_paints_one_picture_for_all_styles() -> None:
    log, _ = paint_run()
    change = log.scalars("style_change")
    last = change[change["step"] == 10].set_index("arm")["value"]
    assert last["SPADE, layout only"] < 1e-5
    assert (last.drop("SPADE, layout only") > 1e-3).all()


def test_style_only_does_not_see_the_layout() -> None:
    world = painted_world()
    painter = Painter("style", world, CPU)
    painter.generator.eval()
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).expand(3, -1)
    with torch.no_grad():
        painted = painter.paint(world.layouts.segmap, Style(z=z))
    torch.testing.assert_close(painted[0], painted[1])


# -- planes and walks --------------------------------------------------------------------------------------------------


def test_the_map_of_codes_has_the_variance_of_the_two_largest_directions() -> None:
    draw = torch.Generator().manual_seed(1)
    codes = torch.randn(90, 6, generator=draw, dtype=torch.float64) * torch.tensor([5.0, 3, 1, 1, 1, 0.5])
    domain = torch.arange(90) % 3
    flat = plane_map(codes, domain)
    largest = np.sort(np.linalg.eigvalsh(np.cov(codes.numpy().T)))[::-1][:2]
    np.testing.assert_allclose(flat.var(0).numpy(), largest, rtol=1e-9)
    assert flat[domain == 0, 0].mean() <= 0
    assert flat[domain == 1, 1].mean() >= flat[domain == 0, 1].mean()
    torch.testing.assert_close(plane_map(codes + 7, domain), flat)


def test_walks_are_recorded_for_painters_with_codes() -> None:
    log, _ = paint_run()
    moves = {e.arm: e.value for e in log.arrays("moves")}
    assert set(moves) == {PAINTERS["sstan"]}
    for share in moves.values():
        assert share.shape == (len(POSITIONS),)
        assert ((share >= 0) & (share <= 1)).all()
    table = log.scalars("at_the_start")
    for arm, share in moves.items():
        own = table[table["arm"] == arm]["value"].iloc[-1]
        assert own == pytest.approx(float(share[POSITIONS.index(0.0)]), abs=1e-6)


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_colours_of_maps_and_pictures() -> None:
    signed = signed_colours(np.array([[-2.0, 0.0, 1.0]]), 1.0)
    assert signed.tolist() == [["#1460aa", "#f4f4f2", "#c84e0a"]]
    image = np.array([[[-1.0, 1.0]], [[0.0, 1.0]], [[1.0, -1.0]]])
    assert painted_colours(image).tolist() == [["#0080ff", "#ffff00"]]
    assert layout_colours(np.array([[0.0, 3.0]])).tolist() == [["#9ecae1", "#1f5f9e"]]


def test_rows_of_pixels_fill_their_place() -> None:
    rows = pixel_rows(np.array([["#000000"] * 4] * 2), 1.0, 2.0, 0.8, 0.6)
    assert rows["top"].tolist() == [2.0, 2.3]
    assert rows["wide"].tolist() == [0.2, 0.2]
    assert rows["colours"].tolist() == [" ".join(["#000000"] * 4)] * 2


def test_the_browsers_code_of_a_day_is_the_networks() -> None:
    table = DayOfYearEncoding(WIDTH).pe.double().numpy()
    for day in (1, 11, 200, 366):
        for column in (0, 1, 2, 31, 62, 63):
            sine = CODE.format(p=f"({day} - 1)").replace("datum.column", str(column))
            match = re.fullmatch(r"\((.+) \? (.+) : (.+)\)", sine)
            assert match
            names = {"sin": math.sin, "cos": math.cos, "pow": math.pow, "base": 10.0, "d": WIDTH}
            chosen = match[2] if eval(match[1], names) else match[3]
            assert eval(chosen, names) == pytest.approx(table[day - 1, column], abs=1e-6)


def test_dates_of_days() -> None:
    assert [leap_day_of_year(month, 1) for month in range(1, 13)] == list(MONTHS)
    text = day_name("day")
    for day, expected in ((1, "1 Jan"), (60, "29 Feb"), (61, "1 Mar"), (213, "31 Jul"), (366, "31 Dec")):
        cases = re.findall(r"day >= (\d+) \? \(day - (\d+)\) \+ ' (\w+)'", text)
        assert len(cases) == 12
        start, less, name = next(c for c in cases if day >= int(c[0]))
        assert int(start) == int(less) + 1
        assert f"{day - int(less)} {name}" == expected


@pytest.mark.parametrize("run", [fire_run, paint_run])
def test_every_chart_draws_a_run(run: Any) -> None:
    log, knobs = run()
    figures = cn.EXPERIMENT.figures(log, knobs)
    for name, figure in figures.items():
        assert "nothing is measured" not in figure.alt, name
        assert len(figure.title) <= 40, name
        assert len(figure.look_for.split()) <= 12, name


def test_maps_say_how_closely_the_scale_follows() -> None:
    log, knobs = fire_run()
    alt = cn.EXPERIMENT.figures(log, knobs, names=["maps"])["maps"].alt
    entry = next(e for e in log.arrays("modulation") if e.arm == "LOAN + day")
    truth = log.arrays("response")[0].value
    r = np.corrcoef(truth.ravel(), entry.value[:, 0].ravel())[0, 1]
    assert f"correlation {r:.2f}" in alt


# -- claims ------------------------------------------------------------------------------------------------------------


def verdict_of(claim: str, preset: str, values: dict[str, dict[str, tuple[float, ...]]]) -> str:
    """The outcome for scalars by arm, name and seed, at the end of a preset's run; start values are 0.1."""
    knobs = Knobs.parse({**cn.PRESETS[preset].knobs, "seeds": 5})
    frames = []
    for arm, named in values.items():
        for seed in range(5):
            frames.append(Frame(0, arm, seed, dict.fromkeys(named, 0.1)))
            frames.append(Frame(knobs.total_steps(), arm, seed, {n: v[seed] for n, v in named.items()}))
    return CLAIM[claim].verdict(FrameLog(frames), knobs).outcome


LOW, HIGH = (0.60, 0.61, 0.62, 0.61, 0.60), (0.80, 0.81, 0.82, 0.80, 0.83)
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("joined-early", "place", {"LOAN": {"auroc": HIGH}, "Late fusion": {"auroc": LOW}}, "reproduced"),
    ("joined-early", "place", {"LOAN": {"auroc": LOW}, "Late fusion": {"auroc": HIGH}}, "opposite"),
    ("joined-early", "place", {"LOAN": {"auroc": LOW}, "Late fusion": {"auroc": LOW}}, "no effect"),
    ("scale-follows-the-place", "place", {"LOAN": {"gamma_response": HIGH}}, "reproduced"),
    ("scale-follows-the-place", "place", {"LOAN": {"gamma_response": (0.1,) * 5}}, "no effect"),
    ("nothing-to-join", "only-means", {"LOAN": {"auroc": LOW}, "Late fusion": {"auroc": LOW}}, "reproduced"),
    ("nothing-to-join", "only-means", {"LOAN": {"auroc": HIGH}, "Late fusion": {"auroc": LOW}}, "opposite"),
    ("day-code", "season", {"LOAN + day": {"auroc": HIGH}, "LOAN": {"auroc": LOW}}, "reproduced"),
    (
        "style-in-every-norm",
        "style-transfer",
        {"SSTAN": {"transfer_error": LOW}, "SPADE": {"transfer_error": LOW}},
        "no effect",
    ),
    (
        "style-is-used",
        "style-transfer",
        {"SSTAN": {"transfer_error": LOW}, "SPADE, layout only": {"transfer_error": HIGH}},
        "reproduced",
    ),
    ("domains-apart", "one-encoder", {"SSTAN": {"separated": (0.97, 0.98, 1.0, 0.99, 0.98)}}, "reproduced"),
    ("domains-apart", "one-encoder", {"SSTAN": {"separated": LOW}}, "opposite"),
    (
        "walk-to-another-domain",
        "one-encoder",
        {"SSTAN": {"at_the_start": (0.01, 0.0, 0.02, 0.01, 0.0), "at_the_end": HIGH}},
        "reproduced",
    ),
    (
        "walk-without-return",
        "one-encoder",
        {"SSTAN": {"least_rise": (0.0, 0.01, 0.0, 0.0, 0.0)}},
        "reproduced",
    ),
    (
        "walk-without-return",
        "one-encoder",
        {"SSTAN": {"least_rise": (-0.2, -0.1, -0.2, -0.1, -0.2)}},
        "opposite",
    ),
]


@pytest.mark.parametrize(("claim", "preset", "values", "outcome"), CASES)
def test_what_claims_come_to(claim: str, preset: str, values: dict[str, Any], outcome: str) -> None:
    assert verdict_of(claim, preset, values) == outcome
