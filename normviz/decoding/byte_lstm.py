"""A small LSTM language model over bytes whose cache can be cut back to any earlier token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from normviz.validation import check_integer

__all__ = ["ByteLSTM", "StateCache"]

State = tuple[tuple[Tensor, Tensor], ...]
"""Per layer (h, c), each (B, width)."""


class StateCache:
    """The recurrent state after every token, so that any prefix can be continued.

    Attributes:
        states: one entry per token.

    Reference: none, no paper: the cache of the reference model :class:`ByteLSTM`.
    """

    def __init__(self, states: list[State]) -> None:
        self.states = states

    @property
    def length(self) -> int:
        """Number of tokens held."""
        return len(self.states)

    def truncate(self, n: int) -> None:
        """Keep the first n tokens, in place.

        Raises:
            ValueError: n negative or above the length.
        """
        self.states = self.states[: check_integer("n", n, 0, self.length)]


class _Cell(nn.LSTMCell):
    """An LSTM cell of plain operations: the library's fused one has no ``vmap``."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state  # (B, width)
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ByteLSTM(nn.Module):
    """Embedding, LSTM layers, next-token logits; satisfies :class:`normviz.decoding.CachedLM` with no context limit.

    A reference model for the decoders of arXiv 2502.06833 and for speculative decoding.

    Args:
        vocab: number of tokens V.
        width: of embedding and state.
        depth: number of LSTM layers (1).

    Shape:
        tokens (B, n) long -> logits (B, n, V), and the cache with these tokens added. The cache given stays as it was.

    Raises:
        ValueError: a size below 1; in forward: tokens not of shape (B, n).

    Example:
        >>> import torch
        >>> model = ByteLSTM(vocab=256, width=8)
        >>> logits, cache = model(torch.tensor([[72, 105]]))
        >>> cache.truncate(1)
        >>> logits.shape, cache.length, model.context
        (torch.Size([1, 2, 256]), 1, None)
    """

    context = None
    """No longest text."""

    def __init__(self, vocab: int, width: int, depth: int = 1) -> None:
        super().__init__()
        self.vocab_size = check_integer("vocab", vocab, 1)
        self.width = check_integer("width", width, 1)
        self.depth = check_integer("depth", depth, 1)
        self.embedding = nn.Embedding(vocab, width)
        # Cells, because nn.LSTM does not give the state of every layer after every token.
        self.cells = nn.ModuleList(_Cell(width, width) for _ in range(depth))
        self.head = nn.Linear(width, vocab)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"vocab={self.vocab_size}, width={self.width}, depth={self.depth}"

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, tokens: Tensor, cache: StateCache | None = None) -> tuple[Tensor, StateCache]:
        """Logits after each token, and the cache with these tokens added."""
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape (B, n), got {tuple(tokens.shape)}.")
        x = self.embedding(tokens)  # (B, n, width)
        states = [] if cache is None else list(cache.states)
        outputs = []
        for step in x.unbind(1):
            last: State | None = states[-1] if states else None
            layers = []
            for i, cell in enumerate(self.cells):
                layers.append(cell(step, None if last is None else last[i]))
                step = layers[-1][0]
            states.append(tuple(layers))
            outputs.append(step)
        hidden = torch.stack(outputs, dim=1) if outputs else x
        return self.head(hidden), StateCache(states)
