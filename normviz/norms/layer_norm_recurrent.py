"""RNN, LSTM and GRU of "Layer Normalization" (arXiv 1607.06450); see :mod:`normviz.norms.layer_norm` for the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype, values_readable
from normviz.norms.layer_norm import LayerNorm
from normviz.validation import check_integer, check_real

__all__ = [
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LayerNormRNN",
    "LayerNormRNNCell",
]

LSTMState = tuple[Tensor, Tensor]

# ---------------------------------------------------------------------------------------------- recurrent cells


class _Cell(nn.Module):
    """What the three cells share: the two matrices, the norms and the checks.

    A step is split in two so that a sequence can do the part without recurrence for all its steps at once:
    ``cell(x, state) == cell.step(cell.project(x), state)``.
    """

    blocks: int  # gates stacked in each matrix

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        init_gain: float = 1.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size, 1)
        self.hidden_size = check_integer("hidden_size", hidden_size, 1)
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.init_gain = check_real("init_gain", init_gain)
        self.normalize = bool(normalize)
        self.weight_ih = nn.Parameter(torch.empty(self.blocks * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(self.blocks * hidden_size, hidden_size))
        for gate in self.weight_ih.detach().chunk(self.blocks):
            nn.init.xavier_uniform_(gate)
        for gate in self.weight_hh.detach().chunk(self.blocks):
            nn.init.orthogonal_(gate)

    def _norm(self, size: int) -> nn.Module:
        if not self.normalize:
            return nn.Identity()
        norm = LayerNorm(size, self.eps, backend="torch")
        assert norm.weight is not None
        nn.init.constant_(norm.weight, self.init_gain)
        return norm

    def project(self, x: Tensor) -> Tensor:
        """The part of a step that x (..., I) enters by itself: (..., kH)."""
        raise NotImplementedError

    def check_input(self, x: Tensor, ndim: int) -> None:
        """Raise unless x is floating point with ``ndim`` axes, the last one of size ``input_size``."""
        computing_dtype("x", x)
        if x.ndim != ndim or x.shape[-1] != self.input_size:
            raise ValueError(
                f"x must have {ndim} axes, the last of size input_size = {self.input_size}, "
                f"got shape {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        """Sizes and options."""
        return f"{self.input_size}, {self.hidden_size}, eps={self.eps}, normalize={self.normalize}"


def _check_state(name: str, state: object, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(state, Tensor) or tuple(state.shape) != shape:
        given = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"{name} must be a tensor of shape {shape}, got {given}.")
    return state


def _check_pair(state: object, shape: tuple[int, ...]) -> LSTMState:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(f"state must be a pair (h, c), got {type(state).__name__}.")
    return _check_state("state[0] (hidden)", state[0], shape), _check_state(
        "state[1] (cell)", state[1], shape
    )


class _HiddenStateCell(_Cell):
    """A cell whose only state is h (N, H)."""

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            x: (N, input_size).
            state: previous h (N, hidden_size); None means zeros.

        Returns:
            The new h (N, hidden_size).
        """
        self.check_input(x, 2)
        shape = (x.shape[0], self.hidden_size)
        h = x.new_zeros(shape) if state is None else _check_state("state", state, shape)
        return self.step(self.project(x), h)

    def step(self, projected: Tensor, h: Tensor) -> Tensor:
        """New h from ``project(x)`` (N, kH) and the old h."""
        raise NotImplementedError


class LayerNormRNNCell(_HiddenStateCell):
    """``h_t = tanh(LN(W_hh h_{t-1} + W_ih x_t))``: one norm on the sum, statistics of this step only.

    Parameters ``weight_ih`` (H, I), ``weight_hh`` (H, H); submodule ``ln`` (gain and bias of size H).

    Args:
        input_size: I, at least 1.
        hidden_size: H, at least 1.
        eps: of the norm. Default 1e-5 (authors' code).
        init_gain: initial value of the gain. Default 1 (authors' code).
        normalize: False replaces the norm by the identity: ``torch.nn.RNNCell`` without biases.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: bad sizes, ``eps`` < 0, x or state of another shape.
        TypeError: x holds integers.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    blocks = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        init_gain: float = 1.0,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, eps, init_gain=init_gain, normalize=normalize)
        self.ln = self._norm(hidden_size)
        place(self, device, dtype)

    def project(self, x: Tensor) -> Tensor:
        """``W_ih x``: the norm has to wait for the sum."""
        return F.linear(x, self.weight_ih)

    def step(self, projected: Tensor, h: Tensor) -> Tensor:
        """New h from ``W_ih x`` (N, H) and the old h."""
        return torch.tanh(self.ln(F.linear(h, self.weight_hh) + projected))


class LayerNormGRUCell(_HiddenStateCell):
    """Gated recurrent unit with a norm on every projection.

    With rows r, z, n in ``weight_ih`` (3H, I) and ``weight_hh`` (3H, H):

        r, z = sigmoid(LN(W_ih^{rz} x; g1, b1) + LN(W_hh^{rz} h; g3, b3))     statistics over 2H
        n    = tanh(LN(W_ih^n x; g2, b2) + r * LN(W_hh^n h; g4, b4))          statistics over H
        h_t  = z * h_{t-1} + (1 - z) * n

    Submodules ``ln_ih_gates`` (g1, b1), ``ln_hh_gates`` (g3, b3), ``ln_ih_new`` (g2, b2), ``ln_hh_new`` (g4, b4).

    Args:
        input_size: I, at least 1.
        hidden_size: H, at least 1.
        eps: of the norms. Default 1e-5 (authors' code).
        init_gain: initial value of all gains. Default 1 (authors' code).
        normalize: False replaces the norms by identities: ``torch.nn.GRUCell`` without biases.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: bad sizes, ``eps`` < 0, x or state of another shape.
        TypeError: x holds integers.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    blocks = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        init_gain: float = 1.0,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, eps, init_gain=init_gain, normalize=normalize)
        self.ln_ih_gates = self._norm(2 * hidden_size)
        self.ln_hh_gates = self._norm(2 * hidden_size)
        self.ln_ih_new = self._norm(hidden_size)
        self.ln_hh_new = self._norm(hidden_size)
        place(self, device, dtype)

    def project(self, x: Tensor) -> Tensor:
        """Both normalised input projections, side by side (..., 3H)."""
        gates, new = self._blocks(F.linear(x, self.weight_ih))
        return torch.cat((self.ln_ih_gates(gates), self.ln_ih_new(new)), -1)

    def step(self, projected: Tensor, h: Tensor) -> Tensor:
        """New h from the normalised input projections (N, 3H) and the old h."""
        x_gates, x_new = self._blocks(projected)
        h_gates, h_new = self._blocks(F.linear(h, self.weight_hh))
        r, z = torch.sigmoid(x_gates + self.ln_hh_gates(h_gates)).chunk(2, -1)
        n = torch.tanh(x_new + r * self.ln_hh_new(h_new))
        return z * h + (1 - z) * n

    def _blocks(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows[..., : 2 * self.hidden_size], rows[..., 2 * self.hidden_size :]


class LayerNormLSTMCell(_Cell):
    """Long short-term memory with two norms before the gates and one on the way out of the cell.

    With rows i, f, g, o in ``weight_ih`` (4H, I) and ``weight_hh`` (4H, H):

        i, f, g, o = LN(W_hh h; g_h, b_h) + LN(W_ih x; g_x, b_x) + bias       each norm over all 4H
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)                     carried as it is
        h_t = sigmoid(o) * tanh(LN(c_t; g_c, b_c))

    Submodules ``ln_hh`` and ``ln_ih`` (4H each), ``ln_cell`` (H); parameter ``bias`` (4H), initially 0.

    Args:
        input_size: I, at least 1.
        hidden_size: H, at least 1.
        eps: of the norms. Default 1e-5 (authors' code).
        init_gain: initial value of all gains. Default 1 (authors' code).
        normalize: False replaces the norms by identities: ``torch.nn.LSTMCell`` with ``bias_hh`` = 0.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: bad sizes, ``eps`` < 0, x or state of another shape, state not a pair.
        TypeError: x holds integers.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    blocks = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        init_gain: float = 1.0,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, eps, init_gain=init_gain, normalize=normalize)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.ln_ih = self._norm(4 * hidden_size)
        self.ln_hh = self._norm(4 * hidden_size)
        self.ln_cell = self._norm(hidden_size)
        place(self, device, dtype)

    def forward(self, x: Tensor, state: LSTMState | None = None) -> LSTMState:
        """One step.

        Args:
            x: (N, input_size).
            state: previous (h, c), each (N, hidden_size); None means zeros.

        Returns:
            The new (h, c).
        """
        self.check_input(x, 2)
        shape = (x.shape[0], self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape), x.new_zeros(shape))
        return self.step(self.project(x), _check_pair(state, shape))

    def project(self, x: Tensor) -> Tensor:
        """``LN(W_ih x) + bias`` (..., 4H)."""
        projected: Tensor = self.ln_ih(F.linear(x, self.weight_ih))
        return projected + self.bias

    def step(self, projected: Tensor, state: LSTMState) -> LSTMState:
        """New (h, c) from the normalised input projection (N, 4H) and the old (h, c)."""
        h, c = state
        i, f, g, o = (self.ln_hh(F.linear(h, self.weight_hh)) + projected).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.ln_cell(c)), c


# ------------------------------------------------------------------------------------------------------ sequences


class _Sequence(nn.Module):
    """Layers of cells scanned over time; subclasses say which cell and how its state is stacked."""

    cell: type[_Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        eps: float = 1e-5,
        *,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size, 1)
        self.hidden_size = check_integer("hidden_size", hidden_size, 1)
        self.num_layers = check_integer("num_layers", num_layers, 1)
        self.batch_first = bool(batch_first)
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.normalize = bool(normalize)
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(self.cell(size, hidden_size, eps, normalize=normalize) for size in sizes)
        place(self, device, dtype)

    def _time_major(self, x: Tensor) -> Tensor:
        first = self.cells[0]
        assert isinstance(first, _Cell)
        first.check_input(x, 3)
        if self.batch_first:
            x = x.transpose(0, 1)
        if x.shape[0] == 0:
            raise ValueError(f"x must have at least one time step, got shape {tuple(x.shape)}.")
        return x  # (T, N, I)

    def _valid(self, lengths: Tensor | None, x: Tensor) -> tuple[Tensor, ...] | None:
        """For each step which rows are real, (N, 1) each; None when all are."""
        if lengths is None:
            return None
        T, N = x.shape[:2]
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(
                f"lengths must be a tensor of integers, got {getattr(lengths, 'dtype', type(lengths))}."
            )
        if tuple(lengths.shape) != (N,):
            raise ValueError(f"lengths must have shape ({N},), got {tuple(lengths.shape)}.")
        if values_readable(lengths) and bool(((lengths < 1) | (lengths > T)).any()):
            raise ValueError(f"lengths must be in [1, {T}], got {lengths.tolist()}.")
        steps = torch.arange(T, device=x.device)
        return (steps[:, None] < lengths.to(x.device)).unsqueeze(-1).unbind(0)

    def _output(self, steps: list[Tensor]) -> Tensor:
        return torch.stack(steps, 1 if self.batch_first else 0)

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"batch_first={self.batch_first}, eps={self.eps}, normalize={self.normalize}"
        )


class _HiddenStateSequence(_Sequence):
    """Scan of cells whose only state is h."""

    def forward(
        self, x: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over the sequence.

        Args:
            x: (T, N, input_size), or (N, T, input_size) with ``batch_first``.
            state: initial h (num_layers, N, hidden_size); None means zeros.
            lengths: integers (N,) in [1, T]: row n is real in its first ``lengths[n]`` steps. From its last real
                step on every layer holds its h, which the output repeats. None: all steps are real.

        Returns:
            ``(output, state)``: the last layer's h at each step, (T, N, H) or (N, T, H), and every layer's h after
            the last real step, (num_layers, N, H).
        """
        x = self._time_major(x)
        valid = self._valid(lengths, x)
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        hidden = x.new_zeros(shape) if state is None else _check_state("state", state, shape)
        last: list[Tensor] = []
        steps: list[Tensor] = []
        for cell, h in zip(self.cells, hidden.unbind(0), strict=True):
            assert isinstance(cell, _HiddenStateCell)
            projected = cell.project(x if not steps else torch.stack(steps))  # (T, N, kH)
            steps = []
            for t, u in enumerate(projected.unbind(0)):
                new = cell.step(u, h)
                h = new if valid is None else torch.where(valid[t], new, h)
                steps.append(h)
            last.append(h)
        return self._output(steps), torch.stack(last)


class LayerNormRNN(_HiddenStateSequence):
    """Layers of :class:`LayerNormRNNCell` over a sequence; layer k reads layer k-1's output.

    Args:
        input_size: I, at least 1.
        hidden_size: H, at least 1.
        num_layers: number of cells, in ``cells``. Default 1.
        batch_first: inputs and outputs are (N, T, ...) instead of (T, N, ...). Default False (torch).
        eps: of the norms. Default 1e-5 (authors' code).
        normalize: False is the plain network without norms.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: bad sizes, x or state of another shape, no time step, ``lengths`` not in [1, T] or not (N,).
        TypeError: x holds integers, ``lengths`` does not.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    cell = LayerNormRNNCell


class LayerNormGRU(_HiddenStateSequence):
    """Layers of :class:`LayerNormGRUCell` over a sequence; arguments and errors as :class:`LayerNormRNN`.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    cell = LayerNormGRUCell


class LayerNormLSTM(_Sequence):
    """Layers of :class:`LayerNormLSTMCell` over a sequence; arguments and errors as :class:`LayerNormRNN`.

    Example:
        >>> net = LayerNormLSTM(3, 8, num_layers=2, batch_first=True)
        >>> output, (h, c) = net(torch.randn(4, 6, 3), lengths=torch.tensor([6, 2, 5, 1]))
        >>> output.shape, h.shape
        (torch.Size([4, 6, 8]), torch.Size([2, 4, 8]))

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450, the recurrent forms; equations in
        :mod:`normviz.norms.layer_norm`.
    """

    cell = LayerNormLSTMCell

    def forward(
        self, x: Tensor, state: LSTMState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        """Run over the sequence.

        Args:
            x: (T, N, input_size), or (N, T, input_size) with ``batch_first``.
            state: initial (h, c), each (num_layers, N, hidden_size); None means zeros.
            lengths: integers (N,) in [1, T]: row n is real in its first ``lengths[n]`` steps. From its last real
                step on every layer holds its h and c; the output repeats that h. None: all steps are real.

        Returns:
            ``(output, (h, c))``: the last layer's h at each step, (T, N, H) or (N, T, H), and every layer's states
            after the last real step, (num_layers, N, H) each.
        """
        x = self._time_major(x)
        valid = self._valid(lengths, x)
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        hidden, memory = (
            (x.new_zeros(shape), x.new_zeros(shape)) if state is None else _check_pair(state, shape)
        )
        last_h: list[Tensor] = []
        last_c: list[Tensor] = []
        steps: list[Tensor] = []
        for cell, h, c in zip(self.cells, hidden.unbind(0), memory.unbind(0), strict=True):
            assert isinstance(cell, LayerNormLSTMCell)
            projected = cell.project(x if not steps else torch.stack(steps))  # (T, N, 4H)
            steps = []
            for t, u in enumerate(projected.unbind(0)):
                new_h, new_c = cell.step(u, (h, c))
                h = new_h if valid is None else torch.where(valid[t], new_h, h)
                c = new_c if valid is None else torch.where(valid[t], new_c, c)
                steps.append(h)
            last_h.append(h)
            last_c.append(c)
        return self._output(steps), (torch.stack(last_h), torch.stack(last_c))
