"""The experiment behind the page *Modular diffusion*: its data, what it trains, merges, draws and claims."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normviz.experiments import modular_diffusion as md
from normviz.experiments.modular_diffusion.claims import CLAIMS, slope
from normviz.experiments.modular_diffusion.concept_shapes import base_points, concept_points
from normviz.experiments.modular_diffusion.energy_distance import energy_distance
from normviz.experiments.modular_diffusion.frame_overlap import (
    RANKS,
    WIDTHS,
    all_disjoint,
    frame_overlap_figure,
)
from normviz.experiments.modular_diffusion.knobs import ARM_NAMES, Knobs
from normviz.experiments.modular_diffusion.merged_models import (
    MergedModels,
    crosstalk,
    merge_times,
    token_shares,
)
from normviz.experiments.modular_diffusion.recorded import CONCEPTS, DRAWN, REACH
from normviz.experiments.modular_diffusion.tuned_concepts import TunedConcepts, build_concept
from normviz.experiments.modular_diffusion.world import World
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError

CPU = torch.device("cpu")
CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {
    "steps": 10,
    "base_steps": 50,
    "hidden": 32,
    "token_width": 64,
    "batch_size": 16,
    "rank": 2,
}
MANY = ("orthogonal", "lora", "frozen", "shared")
Array = NDArray[np.float64]


def world(seed: int = 0, **knobs: Any) -> World:
    return World(Knobs(**{**TINY, **knobs}), seed, CPU)


@cache
def tuned(kind: str, concepts: int = 3) -> TunedConcepts:
    """Concepts after six updates."""
    found = TunedConcepts(kind, world(concepts=concepts))
    for step in range(6):
        found.update(step)
    return found


@cache
def run_of(arms: tuple[str, ...]) -> tuple[FrameLog, Knobs]:
    knobs = Knobs(**{**TINY, "arms": arms})
    return FrameLog(md.EXPERIMENT.frames(knobs, "cpu")), knobs


def draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- data --------------------------------------------------------------------------------------------------------------


def test_the_base_knows_eight_spots() -> None:
    points = base_points(4000, draw()).double().numpy()
    angles = np.arange(8) * np.pi / 4
    spots = 1.6 * np.stack([np.cos(angles), np.sin(angles)], 1)
    off = points[:, None] - spots
    nearest = np.linalg.norm(off, axis=2).argmin(1)
    assert np.bincount(nearest, minlength=8).min() > 400
    spread = off[np.arange(len(points)), nearest]
    assert spread.std() == pytest.approx(0.12, rel=0.05)


def distance_from_line(name: str, points: Array) -> Array:
    """Distance of points from the line of a concept, from a formula of its own."""
    x, y = points.T
    radius, u = np.hypot(x, y), np.linspace(0, 1, 2001)
    if name == "ring":
        off: Array = np.abs(radius - 0.7)
        return off
    lines = {
        "wave": [(3.2 * u - 1.6, 0.7 * np.sin(9.6 * u - 4.8))],
        "spiral": [(1.4 * u * np.cos(3 * np.pi * u), 1.4 * u * np.sin(3 * np.pi * u))],
        "bars": [(0.6 + 0 * u, 2.4 * u - 1.2), (-0.6 + 0 * u, 2.4 * u - 1.2)],
        "cross": [(2.4 * u - 1.2, 2.4 * u - 1.2), (2.4 * u - 1.2, 1.2 - 2.4 * u)],
        "moons": [
            (np.cos(np.pi * u) - 0.5, np.sin(np.pi * u) - 0.25),
            (0.5 - np.cos(np.pi * u), 0.25 - np.sin(np.pi * u)),
        ],
    }[name]
    line = np.concatenate([np.stack(part, 1) for part in lines])
    return np.array([np.hypot(*(line - point).T).min() for point in points])


@pytest.mark.parametrize("name", CONCEPTS)
def test_points_of_a_concept_lie_on_its_line(name: str) -> None:
    points = concept_points(name, 400, draw()).double().numpy()
    off = distance_from_line(name, points)
    assert off.max() < 0.06 * 5
    assert off.mean() == pytest.approx(0.06 * math.sqrt(2 / math.pi), rel=0.15)
    assert np.abs(points).max() < REACH
    assert points.std(0).min() > 0.3


def test_energy_distance_by_hand() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=(7, 2)) + 1

    def mean(a: Array, b: Array) -> float:
        return sum(math.hypot(*(p - q)) for p in a for q in b) / (len(a) * len(b))

    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    found = energy_distance(torch.tensor(x), torch.tensor(y))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(energy_distance(torch.tensor(x), torch.tensor(x))) == pytest.approx(0, abs=1e-12)
    stacked = energy_distance(torch.tensor(np.stack([x, x + 1])), torch.tensor(np.stack([y, y])))
    assert float(stacked[0]) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_two_spots() -> None:
    """All mass at one point against all mass at another: twice their distance."""
    x, y = torch.zeros(5, 2), torch.full((3, 2), 3.0)
    assert float(energy_distance(x, y)) == pytest.approx(2 * 3 * math.sqrt(2), rel=1e-6)


# -- world -------------------------------------------------------------------------------------------------------------


def test_a_seed_has_its_own_data_and_base_and_keeps_them() -> None:
    one, same, other = world(3), world(3), world(4)
    assert torch.equal(one.train, same.train)
    assert not torch.equal(one.train, other.train)
    assert not torch.equal(one.train, one.test[:, :512])
    for a, b in zip(one.batches(5), same.batches(5), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.batches(5)[2], one.batches(6)[2])
    weights = one.base.head.weight
    assert torch.equal(weights, same.base.head.weight)
    assert not torch.equal(weights, other.base.head.weight)
    assert weights is not same.base.head.weight


def test_a_concept_is_the_same_whoever_else_is_there() -> None:
    few, many = world(concepts=2), world(concepts=5)
    assert torch.equal(few.train, many.train[:2])
    assert torch.equal(few.tokens, many.tokens[:2])
    assert torch.equal(few.batches(1)[0], many.batches(1)[0][:2])


def test_building_a_world_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    World(Knobs(**{**TINY, "base_steps": 60}), 11, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_first_tokens_are_the_bases_plus_noise_of_its_length() -> None:
    wide = world(token_width=512, concepts=6)
    own = wide.base.token.detach()
    noise = wide.tokens - own
    np.testing.assert_allclose(noise.norm(dim=1) / own.norm(), 1.0, rtol=0.15)
    still = world(start_noise=0.0)
    assert torch.equal(still.tokens, still.base.token.detach().expand(3, -1))


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARM_NAMES)
def test_a_concept_starts_from_the_base_and_trains_only_its_own(kind: str) -> None:
    place = world()
    model = build_concept(kind, place, 1)
    x, t = torch.randn(4, 2, generator=draw()), torch.tensor([0, 5, 20, 39])
    torch.testing.assert_close(model(x, t), place.base(x, t, place.tokens[1]), rtol=1e-5, atol=1e-6)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    layer = "linear" if "shared" in kind else "film"
    factors = ("lora_A", "lora_B") if kind.startswith("lora") else ("lora_up",)
    expected = {f"blocks.{i}.{layer}.{factor}" for i in range(3) for factor in factors}
    assert names == (expected if kind == "frozen" else expected | {"token"})


@pytest.mark.parametrize("kind", ["orthogonal", "lora", "frozen", "lora_shared"])
def test_the_stack_trains_every_concept_as_if_it_were_alone(kind: str) -> None:
    """Against a loop: each concept's model by itself, with an Adam of its own."""
    place = world()
    stack = TunedConcepts(kind, place)
    losses = []
    for step in range(4):
        losses.append(stack.update(step))
    expected_losses = np.zeros(4)
    for i in range(3):
        model = build_concept(kind, place, i)
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=place.knobs.learning_rate
        )
        for step in range(4):
            x0, t, eps = (part[i] for part in place.batches(step))
            abar = place.process.alphas_bar[t][:, None]
            noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
            loss = ((model(noisy, t) - eps) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected_losses[step] += loss.item() / 3
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                stack.models[i].get_parameter(name), parameter, rtol=1e-3, atol=1e-4, msg=name
            )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)


def test_samples_of_the_stack_are_those_of_every_model() -> None:
    stack = tuned("orthogonal")
    found = stack.samples()
    for i, model in enumerate(stack.models):
        alone = stack.world.sample(model, stack.tokens[i : i + 1])[0]
        torch.testing.assert_close(found[i], alone, rtol=1e-3, atol=1e-3)


def test_disjoint_frames_share_nothing_and_random_ones_differ_by_seed() -> None:
    for state, other in combinations(tuned("disjoint").states(), 2):
        for layer in state:
            product = state[layer]["basis"].double().mT @ other[layer]["basis"].double()
            assert float(product.abs().max()) < 1e-6
    columns = [
        TunedConcepts("orthogonal", world(seed)).states()[0]["blocks.0.film"]["columns"].tolist()
        for seed in (0, 1)
    ]
    assert columns[0] != columns[1]


# -- merging -----------------------------------------------------------------------------------------------------------


def deltas_by_hand(stack: TunedConcepts) -> list[dict[str, Array]]:
    return [
        {
            layer: float(entry.get("scaling", 1.0))
            * entry["lora_up"].double().numpy()
            @ entry["basis"].double().numpy().T
            for layer, entry in state.items()
        }
        for state in stack.states()
    ]


@pytest.mark.parametrize("kind", ["orthogonal", "lora", "shared"])
def test_merged_weights_by_hand(kind: str) -> None:
    stack = tuned(kind)
    merged, base = MergedModels(stack), stack.world.base.state_dict()
    deltas = deltas_by_hand(stack)
    for method, scale in (("sum", 1.0), ("average", 0.5)):
        state = merged.model(method, 2).state_dict()
        for layer in deltas[0]:
            weight = base[f"{layer}.weight"].double().numpy()
            expected = weight + scale * (deltas[0][layer] + deltas[1][layer])
            np.testing.assert_allclose(state[f"{layer}.weight"].double().numpy(), expected, atol=1e-6)
        assert torch.equal(state["head.weight"], base["head.weight"])


def test_the_strength_scales_the_sum() -> None:
    stack = TunedConcepts("orthogonal", world(strength=0.5))
    for step in range(3):
        stack.update(step)
    layer = "blocks.1.film"
    weight = MergedModels(stack).model("sum", 2).state_dict()[f"{layer}.weight"].double().numpy()
    deltas = deltas_by_hand(stack)
    base = stack.world.base.state_dict()[f"{layer}.weight"].double().numpy()
    np.testing.assert_allclose(weight - base, 0.5 * (deltas[0][layer] + deltas[1][layer]), atol=1e-6)


def test_fusion_of_single_tokens_keeps_every_answer() -> None:
    """One input per concept, fewer concepts than dimensions: the fused layer answers as every tuned layer does."""
    stack = tuned("lora")
    state = MergedModels(stack).model("fused", 3).state_dict()
    base, deltas = stack.world.base.state_dict(), deltas_by_hand(stack)
    for layer in deltas[0]:
        fused = state[f"{layer}.weight"].double().numpy()
        theta = base[f"{layer}.weight"].double().numpy()
        for i, token in enumerate(stack.tokens.double().numpy()):
            np.testing.assert_allclose(fused @ token, (theta + deltas[i][layer]) @ token, atol=1e-4)


def test_recorded_inputs_are_what_the_layers_see() -> None:
    rows = tuned("orthogonal").inputs()
    for i, token in enumerate(tuned("orthogonal").tokens):
        assert list(rows[i]) == [f"blocks.{k}.film" for k in range(3)]
        for found in rows[i].values():
            assert torch.equal(found, token[None])
    shared = tuned("shared")
    x0, t, eps = shared.world.recorded(0)
    abar = shared.world.process.alphas_bar[t][:, None]
    first = shared.inputs()[0]["blocks.0.linear"]
    torch.testing.assert_close(first[:, :2], abar.sqrt() * x0 + (1 - abar).sqrt() * eps)


def test_crosstalk_by_hand() -> None:
    stack = tuned("lora")
    deltas, tokens = deltas_by_hand(stack), stack.tokens.double().numpy()
    by_weight, by_input = np.zeros((3, 3)), np.zeros(3)
    for layer in deltas[0]:
        D = [of[layer] for of in deltas]
        for i in range(3):
            for j in range(3):
                by_weight[i, j] += (
                    np.linalg.norm(D[i] @ D[j].T) / np.linalg.norm(D[i]) / np.linalg.norm(D[j]) / 3
                )
            others = sum(D[j] for j in range(3) if j != i)
            by_input[i] += np.linalg.norm(others @ tokens[i]) / np.linalg.norm(D[i] @ tokens[i]) / 3
    found = crosstalk(stack)
    np.testing.assert_allclose(found[0].numpy(), by_weight, rtol=1e-4)
    np.testing.assert_allclose(found[1].numpy(), by_input, rtol=1e-4)


def test_share_of_a_token_in_frames_by_hand() -> None:
    stack = tuned("gaussian")
    own: list[float] = []
    others: list[float] = []
    for i, token in enumerate(stack.tokens.double().numpy()):
        for j, state in enumerate(stack.states()):
            for entry in state.values():
                part = entry["basis"].double().numpy().T @ token
                (own if i == j else others).append(part @ part / (token @ token))
    assert token_shares(stack) == pytest.approx((np.mean(own), np.mean(others)), rel=1e-9)
    assert token_shares(tuned("lora")) is None
    assert token_shares(tuned("shared")) is None


def test_merge_times_are_positive() -> None:
    assert all(milliseconds > 0 for milliseconds in merge_times(tuned("orthogonal")))


# -- frames and charts -------------------------------------------------------------------------------------------------


def test_every_arm_trains_and_every_chart_draws() -> None:
    log, knobs = run_of(MANY)
    assert log.arms == list(knobs.shown_arms())
    assert not log.events
    assert np.isfinite(log.scalars("distance_sum")["value"]).all()
    for name, figure in md.EXPERIMENT.figures(log, knobs).items():
        assert figure.data is not None, name
        assert len(figure.data), name
        assert "nothing is measured yet" not in figure.alt, name
        assert len(figure.title) <= 40, name
        assert len(figure.look_for.split()) <= 12, name


def test_same_numbers_whatever_trains_beside_it() -> None:
    (alone, _), (beside, _) = run_of(("orthogonal",)), run_of(MANY)
    for name in ("loss", "distance_sum"):
        one, other = (
            table[table["arm"] == "Orthogonal"]["value"].to_numpy()
            for table in (alone.scalars(name), beside.scalars(name))
        )
        np.testing.assert_array_equal(one, other)


def test_one_concept_in_the_sum_is_that_concept_alone() -> None:
    log, _ = run_of(MANY)
    for entry in log.arrays("added_by_count"):
        assert len(entry.value) == 3
        assert entry.value[0] == pytest.approx(0, abs=1e-3), entry.arm
        table = log.scalars("distance_sum"), log.scalars("distance_alone")
        last = [t[(t["arm"] == entry.arm)].sort_values("step")["value"].iloc[-1] for t in table]
        assert entry.value[2] == pytest.approx(last[0] - last[1], abs=1e-5)


def test_panels_place_points_and_leave_out_what_is_far() -> None:
    points = np.zeros((2, DRAWN, 2), dtype=np.float32)
    points[1, 0] = (0.95, 1.9)
    points[1, 1] = (3.0, 0.0)
    knobs = Knobs(**{**TINY, "arms": ("lora",), "concepts": 2})
    log = FrameLog([Frame(5, "LoRA", 0, {"samples_sum": points, "targets": points})])
    data = md.EXPERIMENT.figures(log, knobs, names=["merged"])["merged"].data
    assert data is not None
    samples = data[(data["part"] == "sample") & (data["concept"] == CONCEPTS[1])]
    assert len(samples) == DRAWN - 1
    assert len(data[data["part"] == "data"]) == 2 * DRAWN - 1
    assert tuple(samples.iloc[-1][["x", "y"]]) == pytest.approx((1.5, 0.5))
    assert tuple(samples.iloc[0][["x", "y"]]) == pytest.approx((1.0 + 0.03 + 0.75 * 0.94, 0.03), abs=1e-3)


# -- exact -------------------------------------------------------------------------------------------------------------


def test_probability_that_all_are_disjoint_by_drawing() -> None:
    rng = np.random.default_rng(0)
    n, r, concepts, tries = 12, 2, 3, 4000
    hits = 0
    for _ in range(tries):
        drawn = [set(rng.choice(n, r, replace=False).tolist()) for _ in range(concepts)]
        hits += all(not a & b for a, b in combinations(drawn, 2))
    assert all_disjoint(n, r, concepts) == pytest.approx(hits / tries, abs=0.04)
    assert all_disjoint(768, 20, 2) == pytest.approx(0.586, abs=5e-4)
    assert all_disjoint(4, 2, 3) == 0


def test_the_chart_of_overlaps_has_every_position_of_its_sliders() -> None:
    data = frame_overlap_figure().data
    assert data is not None
    assert set(data["r"]) == set(RANKS)
    assert set(data["n"]) == set(WIDTHS)
    assert data["value"].between(0, 1).all()
    row = data[(data["r"] == 4) & (data["concepts"] == 6) & (data["n"] == 256)]
    by_hand = math.prod(math.comb(256 - 4 * i, 4) / math.comb(256, 4) for i in range(1, 6))
    assert row["value"].item() == pytest.approx(by_hand, abs=1e-4)


# -- knobs and claims --------------------------------------------------------------------------------------------------


def test_frames_that_cannot_be_disjoint_are_refused_with_their_capacity() -> None:
    with pytest.raises(KnobError, match="cannot all be disjoint in 64 dimensions: at most 5 can"):
        Knobs.parse({"arms": "disjoint,lora", "concepts": 6, "rank": 12, "token_width": 64})
    Knobs.parse({"arms": "orthogonal,lora", "concepts": 6, "rank": 12, "token_width": 64})


def test_growth_per_concept() -> None:
    assert slope(np.array([9.0, 1.0, 3.0, 5.0])) == pytest.approx(2.0)


def last_frame(arm: str, seed: int, **values: float) -> Frame:
    return Frame(400, arm, seed, values)


def test_claims_of_distances() -> None:
    knobs = Knobs(concepts=4, seeds=1)
    log = FrameLog(
        [
            last_frame(
                "Orthogonal",
                0,
                distance_alone=0.01,
                distance_sum=0.03,
                distance_average=0.11,
                distance_fused=0.01,
                sum_ms=1.0,
                fusion_ms=50.0,
            ),
            last_frame(
                "LoRA",
                0,
                distance_alone=0.02,
                distance_sum=0.10,
                distance_average=0.06,
                distance_fused=0.025,
            ),
        ]
    )
    expected = {
        "sum-against-lora-sum": 0.25,
        "sum-against-lora-average": 0.5,
        "sum-against-fusion": 1.2,
        "sum-is-fast": 0.02,
        "alone-as-good": 0.5,
        "average-dilutes": 0.08,
    }
    for name, value in expected.items():
        assert CLAIM[name].rivals[""](log, knobs) == {0: pytest.approx(value)}, name
