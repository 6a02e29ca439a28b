"""The experiment behind the page *Vision modulation*: its world, what it trains, draws and claims."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normviz.adapters import (
    LaViDecoder,
    ViLN,
    concat_flops,
    cross_attention_flops,
    decoder_flops,
    lavi_flops,
)
from normviz.experiments import vision_modulation as vm
from normviz.experiments.vision_modulation.claims import CLAIMS, operations_until
from normviz.experiments.vision_modulation.decoders import (
    build_arm,
    build_decoder,
    build_host,
    flops,
    saved_at_7b,
    text_loss,
)
from normviz.experiments.vision_modulation.glimpses import glimpses
from normviz.experiments.vision_modulation.knobs import ARM_NAMES, LAVI, Knobs
from normviz.experiments.vision_modulation.picture_cost import COST_CURVES
from normviz.experiments.vision_modulation.recorded import LINES, TOKENS
from normviz.experiments.vision_modulation.words import COLOURS, FOLLOWS, KINDS, Vocabulary
from normviz.experiments.vision_modulation.world import TEXT_LENGTH, World
from normviz.frame import Frame, FrameLog

CPU = torch.device("cpu")
CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {"steps": 10, "seeds": 1, "host_steps": 10, "batch_size": 8}


ALL_ARMS: dict[str, Any] = {"arms": tuple(ARM_NAMES)}
NINE_CELLS: dict[str, Any] = {
    "arms": ("attention", "pooled", "concat"),
    "side": 3,
    "colours": 6,
    "question": "row-column",
    "filler": 1,
}


@cache
def run_of(what: str) -> tuple[FrameLog, Knobs]:
    """Three small runs that several tests look at."""
    knobs = {"all": ALL_ARMS, "nine": NINE_CELLS, "alone": {"arms": ("attention",)}}[what]
    setting = Knobs(**{**TINY, **knobs})
    return FrameLog(vm.EXPERIMENT.frames(setting, "cpu")), setting


# -- words -------------------------------------------------------------------------------------------------------------


def test_entropy_of_the_language_by_hand() -> None:
    """Of 7 words 2 are determiners, 1 an adjective, 2 nouns, 1 a verb, 1 a stop."""
    words = Vocabulary(2, 4)
    share = {"determiner": 2 / 7, "adjective": 1 / 7, "noun": 2 / 7, "verb": 1 / 7, "stop": 1 / 7}
    expected = [share[kind] / len(listed) for kind, listed in KINDS.items() for _ in listed]
    np.testing.assert_allclose(words.stationary, expected, atol=1e-12)
    of_determiner = (math.log(6) + math.log(8)) / 2
    of_noun = (math.log(6) + math.log(2)) / 2
    by_hand = 2 / 7 * of_determiner + 1 / 7 * math.log(4) + 2 / 7 * of_noun + 2 / 7 * math.log(2)
    assert words.entropy == pytest.approx(by_hand, rel=1e-12)


def test_every_word_is_another_token_and_has_its_place() -> None:
    words = Vocabulary(3, 6)
    assert len(set(words.words)) == len(words.words)
    assert words.words[words.first_cell : words.first_cell + 4] == ("a1", "b1", "c1", "a2")
    assert words.words[words.first_row] == "row 1"
    assert words.words[words.first_row + 3 + 1] == "column 2"
    assert words.words[words.question_mark] == "?"
    assert words.words[words.first_colour :] == COLOURS[:6]


def test_texts_follow_the_grammar() -> None:
    world = World(Knobs(), 3, CPU)
    kind = {word: name for name, listed in KINDS.items() for word in listed}
    spoken = [[world.words.words[token] for token in line] for line in world.texts]
    assert world.texts.shape[1] == TEXT_LENGTH
    for line in spoken:
        for now, then in pairwise(line):
            assert kind[then] in FOLLOWS[kind[now]], (now, then)
    counted = Counter(word for line in spoken for word in line)
    assert counted["the"] + counted["a"] == pytest.approx(2 / 7 * world.texts.numel(), rel=0.2)


# -- world -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["name", "row-column"])
def test_questions_name_the_cell_whose_colour_is_the_answer(question: str) -> None:
    knobs = Knobs(side=3, colours=6, question=question, filler=2)
    world = World(knobs, 1, CPU)
    batch, words = world.batch(5), world.words
    assert batch.tokens.shape == (64, knobs.text_length)
    assert (batch.tokens[:, :2] < words.spoken).all()
    for tokens, vision, colours, cell, answer in zip(
        batch.tokens.tolist(),
        batch.vision,
        batch.colours,
        batch.cell.tolist(),
        batch.answer.tolist(),
        strict=True,
    ):
        asked = [words.words[token] for token in tokens[2:]]
        row, column = divmod(cell, 3)
        expected = (
            [f"{'abc'[column]}{row + 1}"]
            if question == "name"
            else [f"row {row + 1}", f"column {column + 1}", "?"]
        )
        assert asked == expected
        assert words.words[answer] == COLOURS[colours[cell]]
        assert torch.equal(vision[:, :6].argmax(1), colours)
        assert torch.equal(vision[:, 6:].argmax(1), torch.arange(9))


def test_noise_of_visual_tokens() -> None:
    world = World(Knobs(), 0, CPU)
    noise = world.test.vision - world.test.vision.round()
    assert noise.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(noise.mean().item()) < 0.005


def test_batches_are_the_seeds_and_the_steps() -> None:
    one, same, other = World(Knobs(), 4, CPU), World(Knobs(), 4, CPU), World(Knobs(), 5, CPU)
    assert torch.equal(one.batch(7).vision, same.batch(7).vision)
    assert not torch.equal(one.batch(7).vision, one.batch(8).vision)
    assert not torch.equal(one.batch(7).vision, other.batch(7).vision)
    assert not torch.equal(one.test.vision[:64], one.batch(0).vision)


def test_the_picture_is_asked_for_every_cell() -> None:
    picture = World(Knobs(side=3, filler=3), 0, CPU).picture
    assert torch.equal(picture.cell, torch.arange(9))
    assert (picture.vision == picture.vision[:1]).all()
    assert (picture.tokens[:, :3] == picture.tokens[:1, :3]).all()
    assert len(set(picture.tokens[:, -1].tolist())) == 9


# -- decoders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARM_NAMES)
def test_an_arm_starts_from_its_host(kind: str) -> None:
    world = World(Knobs(host_steps=10), 0, CPU)
    host = build_host(world)
    before = torch.get_rng_state()
    model = build_arm(kind, world, host)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in host.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    tokens = world.test.tokens[:5]
    torch.testing.assert_close(model(tokens), host(tokens))
    seeing = model(tokens, world.test.vision[:5])
    if kind in LAVI or kind == "cross":
        torch.testing.assert_close(seeing, host(tokens), rtol=0, atol=1e-6)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if kind == "frozen":
        assert {name.split(".")[0] for name in trained} == {"projector", "blocks"}
        assert all(".conditioner." in n or ".head." in n for n in trained if n.startswith("blocks"))
    elif kind == "concat_frozen":
        assert {name.split(".")[0] for name in trained} == {"projector"}
    else:
        assert len(trained) == len(list(model.parameters()))


def test_the_host_learns_the_language() -> None:
    world = World(Knobs(), 0, CPU)
    hosts = [build_host(World(Knobs(host_steps=n), 0, CPU)) for n in (0, 100)]
    with torch.no_grad():
        untrained, trained = (text_loss(host, world.texts).item() for host in hosts)
    assert untrained > world.words.entropy + 1
    assert trained < world.words.entropy + 0.15


@pytest.mark.parametrize("sublayers", ["both", "attn", "ffn"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_operations_are_those_of_the_decoder_that_is_trained(every: int, sublayers: str) -> None:
    knobs = Knobs(depth=3, modulate_every=every, sublayers=sublayers, filler=4)
    shape: dict[str, Any] = {"layers": 3, "dim": 32, "ffn": 128, "ffn_mats": 2}
    model = build_decoder("attention", knobs)
    norms = [name for name, module in model.named_modules() if isinstance(module, ViLN)]
    named = [f"{int(name.split('.')[1]) + 1} {'attn' if name.endswith('1') else 'ffn'}" for name in norms]
    assert named == knobs.modulated_norms()
    for kind in ("attention", "mlp", "conv", "pooled"):
        expected = lavi_flops(5, 9, n_mod=len(norms), cond_dim=16, conditioner=kind, **shape)
        assert flops(kind, knobs, 9) == expected
    assert flops("concat", knobs, 9) == flops("concat_frozen", knobs, 9) == concat_flops(5, 9, **shape)
    crossed = sum(1 for block in build_decoder("cross", knobs).blocks if block.cross is not None)
    assert flops("cross", knobs, 9) == cross_attention_flops(5, 9, n_mod=crossed, **shape)
    assert flops("none", knobs, 9) == decoder_flops(5, **shape)
    hidden = model.blocks[0].mlp[0]
    assert isinstance(hidden, nn.Linear)
    assert hidden.out_features == 128


def test_saved_at_7b_is_the_cards_number() -> None:
    assert saved_at_7b() == pytest.approx(98.1, abs=0.05)


def test_glimpses_are_what_the_norms_did() -> None:
    world = World(Knobs(filler=2), 0, CPU)
    model = build_arm("attention", world, build_host(World(Knobs(filler=2, host_steps=0), 0, CPU)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ViLN):
                module.head.weight.normal_(std=0.3)
    batch = world.batch(0)
    found = glimpses(model, batch.tokens, batch.vision)
    assert len(found) == 4
    seen: list[tuple[Any, ...]] = []
    norm = model.blocks[1].norm2
    hook = norm.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    model(batch.tokens, batch.vision)
    hook.remove()
    t, out = seen[0]
    hat = (t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    gain, bias = norm.weight + found[3].dgamma, norm.bias + found[3].dbeta
    torch.testing.assert_close(gain * hat + bias, out, rtol=1e-4, atol=1e-5)
    for glimpse in found:
        assert glimpse.weights is not None
        torch.testing.assert_close(glimpse.weights.sum(-1), torch.ones(64, 3))
        assert glimpse.dgamma.abs().max() > 0.01
    assert glimpses(build_decoder("concat", world.knobs), batch.tokens, batch.vision) == []
    assert all(
        g.weights is None for g in glimpses(build_decoder("pooled", world.knobs), batch.tokens, batch.vision)
    )


# -- frames and charts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["all", "nine"])
def test_every_arm_trains_and_every_chart_draws(what: str) -> None:
    log, knobs = run_of(what)
    assert log.arms == list(knobs.shown_arms())
    assert not log.events
    assert np.isfinite(log.scalars("loss")["value"]).all()
    for name, figure in vm.EXPERIMENT.figures(log, knobs).items():
        assert figure.data is not None, name
        assert len(figure.data), name
        assert "nothing is measured yet" not in figure.alt, name
        assert len(figure.title) <= 40, name
        assert len(figure.look_for.split()) <= 12, name
    sequence = log.scalars("sequence").set_index("arm")["value"]
    assert sequence["LaVi attention"] == knobs.text_length
    assert sequence["Concat"] - sequence["LaVi attention"] == knobs.cells


def test_only_a_frozen_host_keeps_its_language() -> None:
    log, _ = run_of("all")
    kept = log.scalars("text_loss").groupby("arm")["value"].nunique()
    assert kept["LaVi, host frozen"] == kept["Concat, host frozen"] == 1
    assert kept["Concat"] > 1
    assert kept["LaVi attention"] > 1


def test_same_numbers_whatever_trains_beside_it() -> None:
    (alone, _), (beside, _) = run_of("alone"), run_of("all")
    values = [
        table[table["arm"] == "LaVi attention"]["value"].to_numpy()
        for table in (alone.scalars("loss"), beside.scalars("loss"))
    ]
    np.testing.assert_array_equal(*values)


def test_the_world_picture_follows_the_question() -> None:
    log, knobs = run_of("nine")
    data = vm.EXPERIMENT.figures(log, knobs, names=["world"])["world"].data
    assert data is not None
    cells, circles, bars, labels = (data[data["part"] == part] for part in ("cell", "circle", "bar", "label"))
    assert len(cells) == 9
    assert len(circles) == 81
    size = (circles["x2"] - circles["x"]) * (circles["y2"] - circles["y"])
    whole = ((cells["x2"] - cells["x"]) * (cells["y2"] - cells["y"])).iloc[0]
    np.testing.assert_allclose(size / whole, circles["amount"], rtol=1e-6)
    np.testing.assert_allclose(circles.groupby("asked")["amount"].sum(), 1.0, rtol=1e-5)
    assert (circles["x"] >= 0).all()
    assert (circles["x2"] <= 1).all()
    assert len(bars) == 9 * 3 * 6
    answers = {e.arm: e.value for e in log.arrays("answers")}
    own = bars[(bars["asked"] == 4) & (bars["name"] == "Pooled")]
    np.testing.assert_allclose(own["amount"], answers["Pooled"][4], rtol=1e-5)
    np.testing.assert_allclose(
        (own["x2"] - own["x"]).to_numpy()[1:], 0.98 * own["amount"].to_numpy()[1:], rtol=1e-5
    )
    assert len(labels) == 27
    middle = cells[cells["cell"] == 4].iloc[0]
    assert (middle["x"] + middle["x2"], middle["y"] + middle["y2"]) == pytest.approx((1.0, 1.0))


def test_accuracy_by_operations_is_steps_times_their_price() -> None:
    log, knobs = run_of("all")
    data = vm.EXPERIMENT.figures(log, knobs, names=["by_operations"])["by_operations"].data
    assert data is not None
    for kind in ("attention", "concat"):
        own = data[data["arm"] == ARM_NAMES[kind]]
        np.testing.assert_allclose(
            own["x"], np.array([0, 5, 10]) * flops(kind, knobs, 4) * 8 / 1e9, rtol=1e-6
        )


def test_words_are_coloured_by_norm_or_by_word() -> None:
    log, knobs = run_of("nine")
    entry = next(e.value for e in log.arrays("word_change") if e.arm == "LaVi attention")
    assert entry.shape == (LINES, 4, 4)
    data = vm.EXPERIMENT.figures(log, knobs, names=["words"])["words"].data
    assert data is not None
    np.testing.assert_allclose(data["size"].to_numpy().reshape(LINES, 4), entry.mean(-1), rtol=1e-6)
    assert data["word"].tolist()[1:4] == ["row 1", "column 1", "?"]
    pooled = next(e.value for e in log.arrays("word_change") if e.arm == "Pooled")
    np.testing.assert_allclose(pooled, np.broadcast_to(pooled[:, :1], pooled.shape), rtol=1e-4)
    log, knobs = run_of("alone")
    entry = log.arrays("word_change")[-1].value
    assert entry.shape == (4, 1, 4)
    data = vm.EXPERIMENT.figures(log, knobs, names=["words"])["words"].data
    assert data is not None
    np.testing.assert_allclose(data["size"].dropna().to_numpy().reshape(4, 4), entry[:, 0], rtol=1e-6)
    assert data["word"].tolist()[:4] == ["a1", "b1", "a2", "b2"]


# -- the browser's formulas --------------------------------------------------------------------------------------------


def test_costs_in_vega_are_the_librarys() -> None:
    vl_convert = pytest.importorskip("vl_convert")
    shapes = [(64, 32, 8, 4096, 11008, 1024, 3), (1, 2, 1, 256, 768, 64, 2)]
    for words, layers, blocks, dim, ffn, r, mats in shapes:
        values = {
            "words": words,
            "layers": layers,
            "blocks": blocks,
            "dim": dim,
            "ffn": ffn,
            "r": r,
            "mats": mats,
        }
        rows = [{"m": m, "arm": arm} for m in (1, 9, 576, 7290) for arm in COST_CURVES]
        cases = " : ".join(f"datum.arm == '{name}' ? {text}" for name, text in COST_CURVES.items())
        spec = {
            "params": [{"name": name, "value": value} for name, value in values.items()],
            "data": {"values": rows},
            "transform": [
                {
                    "calculate": f"join([datum.m, datum.arm, format({cases} : NaN, '.12~g')], '|')",
                    "as": "text",
                }
            ],
            "mark": "text",
            "encoding": {"text": {"field": "text", "type": "nominal"}},
        }
        svg = vl_convert.vegalite_to_svg(spec)
        texts = [html.unescape(t).split("|") for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
        found = {(int(m), arm): float(value) for m, arm, value in texts}
        assert len(found) == len(rows)
        shape: dict[str, Any] = {"layers": layers, "dim": dim, "ffn": ffn, "ffn_mats": mats}
        for m in {m for m, _ in found}:
            expected = {
                "Concat": concat_flops(words, m, **shape),
                "Cross-attention": cross_attention_flops(words, m, n_mod=blocks, **shape),
                "LaVi attention": lavi_flops(words, m, n_mod=2 * blocks, cond_dim=r, **shape),
                "text alone": decoder_flops(words, **shape),
            }
            for arm, value in expected.items():
                assert found[m, arm] == pytest.approx(value, rel=1e-10), (m, arm)


# -- claims ------------------------------------------------------------------------------------------------------------


def curve(
    arm: str, seed: int, accuracy: list[float], each: float, texts: tuple[float, float] = (1.0, 1.0)
) -> list[Frame]:
    """Evaluations at steps 0, 10, 20, ... of one member."""
    last = len(accuracy) - 1
    found = []
    for i, value in enumerate(accuracy):
        values: dict[str, Any] = {"accuracy": value, "text_loss": texts[0] if i < last else texts[1]}
        found.append(Frame(10 * i, arm, seed, values | ({"flops": each} if not i else {})))
    return found


def test_operations_until_an_accuracy() -> None:
    log = FrameLog(curve("LaVi attention", 0, [0.2, 0.4, 0.8, 1.0], 100.0))
    assert operations_until(log, "LaVi attention", 0, 0.6) == pytest.approx(15 * 100.0)
    assert operations_until(log, "LaVi attention", 0, 0.2) == 0.0
    assert operations_until(log, "LaVi attention", 0, 1.1) == math.inf
    assert math.isnan(operations_until(log, "LaVi attention", 1, 0.5))


def test_the_ratio_of_operations_leaves_out_what_has_not_converged() -> None:
    knobs = Knobs(question="row-column", arms=("attention", "concat"), steps=50, seeds=2)
    ours = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    frames = [
        *curve("LaVi attention", 0, ours, 100.0),
        *curve("Concat", 0, [0.0, 0.25, 0.5, 1.0, 1.0, 1.0], 300.0),
        *curve("LaVi attention", 1, ours, 100.0),
        *curve("Concat", 1, [0.0, 0.25, 0.5, 0.9, 0.9, 0.9], 300.0),
    ]
    per_seed = CLAIM["fewer-operations"].rivals[""](FrameLog(frames), knobs)
    assert per_seed[0] == pytest.approx(19 * 100 / (29 * 300))
    assert math.isnan(per_seed[1])


def test_language_kept_and_forgotten() -> None:
    knobs = Knobs(arms=("attention", "frozen", "concat", "concat_frozen"), steps=50, seeds=1)
    flat = [0.5] * 6
    frames = [
        *curve("LaVi attention", 0, flat, 1.0, (1.0, 3.0)),
        *curve("LaVi, host frozen", 0, flat, 1.0, (1.0, 1.0)),
        *curve("Concat", 0, flat, 1.0, (1.0, 4.5)),
        *curve("Concat, host frozen", 0, flat, 1.0),
    ]
    log = FrameLog(frames)
    assert CLAIM["language-kept"].rivals[""](log, knobs) == {0: 0.0}
    assert CLAIM["concatenation-forgets"].rivals[""](log, knobs) == {0: 3.5}
    assert CLAIM["frozen-host-sees"].rivals[""](log, knobs) == {0: 0.0}


def test_claims_of_a_run() -> None:
    log, knobs = run_of("nine")
    verdicts = vm.EXPERIMENT.verdicts(log, knobs)
    assert verdicts["host-at-the-start"].outcome == "reproduced"
    assert verdicts["arithmetic-saved"].outcome == "reproduced"
    assert verdicts["words-that-matter"].per_seed.keys() == {0}
    times = [e.value for e in log.array_history("ms_by_tokens")]
    assert all(len(value) == len(TOKENS) and (value > 0).all() for value in times)
    assert verdicts["faster-with-many-tokens"].per_seed[0] > 0


def test_models_are_decoders_of_the_library() -> None:
    assert isinstance(build_decoder("none", Knobs()), LaViDecoder)
