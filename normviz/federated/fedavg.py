"""Federated averaging: clients train from the global weights, the server averages what they send back.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv
1602.05629, as the frame of "Distributed Pruning Towards Tiny Neural Networks in Federated Learning" (arXiv 2212.01977).
In round r = 1, 2, ... the sampled clients train E epochs of SGD each (cross-entropy, shuffled batches, a fresh
optimizer per client and round), and the server averages *all* of the state, running statistics included, with weights
N_k / sum of the sampled N_k.

Every random choice is a function of (seed, round, client) alone: the order of clients, of other runs or of calls of
``run`` changes nothing. A :class:`normviz.federated.SparseModel` as the global model stays sparse, since all share its
masks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.federated._networks import chunks, derived_seed, seeded, sees_one_value
from normviz.validation import check_integer, check_real

__all__ = ["Client", "FedAvg", "check_clients", "client_shares", "fedavg", "train_client"]

Client = tuple[Tensor, Tensor]
"""Data of one client: inputs (N_k, ...) and classes (N_k,)."""

State = Mapping[str, Tensor]

SAMPLING, TRAINING, GRADIENT = 1, 2, 3
"""What a random stream is for; part of its key."""


def client_shares(sizes: Sequence[float]) -> list[float]:
    """p_k = N_k / sum of all N.

    Raises:
        ValueError: a size is negative or not finite, or all are 0.
    """
    checked = [check_real("sizes", size, 0, high_open=True) for size in sizes]
    total = math.fsum(checked)
    if total <= 0:
        raise ValueError(f"sizes must have a positive sum, got {list(sizes)}.")
    return [size / total for size in checked]


@torch.no_grad()
def fedavg(states: Sequence[State], sizes: Sequence[float]) -> dict[str, Tensor]:
    """The average of states, ``sum_k p_k state_k`` with ``p_k = sizes_k / sum(sizes)`` (arXiv 1602.05629, algorithm 1).

    Floating entries are averaged and keep their dtype (half types are summed in float32), of integer ones (counters of
    batches) the maximum is kept, of bool ones (masks) the first's. Equal states give exactly that state.

    Args:
        states: one state dict per client, with the same names.
        sizes: number of samples of each client.

    Returns:
        New tensors by name.

    Raises:
        ValueError: no states, names or lengths that differ, sizes that are negative or all 0.

    Example:
        >>> fedavg([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], [3, 1])
        {'w': tensor([1.])}
    """
    if not states:
        raise ValueError("states must hold at least one state, got none.")
    if len(sizes) != len(states):
        raise ValueError(f"sizes must have one entry per state ({len(states)}), got {len(sizes)}.")
    first = states[0]
    if any(state.keys() != first.keys() for state in states):
        raise ValueError("states must have the same names, got states that differ.")
    shares = client_shares(sizes)
    return {name: _average([state[name] for state in states], shares) for name in first}


def _average(entries: list[Tensor], shares: list[float]) -> Tensor:
    first = entries[0]
    if first.dtype == torch.bool:
        return first.clone()
    if not (first.is_floating_point() or first.is_complex()):
        return torch.stack(entries).amax(0)
    wide = torch.promote_types(first.dtype, torch.float32)
    start = first.to(wide)
    mean = start.clone()  # the first plus weighted differences: equal entries stay exactly as they are
    for entry, share in zip(entries[1:], shares[1:], strict=True):
        mean += share * (entry.to(wide) - start)
    return mean.to(first.dtype)


def check_clients(clients: Sequence[Client]) -> list[Client]:
    """The clients as a list of pairs.

    Raises:
        ValueError: there is none, one has no samples, or its x and y are of different lengths.
    """
    pairs = [(x, y) for x, y in clients]
    if not pairs:
        raise ValueError("clients must hold at least one client, got none.")
    for k, (x, y) in enumerate(pairs):
        if len(x) != len(y) or not len(x):
            raise ValueError(
                f"clients must have as many inputs as classes, and some: client {k} has {len(x)} and {len(y)}."
            )
    return pairs


def train_client(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    momentum: float = 0.0,
    seed: int = 0,
) -> None:
    """A client's work in one round: ``epochs`` epochs of SGD on the cross-entropy, in place, in train mode.

    Batches are shuffled anew in every epoch, the last one is smaller. A batch that leaves a batch norm one value per
    channel is skipped, since its variance does not exist.

    Args:
        model: starts from the weights that it has.
        x: (N, ...), the client's inputs.
        y: (N,), classes.
        lr: learning rate.
        epochs: passes over the data.
        batch_size: samples per batch.
        momentum: of SGD; its buffers start at 0.
        seed: decides the order of the samples and what dropout draws.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with seeded(seed, x.device):
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for batch in chunks(order, batch_size):
                inputs = x[batch]
                if sees_one_value(model, inputs):
                    continue
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


class FedAvg:
    """Federated averaging (McMahan et al., arXiv 1602.05629, algorithm 1).

    Args:
        model_fn: builds the network from which the first round starts; called once.
        clients: pairs (x, y) of inputs (N_k, ...) and classes (N_k,).
        lr: learning rate of the clients' SGD; 0.1 as in arXiv 2212.01977.
        epochs: E, local epochs per round; 5 as there.
        batch_size: 64 as there.
        clients_per_round: clients sampled without replacement in every round. Default: all of them.
        momentum: of the clients' SGD, fresh in every round; 0 as there.
        seed: decides sampling and order of the samples.

    Attributes:
        model: the global network, at the state after the last round.
        round: rounds that are done.

    Raises:
        ValueError: an argument out of range, no clients, or one without data.

    Example:
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> trainer = FedAvg(lambda: nn.Linear(3, 2), [(x[:10], y[:10]), (x[10:], y[10:])], epochs=1)
        >>> trainer.run(2).round
        2
    """

    def __init__(
        self,
        model_fn: Callable[[], nn.Module],
        clients: Sequence[Client],
        lr: float = 0.1,
        epochs: int = 5,
        batch_size: int = 64,
        clients_per_round: int | None = None,
        momentum: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.clients = check_clients(clients)
        self.lr = check_real("lr", lr, 0, high_open=True)
        self.epochs = check_integer("epochs", epochs, 1)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        everyone = len(self.clients)
        self.clients_per_round = (
            everyone
            if clients_per_round is None
            else check_integer("clients_per_round", clients_per_round, 1, everyone)
        )
        self.momentum = check_real("momentum", momentum, 0, 1, high_open=True)
        self.seed = check_integer("seed", seed, 0)
        self.round = 0
        self.model = self._start(model_fn)

    def _start(self, model_fn: Callable[[], nn.Module]) -> nn.Module:
        """The global network before the first round."""
        return model_fn()

    def sample_clients(self, round: int) -> list[int]:
        """Indices of the clients of a round, in rising order; a function of the seed and the round."""
        everyone = len(self.clients)
        if self.clients_per_round == everyone:
            return list(range(everyone))
        rng = np.random.default_rng([self.seed, check_integer("round", round, 0), SAMPLING])
        return sorted(int(k) for k in rng.choice(everyone, self.clients_per_round, replace=False))

    def run(self, rounds: int, callback: Callable[[Self], object] | None = None) -> Self:
        """Go on for so many rounds; ``run(2)`` twice equals ``run(4)``.

        Args:
            rounds: number of rounds, 0 or more.
            callback: called with this object after every round.

        Raises:
            ValueError: rounds is no such number.
        """
        for _ in range(check_integer("rounds", rounds, 0)):
            self._round(self.round + 1)
            self.round += 1
            if callback is not None:
                callback(self)
        return self

    def _round(self, round: int) -> None:
        chosen = self.sample_clients(round)
        worker = copy.deepcopy(self.model)
        start = {name: entry.clone() for name, entry in self.model.state_dict().items()}
        states = []
        for k in chosen:
            worker.load_state_dict(start)
            self._client(worker, k, round)
            states.append({name: entry.clone() for name, entry in worker.state_dict().items()})
        self._server(states, chosen, round)

    def _client(self, worker: nn.Module, client: int, round: int) -> None:
        """What client ``client`` does in a round, to ``worker``, which has the global state."""
        self._train(worker, client, round, self.epochs)

    def _train(self, worker: nn.Module, client: int, round: int, epochs: int, part: int = 0) -> None:
        x, y = self.clients[client]
        train_client(
            worker,
            x,
            y,
            lr=self.lr,
            epochs=epochs,
            batch_size=self.batch_size,
            momentum=self.momentum,
            seed=derived_seed(self.seed, round, client, TRAINING, part),
        )

    def _server(self, states: list[dict[str, Tensor]], chosen: list[int], round: int) -> None:
        """What the server does with the clients' states."""
        del round
        self.model.load_state_dict(fedavg(states, self._sizes(chosen)))

    def _sizes(self, chosen: list[int]) -> list[int]:
        return [len(self.clients[k][0]) for k in chosen]

    def state_dict(self) -> dict[str, Any]:
        """Global state and round; plain data and tensors."""
        return {
            "model": {name: entry.clone() for name, entry in self.model.state_dict().items()},
            "round": self.round,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, of this or an equally built object."""
        self.model.load_state_dict(state["model"])
        self.round = int(state["round"])
