"""Two models in turns: a replay without caches, all cache policies, every edge case of the method."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.decoding import (
    ByteLSTM,
    CharTransformer,
    EADResult,
    EntropyAdaptiveDecoder,
    EntropySwitchController,
    RandomSwitchController,
)
from tests.decoding.references import FunctionLM, entropy_bits, naive_rule, table_lm

VOCAB = 7
PROMPT = torch.tensor([3, 1, 4])


def networks(context: int = 80) -> tuple[CharTransformer, CharTransformer]:
    torch.manual_seed(1)
    small = CharTransformer(VOCAB, 4, 1, 1, context)
    large = CharTransformer(VOCAB, 8, 2, 2, context)
    with torch.no_grad():
        for model in (small, large):
            model.head.weight.mul_(4)
    return small, large


def tables() -> tuple[FunctionLM, FunctionLM]:
    return table_lm(VOCAB, 0, 10), table_lm(VOCAB, 1, 40)


def greedy(model: torch.nn.Module, prompt: Tensor, count: int) -> list[int]:
    """Without a cache."""
    text = prompt.tolist()
    for _ in range(count):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
    return text[len(prompt) :]


def replay(
    small, large, prompt: list[int], count: int, threshold: float, window: int, min_tokens: int, start: str
) -> tuple[list[int], list[str], list[float]]:
    """The method from its description: whole texts, no caches, the rule replayed from the beginning each time."""
    text, owners, entropies = list(prompt), [], []
    for _ in range(count):
        owner = naive_rule(entropies, threshold, window, min_tokens, start)
        with torch.no_grad():
            logits = {"small": small, "large": large}[owner](torch.tensor([text]))[0][0, -1].double().numpy()
        entropies.append(entropy_bits(logits))
        owners.append(owner)
        text.append(int(logits.argmax()))
    return text[len(prompt) :], owners, entropies


@pytest.mark.parametrize("kind", ["networks", "tables"])
@pytest.mark.parametrize("start", ["small", "large"])
@pytest.mark.parametrize(("window", "min_tokens"), [(5, 10), (1, 1), (2, 3)])
def test_equals_a_replay_without_caches(window: int, min_tokens: int, start: str, kind: str) -> None:
    small, large = networks() if kind == "networks" else tables()
    for threshold in (1.4, 2.2):
        controller = EntropySwitchController(threshold, window, min_tokens, start=start)
        result = EntropyAdaptiveDecoder(small, large, controller).generate(PROMPT, 60)
        tokens, owners, entropies = replay(
            small, large, PROMPT.tolist(), 60, threshold, window, min_tokens, start
        )
        assert result.tokens.tolist() == tokens
        assert result.owner == owners
        assert result.entropy == pytest.approx(entropies, abs=1e-4)
        means = [np.mean(entropies[max(0, t - window + 1) : t + 1]) for t in range(60)]
        assert result.mean_entropy == pytest.approx(means, abs=1e-4)
        assert result.large_fraction == owners.count("large") / 60
        changes = sum(a != b for a, b in itertools.pairwise(owners))
        final = naive_rule(entropies, threshold, window, min_tokens, start)
        assert result.switches == changes + (final != owners[-1])


def test_check_2_entropy_knows_nothing_of_the_sampling() -> None:
    one_text = FunctionLM(lambda text: [0.0, 1.0, 0.5 * len(text) % 2, -1.0, 2.0, 0.3, 0.0], VOCAB)
    entropies = []
    for options in (
        {},
        {"temperature": 3.0},
        {"temperature": 0.2, "top_k": 2},
        {"temperature": 1.0, "top_p": 0.3},
    ):
        with pytest.warns(UserWarning, match="nothing can be saved"):
            decoder = EntropyAdaptiveDecoder(one_text, one_text, EntropySwitchController(1.0), **options)
        entropies.append(decoder.generate(PROMPT, 12).entropy)
    assert entropies[1:] == [entropies[0]] * 3
    logits = [[0.0, 1.0, 0.5 * n % 2, -1.0, 2.0, 0.3, 0.0] for n in range(3, 15)]
    assert entropies[0] == pytest.approx([entropy_bits(np.array(row)) for row in logits], abs=1e-5)


def test_check_3_thresholds_beyond_all_entropies_leave_one_model() -> None:
    small, large = networks()
    above = EntropyAdaptiveDecoder(small, large, EntropySwitchController(-1.0, start="large")).generate(
        PROMPT, 50
    )
    assert above.tokens.tolist() == greedy(large, PROMPT, 50)
    assert (above.large_fraction, above.switches) == (1.0, 0)
    assert above.processed_tokens == {"small": 0, "large": 52}
    for threshold in (99.0, math.log2(VOCAB)):
        below = EntropyAdaptiveDecoder(small, large, EntropySwitchController(threshold)).generate(PROMPT, 50)
        assert below.tokens.tolist() == greedy(small, PROMPT, 50)
        assert (below.large_fraction, below.switches) == (0.0, 0)
        assert below.processed_tokens == {"small": 52, "large": 0}
        assert below.catch_up_tokens == {"small": 0, "large": 0}


def test_a_negative_threshold_goes_up_after_the_first_run_and_stays() -> None:
    result = EntropyAdaptiveDecoder(*tables(), EntropySwitchController(-1.0, min_tokens=4)).generate(
        PROMPT, 20
    )
    assert result.owner == ["small"] * 4 + ["large"] * 16
    assert result.switches == 1


@pytest.mark.parametrize("policy", ["lazy", "sync", "drop"])
def test_check_4_one_model_in_both_roles(policy: str) -> None:
    _, large = networks()
    for threshold in (0.5, 1.2, 1.6):
        with pytest.warns(UserWarning, match="nothing can be saved"):
            decoder = EntropyAdaptiveDecoder(
                large, large, EntropySwitchController(threshold, 2, 1), cache_policy=policy
            )
        assert decoder.generate(PROMPT, 40).tokens.tolist() == greedy(large, PROMPT, 40)


def test_check_6_completed_runs_have_the_minimum_length() -> None:
    small, large = tables()
    for min_tokens in (1, 4):
        controller = EntropySwitchController(2.3, window=1, min_tokens=min_tokens)
        decoder = EntropyAdaptiveDecoder(small, large, controller, temperature=1.0)
        torch.manual_seed(0)
        owners = decoder.generate(PROMPT, 300).owner
        lengths = [len(list(group)) for _, group in itertools.groupby(owners)][:-1]
        assert len(lengths) > 10
        assert min(lengths) >= min_tokens


class Recording(torch.nn.Module):
    """A model that keeps the last logits of each call and the position after it."""

    def __init__(self, model: CharTransformer | ByteLSTM) -> None:
        super().__init__()
        self.inner = model
        self.vocab_size, self.context = model.vocab_size, model.context
        self.num_parameters = model.num_parameters
        self.seen: list[tuple[int, Tensor]] = []

    def forward(self, tokens: Tensor, cache=None):
        logits, cache = self.inner(tokens, cache)
        self.seen.append((cache.length, logits[0, -1]))
        return logits, cache


@pytest.mark.parametrize("policy", ["lazy", "sync", "drop"])
@pytest.mark.parametrize("kind", ["transformer", "mixed"])
def test_check_7_logits_after_many_changes_equal_uncached_ones(policy: str, kind: str) -> None:
    small, large = networks()
    if kind == "mixed":
        torch.manual_seed(2)
        small = ByteLSTM(VOCAB, 3)
    pair = Recording(small), Recording(large)
    controller = RandomSwitchController(0.5, min_tokens=1, generator=torch.Generator().manual_seed(5))
    result = EntropyAdaptiveDecoder(*pair, controller, cache_policy=policy).generate(PROMPT, 60)
    assert result.switches > 20
    text = torch.cat((PROMPT, result.tokens))
    for recording in pair:
        assert recording.seen
        for n, logits in recording.seen:
            with torch.no_grad():
                uncached = recording.inner(text[None, :n])[0][0, -1]
            torch.testing.assert_close(logits, uncached, rtol=0, atol=1e-5)


def test_check_8_the_large_model_has_processed_all_up_to_its_last_token() -> None:
    small, large = networks()
    for seed in range(5):
        controller = RandomSwitchController(0.3, min_tokens=2, generator=torch.Generator().manual_seed(seed))
        result = EntropyAdaptiveDecoder(small, large, controller).generate(PROMPT, 30)
        for name in ("small", "large"):
            last = max((i for i, owner in enumerate(result.owner) if owner == name), default=None)
            assert result.processed_tokens[name] == (0 if last is None else len(PROMPT) + last)


# ---------------------------------------------------------------------------------------------- cache policies


class Scripted:
    """A controller that follows a script of owners."""

    def __init__(self, script: str) -> None:
        self.script = [{"S": "small", "L": "large"}[letter] for letter in script]
        self.reset()

    def reset(self) -> None:
        self.step = 0
        self.switches = 0

    @property
    def model(self) -> str:
        return self.script[self.step]

    def push(self, entropy: float):
        before = self.model
        self.step += 1
        self.switches += before != self.model
        return entropy, self.model, before != self.model


def run(script: str, prompt: Tensor = PROMPT, **options) -> tuple[EADResult, FunctionLM, FunctionLM]:
    small, large = tables()
    decoder = EntropyAdaptiveDecoder(small, large, Scripted(script), **options)
    return decoder.generate(prompt, len(script) - 1), small, large


def test_lazy_catches_up_at_a_change() -> None:
    result, small, large = run("SSLLLSSS")
    text = [*PROMPT.tolist(), *result.tokens.tolist()]
    assert [name[0].upper() for name in result.owner] == list("SSLLLSS")
    assert small.fed == [text[:3], text[3:4], text[4:8], text[8:9]]
    assert large.fed == [text[:5], text[5:6], text[6:7]]
    # Large reads 2 generated tokens at its first use, one of them ordinary input; small then 4, one ordinary.
    assert result.catch_up_tokens == {"small": 3, "large": 1}
    assert result.processed_tokens == {"small": 9, "large": 7}
    assert result.switches == 2


def test_sync_feeds_both_models_every_token() -> None:
    result, small, large = run("SSLLLSSS", cache_policy="sync")
    text = [*PROMPT.tolist(), *result.tokens.tolist()]
    assert small.fed == large.fed == [text[:3], *([token] for token in text[3:9])]
    assert result.catch_up_tokens == {"small": 0, "large": 0}
    assert result.processed_tokens == {"small": 9, "large": 9}


def test_drop_reads_the_whole_text_at_each_change() -> None:
    result, small, large = run("SSLLLSSS", cache_policy="drop")
    text = [*PROMPT.tolist(), *result.tokens.tolist()]
    assert small.fed == [text[:3], text[3:4], text[:8], text[8:9]]
    assert large.fed == [text[:5], text[5:6], text[6:7]]
    assert result.processed_tokens == {"small": 13, "large": 7}
    assert result.catch_up_tokens == {"small": 4, "large": 1}


def test_eager_prefill_gives_both_models_the_prompt() -> None:
    result, small, large = run("SSLLLSSS", eager_prefill=True)
    text = [*PROMPT.tolist(), *result.tokens.tolist()]
    assert small.fed == [text[:3], text[3:4], text[4:8], text[8:9]]
    assert large.fed == [text[:3], text[3:5], text[5:6], text[6:7]]
    assert result.catch_up_tokens == {"small": 3, "large": 1}
    alone, _, idle = run("SSS", eager_prefill=True)
    assert idle.fed == [PROMPT.tolist()]
    assert alone.processed_tokens == {"small": 4, "large": 3}


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_policies_give_the_same_tokens(temperature: float, immediate: bool) -> None:
    results = []
    for policy, eager in itertools.product(("lazy", "sync", "drop"), (False, True)):
        controller = EntropySwitchController(1.3, window=2, min_tokens=2)
        decoder = EntropyAdaptiveDecoder(
            *networks(),
            controller,
            temperature=temperature,
            cache_policy=policy,
            eager_prefill=eager,
            immediate=immediate,
            generator=torch.Generator().manual_seed(7),
        )
        results.append(decoder.generate(PROMPT, 60))
    assert results[0].switches > 2
    for other in results[1:]:
        assert torch.equal(other.tokens, results[0].tokens)
        assert other.owner == results[0].owner
        assert other.entropy == pytest.approx(results[0].entropy, abs=1e-4)


# --------------------------------------------------------------------------------------------------- immediate


def test_immediate_gives_the_present_token_to_the_large_model() -> None:
    result, small, large = run("SSLLSS", immediate=True)
    text = [*PROMPT.tolist(), *result.tokens.tolist()]
    assert [name[0].upper() for name in result.owner] == list("SLLLS"), (
        "back to small only from the next token"
    )
    assert large.fed == [text[:4], text[4:5], text[5:6]]
    assert small.fed == [text[:3], text[3:4], text[4:7]]
    assert result.processed_tokens == {"small": 7, "large": 6}
    assert result.catch_up_tokens == {"small": 2, "large": 0}
    table = {"small": small, "large": large}
    for i, owner in enumerate(result.owner):
        assert text[3 + i] == int(np.argmax(table[owner].function(text[: 3 + i])))
    # At the change, what was pushed is the small model's entropy, not that of the model that drew the token.
    assert result.entropy[1] == pytest.approx(entropy_bits(small.function(text[:4])), abs=1e-5)
    assert abs(result.entropy[1] - entropy_bits(large.function(text[:4]))) > 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"eager_prefill": True}, {"cache_policy": "sync"}, {"cache_policy": "drop"}]
)
def test_immediate_at_the_first_token(options: dict) -> None:
    result, _, large = run("SLL", immediate=True, **options)
    assert result.owner == ["large", "large"]
    assert result.catch_up_tokens == {"small": 0, "large": 0}
    assert result.tokens.tolist() == greedy(tables()[1], PROMPT, 2)
    if options.get("cache_policy") != "drop":
        assert sum(map(len, large.fed)) == result.processed_tokens["large"] == 4


def test_immediate_runs_end_at_most_one_short() -> None:
    controller = EntropySwitchController(2.3, window=1, min_tokens=4)
    decoder = EntropyAdaptiveDecoder(*tables(), controller, temperature=1.0, immediate=True)
    torch.manual_seed(0)
    groups = [
        (name, len(list(group))) for name, group in itertools.groupby(decoder.generate(PROMPT, 300).owner)
    ]
    assert len(groups) > 10
    assert min(length for name, length in groups[:-1] if name == "small") == 3
    assert min(length for name, length in groups[:-1] if name == "large") >= 4


# --------------------------------------------------------------------------------------------- sampling, ends


def test_sampling_has_the_frequencies_of_the_filtered_distribution() -> None:
    logits = np.log([0.4, 0.3, 0.15, 0.1, 0.05])
    small, large = (FunctionLM(lambda text: logits, 5, n) for n in (1, 2))
    for options, expected in (
        ({"temperature": 1.0}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"temperature": 1.0, "top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.71}, [8 / 17, 6 / 17, 3 / 17, 0, 0]),
        ({"temperature": 0.5}, (np.exp(2 * logits) / np.exp(2 * logits).sum()).tolist()),
    ):
        decoder = EntropyAdaptiveDecoder(
            small,
            large,
            EntropySwitchController(99.0),
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        counts = torch.bincount(decoder.generate(torch.tensor([0]), 1500).tokens, minlength=5) / 1500
        for share, p in zip(counts.tolist(), expected, strict=True):
            assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 1500))


def test_impossible_tokens_are_never_written() -> None:
    logits = [0.0, -math.inf, 0.5, -math.inf, 0.1]
    small, large = (FunctionLM(lambda text: logits, 5, n) for n in (1, 2))
    decoder = EntropyAdaptiveDecoder(small, large, EntropySwitchController(1.0), temperature=2.0)
    result = decoder.generate(torch.tensor([0]), 60)
    assert set(result.tokens.tolist()) == {0, 2, 4}
    assert result.entropy[0] == pytest.approx(entropy_bits(np.array(logits)), abs=1e-5)


@pytest.mark.parametrize("bad", [[math.nan, 0.0, 0.0], [-math.inf] * 3])
@pytest.mark.parametrize("script", ["SSL", "LL", "SL"])
def test_logits_without_a_distribution(bad: list[float], script: str) -> None:
    good = FunctionLM(lambda text: [0.0, 1.0, 2.0], 3, 1)
    broken = FunctionLM(lambda text: bad, 3, 2)
    immediate = script == "SL"
    decoder = EntropyAdaptiveDecoder(good, broken, Scripted(script + "L"), immediate=immediate)
    with pytest.raises(FloatingPointError, match="logits"):
        decoder.generate(torch.tensor([0]), 3 if script == "SSL" else 1)


def test_an_end_token_ends_at_once() -> None:
    counting = [FunctionLM(lambda text: np.eye(10)[(text[-1] + 1) % 10] * 9, 10, n) for n in (1, 2)]
    decoder = EntropyAdaptiveDecoder(*counting, EntropySwitchController(0.01, min_tokens=4))
    result = decoder.generate(torch.tensor([0]), 50, eos_id=6)
    assert result.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(result.owner) == len(result.entropy) == len(result.mean_entropy) == 6
    assert decoder.generate(torch.tensor([6]), 3, eos_id=6).tokens.tolist() == [7, 8, 9], (
        "one in the prompt is none"
    )
    for eos in (10, -1):
        with pytest.raises(ValueError, match="eos_id"):
            decoder.generate(torch.tensor([0]), 3, eos_id=eos)


@pytest.mark.parametrize("eager", [False, True])
def test_no_new_tokens(eager: bool) -> None:
    small, large = tables()
    decoder = EntropyAdaptiveDecoder(small, large, EntropySwitchController(1.0), eager_prefill=eager)
    result = decoder.generate(PROMPT, 0)
    assert result.tokens.shape == (0,)
    assert result.tokens.dtype == torch.long
    assert (result.owner, result.entropy, result.mean_entropy) == ([], [], [])
    assert (result.large_fraction, result.switches, result.prompt_length) == (0.0, 0, 3)
    assert result.processed_tokens == {"small": 0, "large": 0}
    assert small.fed == large.fed == []


def test_a_change_decided_after_the_last_token_counts() -> None:
    result = EntropyAdaptiveDecoder(*tables(), EntropySwitchController(-1.0, min_tokens=5)).generate(
        PROMPT, 5
    )
    assert result.owner == ["small"] * 5
    assert result.switches == 1


def test_the_controller_is_reset_for_each_text() -> None:
    decoder = EntropyAdaptiveDecoder(*networks(), EntropySwitchController(1.3, 2, 2))
    first, second = decoder.generate(PROMPT, 40), decoder.generate(PROMPT[None], 40)
    assert torch.equal(first.tokens, second.tokens)
    assert (first.owner, first.switches) == (second.owner, second.switches)


def test_on_token_sees_every_token() -> None:
    seen: list[tuple] = []
    decoder = EntropyAdaptiveDecoder(*tables(), EntropySwitchController(1.2, 2, 2))
    result = decoder.generate(PROMPT, 15, on_token=lambda *given: seen.append(given))
    columns = (range(15), result.tokens.tolist(), result.owner, result.entropy, result.mean_entropy)
    assert seen == list(zip(*columns, strict=True))
    assert result.wall_time > 0


# ------------------------------------------------------------------------------------------- models' own state


def test_training_flags_are_restored_one_by_one_also_after_an_exception() -> None:
    small, large = networks()
    small.train()
    small.blocks[0].eval()
    large.eval()
    before = [module.training for model in (small, large) for module in model.modules()]

    def stop(*_: object) -> None:
        assert not any(module.training for model in (small, large) for module in model.modules())
        assert not torch.is_grad_enabled()
        raise KeyError("stop")

    decoder = EntropyAdaptiveDecoder(small, large, EntropySwitchController(1.0))
    decoder.generate(PROMPT, 5)
    assert [module.training for model in (small, large) for module in model.modules()] == before
    with pytest.raises(KeyError):
        decoder.generate(PROMPT, 5, on_token=stop)
    assert [module.training for model in (small, large) for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_models_run_in_eval_mode_without_gradients() -> None:
    _, small, large = run("SLS")
    assert set(small.modes) == set(large.modes) == {(False, False)}
    assert small.training


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"cache_policy": "eager"}, "cache_policy"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_bad_options(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EntropyAdaptiveDecoder(*tables(), EntropySwitchController(1.0), **options)


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        EntropyAdaptiveDecoder(table_lm(5, 0, 1), table_lm(6, 0, 2), EntropySwitchController(1.0))


@pytest.mark.parametrize(
    "prompt",
    [
        torch.zeros(0, dtype=torch.long),
        torch.zeros(1, 0, dtype=torch.long),
        torch.zeros(2, 3, dtype=torch.long),
        torch.tensor(1),
        torch.tensor([0.5]),
        torch.tensor([True]),
        torch.tensor([VOCAB]),
        torch.tensor([-1]),
    ],
)
def test_bad_prompts(prompt: Tensor) -> None:
    decoder = EntropyAdaptiveDecoder(*tables(), EntropySwitchController(1.0))
    with pytest.raises(ValueError, match="prompt"):
        decoder.generate(prompt, 3)


def test_a_text_fills_the_context_but_does_not_exceed_it() -> None:
    torch.manual_seed(0)
    short, long = CharTransformer(VOCAB, 4, 1, 1, context=10), CharTransformer(VOCAB, 8, 1, 1, context=20)
    for pair in ((short, long), (long, short)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            decoder = EntropyAdaptiveDecoder(*pair, EntropySwitchController(1.0, 1, 1))
        assert len(decoder.generate(PROMPT, 7).tokens) == 7
        with pytest.raises(ValueError, match=r"max_new_tokens.*context"):
            decoder.generate(PROMPT, 8)
    with pytest.raises(ValueError, match="max_new_tokens"):
        decoder.generate(PROMPT, -1)


def test_a_small_model_that_is_not_smaller_is_only_warned_about() -> None:
    small, large = tables()
    with pytest.warns(UserWarning, match="nothing can be saved"):
        EntropyAdaptiveDecoder(large, small, EntropySwitchController(1.0))
