"""When to change between a small and a large model: rolling entropy against a threshold, with a minimum run.

Simonds, "Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference", arXiv 2502.06833.

With H_t the entropy in bits of the active model's next-token distribution:

========================================================================  =========================
Hbar_t = (1/w) sum_{i = t-w+1 .. t} H_i                                   ``SwitchDecision.mean_entropy``
want = large if Hbar_t > tau else small                                   ``threshold``
change for token t+1 if want differs and the run has >= T_min tokens      ``min_tokens``
========================================================================  =========================

The paper fixes w = 5, bits, the strict comparison and that there is a minimum run. Its length, the start model and what
happens to the window are not given. Here: T_min = 10, start with the small model, average what is there while fewer
than w values exist, and keep the window over a change.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch

from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "EntropySwitchController",
    "RandomSwitchController",
    "SwitchController",
    "SwitchDecision",
]

ModelName = Literal["small", "large"]
MODELS: tuple[ModelName, ModelName] = ("small", "large")


class SwitchDecision(NamedTuple):
    """What a controller decided after one token.

    Attributes:
        mean_entropy: rolling mean, the pushed value included.
        model: "small" or "large", which writes the next token.
        switched: whether that is another model than the one that wrote this token.

    Reference: Simonds 2025, arXiv 2502.06833, the switch rule; equations in :mod:`normviz.decoding.switching`.
    """

    mean_entropy: float
    model: ModelName
    switched: bool


@runtime_checkable
class SwitchController(Protocol):
    """What a decoder asks of a controller; :class:`EntropySwitchController` is the paper's.

    Reference: Simonds 2025, arXiv 2502.06833, the switch rule.
    """

    @property
    def model(self) -> ModelName:
        """The model that writes the next token."""

    @property
    def switches(self) -> int:
        """How often the model has changed since the last reset."""

    def push(self, entropy: float) -> SwitchDecision:
        """Take note of one token's entropy and decide who writes the next token."""

    def reset(self) -> None:
        """Begin anew."""


class _Window:
    """The last ``size`` values and their mean."""

    def __init__(self, size: int) -> None:
        self.values: deque[float] = deque(maxlen=size)

    def push(self, entropy: float) -> float:
        entropy = check_real("entropy", entropy, low_open=True, high_open=True)
        self.values.append(entropy)
        return math.fsum(self.values) / len(self.values)


class EntropySwitchController:
    """The switch rule of Entropy Adaptive Decoding (arXiv 2502.06833).

    After each token: push its entropy H_t; the mean over the last ``window`` values decides who should write,
    ``large`` if it is above ``threshold`` (strictly), else ``small``; the model changes if the current run has at least
    ``min_tokens`` tokens, the present one included. The decision holds from the next token on.

    Args:
        threshold: tau in bits. Below 0 the large model is always wanted; at log2 V or more, never.
        window: w, number of tokens averaged; 5 in the paper. While fewer exist, those that exist are averaged.
        min_tokens: T_min, shortest run between two changes; 10 by default (the paper has such a rule, its number is
            not known).
        start: "small" (default) or "large", which writes the first token.
        reset_window_on_switch: empty the window after a change. Default False: entropies stay in it, whichever model
            they came from.
        hysteresis: h >= 0 bits. Up above tau, down at tau - h or below, in between the model stays. 0 (default) is the
            paper's rule. A larger h answers that the large model's own entropy is lower, so that it hands back early.

    Attributes:
        model: "small" or "large", which writes the next token.
        switches: number of changes since the last reset.

    Raises:
        ValueError: threshold or hysteresis NaN, hysteresis < 0, window or min_tokens < 1, unknown start; in push: an
            entropy that is not finite.

    Example:
        >>> controller = EntropySwitchController(threshold=1.0, window=3, min_tokens=2)
        >>> owners = []
        >>> for entropy in [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]:
        ...     owners.append(controller.model[0])
        ...     decision = controller.push(entropy)
        >>> "".join(owners), controller.switches
        ('sslllsss', 2)
    """

    def __init__(
        self,
        threshold: float,
        window: int = 5,
        min_tokens: int = 10,
        start: ModelName = "small",
        reset_window_on_switch: bool = False,
        hysteresis: float = 0.0,
    ) -> None:
        self.threshold = check_real("threshold", threshold)
        self.window = check_integer("window", window, 1)
        self.min_tokens = check_integer("min_tokens", min_tokens, 1)
        self.start = cast(ModelName, check_choice("start", start, MODELS))
        self.reset_window_on_switch = bool(reset_window_on_switch)
        self.hysteresis = check_real("hysteresis", hysteresis, 0)
        self.reset()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(threshold={self.threshold:g}, window={self.window}, "
            f"min_tokens={self.min_tokens}, start={self.start!r}, "
            f"reset_window_on_switch={self.reset_window_on_switch}, hysteresis={self.hysteresis:g})"
        )

    @property
    def model(self) -> ModelName:
        """The model that writes the next token."""
        return self._model

    @property
    def switches(self) -> int:
        """How often the model has changed since the last reset."""
        return self._switches

    def reset(self) -> None:
        """Forget all entropies and begin with the start model."""
        self._window = _Window(self.window)
        self._counter = 0
        self._model: ModelName = self.start
        self._switches = 0

    def push(self, entropy: float) -> SwitchDecision:
        """Take note of the entropy (bits) of the token just written, and decide who writes the next one.

        Args:
            entropy: H_t of the model that wrote the token.

        Returns:
            the rolling mean with this value included, the model of the next token, and whether it changed.

        Raises:
            ValueError: the entropy is not finite.
        """
        mean = self._window.push(entropy)
        self._counter += 1
        switched = self._counter >= self.min_tokens and self._wanted(mean) != self._model
        if switched:
            self._model = "small" if self._model == "large" else "large"
            self._counter = 0
            self._switches += 1
            if self.reset_window_on_switch:
                self._window = _Window(self.window)
        return SwitchDecision(mean, self._model, switched)

    def _wanted(self, mean: float) -> ModelName:
        if mean > self.threshold:
            return "large"
        return "small" if mean <= self.threshold - self.hysteresis else self._model

    def state_dict(self) -> dict[str, Any]:
        """Window, length of the current run, model and number of changes, as plain data."""
        return {
            "window": list(self._window.values),
            "counter": self._counter,
            "model": self._model,
            "switches": self._switches,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a controller with the same arguments.

        Raises:
            ValueError: an unknown model, a negative count, an entropy that is not finite.
        """
        model = cast(ModelName, check_choice("model", state["model"], MODELS))
        counter = check_integer("counter", state["counter"], 0)
        switches = check_integer("switches", state["switches"], 0)
        window = _Window(self.window)
        for entropy in state["window"]:
            window.push(entropy)
        self._window, self._counter, self._model, self._switches = window, counter, model, switches


class RandomSwitchController:
    """Changes model at random, whatever the entropy: what a switch rule has to beat at an equal large share.

    Runs have at least T = ``min_tokens`` tokens; after that each further token ends the run with a fixed probability,
    such that runs of the large model last T / (1 - f) tokens on average and those of the small one T / f. The large
    model so writes the share f in the long run. With T = 1 every token's model is drawn independently.

    A comparator for arXiv 2502.06833; it is not part of the paper's method.

    Args:
        large_fraction: f in [0, 1]; 0 and 1 never change.
        window: of the rolling mean that is reported (5).
        min_tokens: T, shortest run (10).
        generator: source of randomness on the CPU (torch's global one by default).

    Attributes:
        model: which writes the next token; the first is large with probability f.
        switches: number of changes since the last reset.

    Raises:
        ValueError: large_fraction outside [0, 1], window or min_tokens < 1; in push: an entropy that is not finite.
    """

    def __init__(
        self,
        large_fraction: float,
        window: int = 5,
        min_tokens: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        self.large_fraction = check_real("large_fraction", large_fraction, 0, 1)
        self.window = check_integer("window", window, 1)
        self.min_tokens = check_integer("min_tokens", min_tokens, 1)
        self.generator = generator
        self.reset()

    @property
    def model(self) -> ModelName:
        """The model that writes the next token."""
        return self._model

    @property
    def switches(self) -> int:
        """How often the model has changed since the last reset."""
        return self._switches

    def _happens(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64)) < probability

    def reset(self) -> None:
        """Begin anew, with a newly drawn first model; the random stream goes on."""
        self._window = _Window(self.window)
        self._counter = 0
        self._switches = 0
        self._model: ModelName = "large" if self._happens(self.large_fraction) else "small"

    def push(self, entropy: float) -> SwitchDecision:
        """Report the rolling mean of the entropies and draw who writes the next token.

        Raises:
            ValueError: the entropy is not finite.
        """
        mean = self._window.push(entropy)
        self._counter += 1
        share = (
            self.large_fraction if self._model == "small" else 1 - self.large_fraction
        )  # of the other model
        # A run of T + k tokens, k geometric with mean T / share - T: it ends at each token with this probability.
        ends = share and 1 / (self.min_tokens / share - self.min_tokens + 1)
        switched = self._counter >= self.min_tokens and self._happens(ends)
        if switched:
            self._model = "small" if self._model == "large" else "large"
            self._counter = 0
            self._switches += 1
        return SwitchDecision(mean, self._model, switched)
