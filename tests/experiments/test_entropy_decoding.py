"""The experiment behind the page *Entropy decoding*: its languages, what it trains and decodes, draws and claims."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from normviz.experiments import entropy_decoding as ed
from normviz.experiments.entropy_decoding.claims import CLAIMS, above_the_line, kept_by_half
from normviz.experiments.entropy_decoding.contest import Decoded, Tally, bits_by
from normviz.experiments.entropy_decoding.frames import Pair, _evaluate
from normviz.experiments.entropy_decoding.held_out import Reading, published_gap
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, RANDOM, SINGLE, SMALL, SPECULATIVE, Knobs
from normviz.experiments.entropy_decoding.language import (
    LENGTHS,
    judge,
    language_of,
    place_in_stretch,
    place_in_word,
    write,
)
from normviz.experiments.entropy_decoding.learners import Learner, TapeShelf, build_model
from normviz.experiments.entropy_decoding.recorded import CONTEXT, FINE, NEW_TOKENS, PROMPT, WORLD
from normviz.experiments.entropy_decoding.switching_price import PAPER_POINTS, price_figure
from normviz.experiments.entropy_decoding.text_picture import text_figure
from normviz.figures import Board, colours
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.training import Diverged
from tests.decoding.references import naive_rule
from tests.engine.members import by_member

CPU = torch.device("cpu")
CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {
    "steps": 20,
    "prompts": 3,
    "batch_size": 4,
    "tau": 1.4,
    "min_tokens": 4,
    "large_width": 40,
}
CLOCK = ("token_ms", "sweep_token_ms")


@cache
def run_of(**values: Any) -> tuple[FrameLog, Knobs]:
    """A small run."""
    knobs = Knobs(**{**TINY, **values})
    return FrameLog(ed.EXPERIMENT.frames(knobs, "cpu")), knobs


def tokens(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([WORLD.index(char) for char in text])


def array_of(log: FrameLog, name: str, arm: str = EAD) -> np.ndarray[Any, np.dtype[np.float64]]:
    return next(e.value.astype(float) for e in log.arrays(name) if e.arm == arm)


# -- languages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stretch", ["long", "short"])
def test_stretches_have_their_lengths_and_letters_go_on(stretch: str) -> None:
    text = "".join(WORLD[i] for i in write(np.random.default_rng(0), 3000, 0.2, stretch))
    inner = re.findall(r"[a-z]+|[0-9]+", text)[1:-1]
    letters, digits = (([p for p in inner if p.isalpha()]), ([p for p in inner if p.isdigit()]))
    for parts, (low, high) in zip((letters, digits), LENGTHS[stretch], strict=True):
        assert {len(part) for part in parts} == set(range(low, high + 1))
    for part in letters:
        first = ord(part[0]) - ord("a")
        assert part == "".join(chr(ord("a") + (first + i) % 26) for i in range(len(part)))


@pytest.mark.parametrize("stretch", ["long", "short"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_digits_are_sums_as_often_as_the_noise_says(stretch: str, noise: float) -> None:
    """A random digit is right once in ten times. Five standard errors of a share."""
    text = "".join(WORLD[i] for i in write(np.random.default_rng(1), 6000, noise, stretch))
    parts = re.findall("[0-9]+", text) if stretch == "long" else ["".join(re.findall("[0-9]", text))]
    right = [
        int(part[i]) == (int(part[i - 1]) + int(part[i - 2])) % 10
        for part in parts
        for i in range(2, len(part))
    ]
    expected = 1 - 0.9 * noise
    room = 5 * math.sqrt(expected * (1 - expected) / len(right))
    assert np.mean(right) == pytest.approx(expected, abs=room + 1e-12)


def test_judged_by_hand() -> None:
    text = tokens("ab12358a319")
    assert judge(text, 2, "long").tolist() == [-1, -1, 1, 1, 1, -1, -1, -1, 0]
    assert judge(text, 2, "short").tolist() == [-1, -1, 1, 1, 1, -1, 1, 1, 0]
    assert judge(text, 0, "long").tolist()[:2] == [-1, -1]


def test_places_by_hand() -> None:
    assert place_in_stretch(tokens("12abc34de")).tolist() == [0, 0, -3, -2, -1, 1, 2, 0, 0]
    assert place_in_word("xy a bcd, e").tolist() == [0, 0, 0, 1, 0, 1, 2, 3, 0, 0, 1]


def test_what_is_tested_is_not_what_is_trained() -> None:
    language = language_of(Knobs(), 3)
    batch, targets = language.batch(0)
    held, _ = language.held_out
    assert batch.shape == (24, CONTEXT)
    assert torch.equal(batch[:, 1:], targets[:, :-1])
    assert not {tuple(row) for row in batch.tolist()} & {tuple(row) for row in held.tolist()}
    assert language.prompts.shape == (6, PROMPT)
    assert torch.equal(language.batch(7)[0], language_of(Knobs(), 3).batch(7)[0])
    assert not torch.equal(language.batch(7)[0], language_of(Knobs(), 4).batch(7)[0])


def test_real_text_reads_what_it_does_not_have_as_a_space() -> None:
    language = language_of(Knobs(task="text"), 0)
    read = "".join(language.vocabulary[i] for i in language.encode("a§b").tolist())
    assert read == "a b"
    assert language.judge(np.zeros(4, dtype=np.int64), 1) is None
    held = language.held_out[1]
    first = np.array([[language.vocabulary[i].isalpha() for i in row] for row in held.tolist()])
    assert not (language.hard & ~first).any(), "the first letter of a word is a letter"
    assert 0.05 < language.hard.mean() < 0.3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": ""}, "prompt must be 1 to 16 characters of a to z and 0 to 9, got none"),
        ({"prompt": "abcD"}, "'D' among them"),
        ({"prompt": "a" * 17}, "at most 16 characters"),
        ({"text_prompt": ""}, "text_prompt must be 1 to 16 characters"),
        ({"tau": -0.1}, "0 to 3 bits"),
        ({"tau": "nan"}, "0 to 3 bits"),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(values: dict[str, object], words: str) -> None:
    with pytest.raises(KnobError, match=re.escape(words[:1].upper() + words[1:]) + "|" + re.escape(words)):
        Knobs.parse(values)


# -- training ----------------------------------------------------------------------------------------------------------


def test_sizes_are_the_cards() -> None:
    small, large = (build_model(name, len(WORLD), Knobs()) for name in (SMALL, LARGE))
    assert 5_000 < small.num_parameters < 6_000
    assert 105_000 < large.num_parameters < 112_000


def test_a_training_that_is_played_back_has_the_same_numbers() -> None:
    knobs = Knobs(**{**TINY, "prompts": 2, "rivals": ("random",)})
    first = by_member(ed.EXPERIMENT.frames(knobs, "cpu"), CLOCK)
    assert by_member(ed.EXPERIMENT.frames(knobs, "cpu"), CLOCK) == first
    shelf = TapeShelf(most=1)
    fresh = Learner(LARGE, 0, knobs, language_of(knobs, 0), CPU, shelf)
    again = Learner(LARGE, 0, knobs, language_of(knobs, 0), CPU)
    assert again.tape.whole
    for at in range(knobs.steps):
        assert fresh.step(at) == again.step(at)
    weights = [learner.pause(knobs.steps).state_dict() for learner in (fresh, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert shelf.take((*knobs.training_key(), LARGE, 0, "cpu")) is fresh.tape
    assert not shelf.take(("another",)).whole
    assert not shelf.take((*knobs.training_key(), LARGE, 0, "cpu")).whole, "one is kept"


def test_a_change_of_the_rule_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run_of()
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: pytest.fail("this trains"))
    _, knobs = run_of(tau=2.0, window=1, prompts=2, rivals=("single",))
    assert knobs.taus() == (0.4, 0.7, 1.0, 1.4, 2.0)


def test_a_model_that_diverges_ends_what_needs_it() -> None:
    pair = Pair(Knobs(**{**TINY, "learning_rate": 1.1e-3}), 0, CPU)
    assert _evaluate(pair, 0) is not None
    with torch.no_grad():
        pair.large.model.head.weight.fill_(math.nan)
    with pytest.raises(Diverged, match="loss is nan"):
        pair.large.step(0)
    assert _evaluate(pair.large, 1) is None
    assert _evaluate(pair, 1) is None
    assert not pair.trained
    with pytest.raises(Diverged, match="one of its models"):
        pair.step(1)


# -- decoding ----------------------------------------------------------------------------------------------------------


def test_scores_and_costs_follow_from_the_rows() -> None:
    log, knobs = run_of()
    texts, owners = log.array_history("row_codes"), log.array_history("row_owner")
    prompts = language_of(knobs, 0).prompts.tolist()
    right, judged, shares, at = 0, 0, [], knobs.taus().index(knobs.tau)
    for text, owner, prompt in zip(texts, owners, prompts, strict=True):
        whole = "".join(WORLD[i] for i in prompt) + "".join(chr(int(code)) for code in text.value)
        for i in range(PROMPT, len(whole)):
            if whole[i - 2 : i + 1].isdigit():
                judged += 1
                right += int(whole[i]) == (int(whole[i - 1]) + int(whole[i - 2])) % 10
        shares.append(owner.value.mean())
    final = {n: log.final(n).set_index("arm")["value"] for n in ("score", "share", "cost", "full")}
    assert final["score"][EAD] == pytest.approx(right / judged if judged else 0.0)
    assert final["share"][EAD] == pytest.approx(np.mean(shares), abs=1e-6)
    assert array_of(log, "sweep_share")[at] == pytest.approx(np.mean(shares), abs=1e-6)
    small, large = (build_model(name, len(WORLD), knobs).num_parameters for name in (SMALL, LARGE))
    expected = np.mean(shares) + (1 - np.mean(shares)) * small / large
    assert final["cost"][EAD] == pytest.approx(expected, abs=1e-6)
    assert final["cost"][SMALL] == pytest.approx(small / large)
    assert (final["share"][SMALL], final["share"][LARGE], final["cost"][LARGE]) == (0, 1, 1)
    assert (final["full"] >= final["cost"] - 1e-9).all()


def test_random_switching_is_interpolated_to_the_same_share() -> None:
    log, _ = run_of()
    share, score = array_of(log, "sweep_share", RANDOM), array_of(log, "sweep_score", RANDOM)
    assert (share[0], share[-1]) == (0, 1)
    final = {n: log.final(n).set_index("arm")["value"] for n in ("score", "share")}
    at = final["share"][EAD]
    i = max(k for k in range(len(share) - 1) if share[k] <= at)
    expected = score[i] + (score[i + 1] - score[i]) * (at - share[i]) / (share[i + 1] - share[i])
    assert final["score"][RANDOM] == pytest.approx(expected, abs=1e-5)
    assert final["share"][RANDOM] == pytest.approx(at)


def test_greedy_speculative_text_is_the_large_models() -> None:
    log, _ = run_of()
    final = log.final("score").set_index("arm")["value"]
    assert final[SPECULATIVE] == pytest.approx(final[LARGE], abs=0.1), "but for ties of the last bits"
    calls = log.final("share").set_index("arm")["value"][SPECULATIVE]
    assert 1 / 5 <= calls <= 1, "a pass of the large model gives one to gamma + 1 tokens"


def test_every_single_token_switches_at_least_as_often() -> None:
    log, _ = run_of()
    final = log.final("switches").set_index("arm")["value"]
    assert final[SINGLE] >= 0
    assert final[EAD] <= 100 / 4, "runs of four tokens and more"


def test_the_picture_is_the_rule_on_the_recorded_text() -> None:
    log, knobs = run_of()
    owner, small, large = (array_of(log, f"text_{name}") for name in ("owner", "small", "large"))
    by_tau = array_of(log, "text_by_tau")
    assert by_tau.shape == (len(FINE), NEW_TOKENS)
    for k in (0, 20, FINE.index(knobs.tau), 40, 60):
        entropies: list[float] = []
        writer, near = "small", False
        for t in range(NEW_TOKENS):
            assert near or bool(by_tau[k, t]) == (writer == "large"), (FINE[k], t)
            entropies.append(large[t] if writer == "large" else small[t])
            mean = float(np.mean(entropies[-knobs.window :]))
            near = near or abs(mean - FINE[k]) < 1e-4  # rounding may decide from here on
            writer = naive_rule(entropies, FINE[k], knobs.window, knobs.min_tokens, "small", 0.0)
    assert near or owner.tolist() == by_tau[FINE.index(knobs.tau)].tolist()


def test_entropies_by_float64() -> None:
    log, knobs = run_of()
    pair = Pair(knobs, 0, CPU)
    model = pair.large.pause(knobs.steps)
    codes = array_of(log, "text_codes")
    text = torch.tensor([[WORLD.index(chr(int(code))) for code in codes]])
    logits = model(text)[0][0].detach().double().numpy()[len(knobs.prompt) - 1 : -1]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(array_of(log, "text_large"), -(p * np.log2(p)).sum(-1), atol=1e-4)


def test_caches_grow_when_their_model_writes() -> None:
    log, knobs = run_of()
    owner, caches = array_of(log, "text_owner"), array_of(log, "caches")
    begin = len(knobs.prompt)
    for t in range(NEW_TOKENS):
        for row, writes in ((0, owner[t] == 0), (1, owner[t] == 1)):
            before = caches[row, t - 1] if t else 0
            assert caches[row, t] == (begin + t if writes else before)


def test_bits_of_a_text_by_hand() -> None:
    torch.manual_seed(0)
    model = build_model(SMALL, 5, Knobs()).eval()
    prompt, new = torch.tensor([1, 2]), torch.tensor([3, 0, 4])
    total = 0.0
    for t in range(3):
        logits = model(torch.cat((prompt, new[:t]))[None])[0][0, -1].detach().double().numpy()
        total -= math.log2(math.exp(logits[new[t]]) / np.exp(logits).sum())
    assert bits_by(model, prompt, new) == pytest.approx(total / 3, abs=1e-5)


def test_a_tally_without_digits_scores_nothing() -> None:
    result = Decoded(torch.zeros(2, dtype=torch.long), 0.5, 0.6, 1.0, 2.0, 0.0, [])
    tally = Tally()
    tally.add(result, np.array([-1, -1]), 0.0)
    assert tally.score == 0
    tally.add(result, np.array([1, 0]), 0.0)
    assert (tally.score, tally.mean("cost")) == (0.5, 0.6)


def test_real_text_is_scored_by_the_large_model() -> None:
    log, knobs = run_of(task="text", rivals=("random",), prompts=2, tau=2.0)
    final = log.final("score").set_index("arm")["value"]
    assert (final < 0).all()
    assert "row_right" not in log.array_names
    bits, share = array_of(log, "forced_bits"), array_of(log, "forced_share")
    pair = Pair(knobs, 0, CPU)
    readings = [Reading(learner.pause(knobs.steps), pair.language) for learner in (pair.small, pair.large)]
    losses = []
    for reading in readings:
        logits = reading.logits.double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.append(-log_p[np.arange(len(log_p)), reading.targets.numpy()] / math.log(2))
    # At a threshold of 0 bits the large model writes all but the first shortest run.
    first, count = knobs.min_tokens, len(losses[0])
    assert share[0] == pytest.approx((count - first) / count)
    assert bits[0] == pytest.approx((losses[0][:first].sum() + losses[1][first:].sum()) / count, abs=1e-4)
    assert ((share >= 0) & (share <= 1)).all()


def test_published_costs_by_hand() -> None:
    gaps = [abs(1 - (0.43 + 0.57 * 3 / 11) - 0.415), abs(1 - (0.25 + 0.75 * 1.5 / 14) - 0.67)]
    assert published_gap() == pytest.approx(max(gaps), abs=1e-12)
    assert published_gap() < 1e-3


# -- charts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.4, 2.5, 3.0])
def test_dragging_the_threshold_colours_the_text_anew(tau: float) -> None:
    """The letters that Vega draws in each writer's colour are those of the rule at the threshold."""
    log, knobs = run_of()
    board = Board(log.view(), knobs.shown_arms(), None, knobs.total_steps(), knobs.progress())
    figure = text_figure(board, knobs)
    recorded = json.dumps(figure.spec)
    dragged = recorded.replace('"level": 1.4', f'"level": {tau}')
    assert (dragged == recorded) == (tau == 1.4)
    moved = replace(figure, spec=json.loads(dragged))
    svg = moved.to_svg()
    _, colour = colours(knobs.shown_arms().ordered((SMALL, LARGE)))
    letters = re.findall(rf'<text[^>]*font-family="monospace"[^>]*fill="{colour}"[^>]*>', svg)
    assert len(letters) == int(array_of(log, "text_by_tau")[FINE.index(tau)].sum())
    assert f"τ {tau:.2f}" in svg


def test_the_charts_say_what_they_show() -> None:
    log, knobs = run_of()
    figures = ed.EXPERIMENT.figures(log, knobs)
    text = "".join(chr(int(code)) for code in array_of(log, "text_codes"))
    assert repr(text[: len(knobs.prompt)]) in figures["text"].alt
    assert repr(text[len(knobs.prompt) :]) in figures["text"].alt
    rows = figures["rows"].data
    assert rows is not None
    assert len(rows) == 3 * (NEW_TOKENS + 1)
    costs = figures["costs"].data
    assert costs is not None
    published = costs[costs["account"] == "as published"]["mean"].to_numpy()
    np.testing.assert_allclose(published, array_of(log, "sweep_cost"), atol=1e-6)
    quality = figures["quality"].data
    assert quality is not None
    assert set(quality["arm"]) == {SMALL, LARGE, EAD, RANDOM, SINGLE}
    for figure in figures.values():
        assert len(figure.title) <= 40
        assert len(figure.look_for.split()) <= 12


def test_the_price_of_the_papers_pairs() -> None:
    data = price_figure().data
    assert data is not None
    paper = data[data["part"] == "paper"].set_index("name")["cost"]
    for (name, _, _), saving in zip(PAPER_POINTS, (0.415, 0.67), strict=True):
        assert 1 - paper[name] == pytest.approx(saving, abs=1e-3)


# -- claims ------------------------------------------------------------------------------------------------------------


def made_log(knobs: Knobs, shares: list[float], scores: list[float], best: float) -> FrameLog:
    end = knobs.total_steps()
    return FrameLog(
        [
            Frame(end, EAD, 0, {"sweep_share": np.array(shares), "sweep_score": np.array(scores)}),
            Frame(end, LARGE, 0, {"score": best}),
        ]
    )


def test_quality_kept_counts_only_shares_up_to_one_half() -> None:
    knobs = Knobs()
    log = made_log(knobs, [0.9, 0.5, 0.3], [0.5, 0.45, 0.2], 0.5)
    assert kept_by_half(log, knobs) == {0: pytest.approx(90)}
    assert kept_by_half(made_log(knobs, [0.9, 0.6], [0.5, 0.4], 0.5), knobs) == {0: 0.0}
    verdict = CLAIM["quality-kept"].judge({"": {0: 91.0, 1: 90.5, 2: 91.2}})
    assert verdict.outcome == "opposite"


def test_a_straight_line_is_no_effect_on_real_text() -> None:
    knobs = Knobs(task="text")
    share = np.array([1.0, 0.8, 0.5, 0.2, 0.0])
    for extra in (0.0, 0.1):
        bits = 3.0 - 1.0 * (share + np.array([0, extra, extra, extra, 0]))
        log = FrameLog(
            [
                Frame(knobs.steps, SMALL, 0, {"bits": 3.0}),
                Frame(knobs.steps, LARGE, 0, {"bits": 2.0}),
                Frame(knobs.steps, EAD, 0, {"forced_share": share, "forced_bits": bits}),
            ]
        )
        assert above_the_line(log, knobs)[0] == pytest.approx(100 * extra, abs=1e-4)


def test_claims_of_the_default_setting_have_a_number() -> None:
    log, knobs = run_of()
    unmeasured = {"quality-kept"} if log.final("score").set_index("arm")["value"][LARGE] == 0 else set()
    if log.final("switches").set_index("arm")["value"][EAD] == 0:
        unmeasured.add("no-oscillation")
    for claim in CLAIMS:
        if claim.applies(knobs):
            numbers = [measure(log, knobs)[0] for measure in claim.rivals.values()]
            assert claim.id in unmeasured or all(math.isfinite(number) for number in numbers), claim.id
