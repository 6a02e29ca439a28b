"""Recurrent networks around any recurrent layer: a language model over tokens, a classifier over sequences.

The layer comes from a factory ``rnn(input_size, hidden_size)``. It is called like ``torch.nn.LSTM``:
``layer(x, state)`` returns ``(output, state)`` with x (T, N, I), or (N, T, I) when its attribute ``batch_first``
is true.

``torch.nn.RNN``, ``LSTM`` and ``GRU`` themselves can neither be traced by ``torch.compile(fullgraph=True)`` nor
run under ``torch.func.vmap`` (PyTorch has no rule for their fused kernels). Layers written as a loop over cells,
such as ``normviz.norms.LayerNormLSTM`` (also with ``normalize=False``, the plain LSTM), do both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import build, embedding, linear

__all__ = ["NormedRecurrent", "RNNClassifier", "RNNLanguageModel"]

RecurrentFactory = Callable[[int, int], nn.Module]


class NormedRecurrent(nn.Module):
    """A recurrent layer with a norm on its outputs; the state that it hands on is not normalized.

    Args:
        layer: called like ``torch.nn.LSTM``, with an attribute ``batch_first``.
        norm: of the outputs (…, H); None (default) leaves them as they are.

    Attributes:
        batch_first: the layer's own.
        norm_out: the norm, or the identity.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> NormedRecurrent(nn.GRU(3, 5), nn.LayerNorm(5))(torch.zeros(7, 2, 3))[0].shape
        torch.Size([7, 2, 5])
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.batch_first = bool(layer.batch_first)
        self.norm_out = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The normalized outputs and the layer's state."""
        output, state = self.layer(x, state)
        return self.norm_out(output), state


class _Recurrent(nn.Module):
    """A stack of recurrent layers with dropout in between, always (N, T, I) -> (N, T, H) outside."""

    layers: nn.ModuleList
    dropout: nn.Module

    def _add_layers(
        self, rnn: RecurrentFactory, in_features: int, hidden: int, num_layers: int, dropout: float
    ) -> None:
        _checks.factory("rnn", rnn, optional=False)
        _checks.size("num_layers", num_layers)
        _checks.probability("dropout", dropout)
        self.layers = nn.ModuleList(
            build("rnn", rnn, in_features if k == 0 else hidden, hidden) for k in range(num_layers)
        )
        for layer in self.layers:
            if not isinstance(getattr(layer, "batch_first", None), bool):
                raise ValueError(
                    f"rnn must return a layer with a boolean attribute batch_first, got {layer!r}."
                )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def _run(self, x: Tensor, states: Sequence[Any] | None) -> tuple[Tensor, list[Any]]:
        if states is not None and len(states) != len(self.layers):
            raise ValueError(f"states must have one entry per layer ({len(self.layers)}), got {len(states)}.")
        new_states = []
        for k, layer in enumerate(self.layers):
            y = x if layer.batch_first else x.transpose(0, 1)
            y, state = layer(y, None if states is None else states[k])
            x = y if layer.batch_first else y.transpose(0, 1)  # (N, T, H)
            new_states.append(state)
            if k < len(self.layers) - 1:
                x = self.dropout(x)
        return x, new_states


class RNNLanguageModel(_Recurrent):
    """Embedding -> recurrent layers -> linear ``head``: the next token's logits at every position.

    Tokens (N, T) -> logits (N, T, vocab_size). The recurrent layers are ``layers.<k>``; they keep the initialisation of
    their factory.

    Args:
        vocab_size: number of different tokens.
        rnn: (input_size, hidden_size) -> recurrent layer (see the module's text).
        embedding_dim: width of the token embedding (64 by default), entries N(0, 1/embedding_dim).
        hidden: width of the recurrent state (64 by default).
        num_layers: how many layers the factory is called for (1 by default).
        dropout: drop rate between layers, in [0, 1); 0 by default.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1), ``rnn`` not callable or its layer without ``batch_first``;
            in :meth:`run` a number of states other than ``num_layers``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> RNNLanguageModel(50, rnn=nn.LSTM)(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2, 7, 50])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        rnn: RecurrentFactory,
        embedding_dim: int = 64,
        hidden: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        _checks.size("vocab_size", vocab_size)
        _checks.size("embedding_dim", embedding_dim)
        _checks.size("hidden", hidden)
        super().__init__()
        # Drawn before the recurrent layers, so that they are the same for every kind of layer.
        self.embedding = embedding(vocab_size, embedding_dim, std=embedding_dim**-0.5)
        self.head = linear(hidden, vocab_size, init="lecun")
        self._add_layers(rnn, embedding_dim, hidden, num_layers, dropout)

    def run(self, tokens: Tensor, states: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Logits (N, T, vocab_size) and the state of every layer after the last token, to go on from.

        One token at a time, this shows the state at every time step (for an LSTM the pair h_t, c_t).
        """
        y, states = self._run(self.embedding(tokens), states)
        return self.head(y), states

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, vocab_size), starting from zero states."""
        return self.run(tokens)[0]


class RNNClassifier(_Recurrent):
    """Recurrent layers over a sequence of vectors, linear ``head`` on the last output.

    (N, T, in_features) -> (N, num_classes), e.g. the digits as 64 pixels or as 8 rows of 8 pixels.

    Args:
        in_features: width of one element of the sequence (1 for single pixels).
        num_classes: number of logits.
        rnn: (input_size, hidden_size) -> recurrent layer (see the module's text).
        hidden: width of the recurrent state (64 by default).
        num_layers: how many layers the factory is called for (1 by default).
        dropout: drop rate between layers, in [0, 1); 0 by default.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1), ``rnn`` not callable or its layer without ``batch_first``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> RNNClassifier(1, 10, rnn=nn.GRU)(torch.zeros(2, 64, 1)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        rnn: RecurrentFactory,
        hidden: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        _checks.size("in_features", in_features)
        _checks.size("num_classes", num_classes)
        _checks.size("hidden", hidden)
        super().__init__()
        self.head = linear(hidden, num_classes, init="lecun")
        self._add_layers(rnn, in_features, hidden, num_layers, dropout)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head: the last layer's output at the last step, (N, hidden)."""
        return self._run(x, None)[0][:, -1]

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (N, T, in_features) to logits (N, num_classes)."""
        out: Tensor = self.head(self.features(x))
        return out
