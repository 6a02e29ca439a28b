"""FedDST: every client moves its own mask, the server averages what clients have and prunes back.

Bibikar et al., "Federated Dynamic Sparse Training: Computing Less, Communicating Less, Yet Learning Better", AAAI 2022,
arXiv 2112.09824. In an adjustment round a client trains, prunes its a_l smallest weights per layer, grows the a_l
inactive ones with the largest gradients from 0, and trains on with its own mask. The server takes the *sparse weighted
average*: per position over the clients that have it. Then it prunes by magnitude to the initial number of each layer.

A client adjusts after ``epochs // 2`` epochs here (before the first if E = 1), so that grown weights are trained before
the server ranks them; the split is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from normviz.federated._networks import derived_seed, seeded, sees_one_value
from normviz.federated.budget import adjust_count
from normviz.federated.fedavg import GRADIENT, Client, client_shares, fedavg
from normviz.federated.one_shot import OneShotMagnitude
from normviz.federated.progressive import BlockSchedule, prune_and_grow
from normviz.federated.pruning import SparseModel, top_positions
from normviz.validation import check_real

__all__ = ["FedDST", "sparse_average"]


def sparse_average(
    weights: Sequence[Mapping[str, Tensor]], masks: Sequence[Mapping[str, Tensor]], sizes: Sequence[float]
) -> dict[str, Tensor]:
    """Mean of every weight over the clients whose mask has it, 0 where none has (arXiv 2112.09824, aggregation).

    Args:
        weights: per client: name -> weight.
        masks: per client: name -> mask of the weight's shape, True (or not 0) = active.
        sizes: samples per client; the mean is weighted by them.

    Raises:
        ValueError: no clients, lists of different lengths, sizes that are negative or all 0.

    Example:
        >>> w = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([5.0, 0.0])}]
        >>> m = [{"a": torch.tensor([True, True])}, {"a": torch.tensor([True, False])}]
        >>> sparse_average(w, m, [3, 1])
        {'a': tensor([2., 2.])}
    """
    if not weights or not len(weights) == len(masks) == len(sizes):
        raise ValueError(
            f"sizes, masks and weights must have one entry per client, at least one, got {len(sizes)}, "
            f"{len(masks)} and {len(weights)}."
        )
    shares = client_shares(sizes)
    result = {}
    for name, first in weights[0].items():
        total, share = torch.zeros_like(first), torch.zeros_like(first)
        for w, m, p in zip(weights, masks, shares, strict=True):
            active = m[name].bool()
            total += torch.where(active, p * w[name], 0)
            share += p * active
        result[name] = torch.where(share > 0, total / share.clamp_min(torch.finfo(share.dtype).tiny), 0)
    return result


class FedDST(OneShotMagnitude):
    """FedDST (Bibikar et al., arXiv 2112.09824): clients readjust their own masks; the server keeps the density.

    Args:
        model_fn: builds the server's dense network; called once.
        clients: pairs (x, y).
        density: kept parameters over all parameters, in (0, 1].
        lr: as in :class:`normviz.federated.FedAvg`, like all arguments up to ``seed``.
        epochs: local epochs per round.
        batch_size: of training and of the gradient.
        clients_per_round: clients sampled per round. Default: all.
        momentum: of the clients' SGD.
        seed: decides sampling and order of samples.
        rule: layer densities at the start, which stay.
        interval: rounds between adjustments.
        stop: last round that may adjust.
        adjust_rate: alpha of the cosine, > 0.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        model_fn: Callable[[], nn.Module],
        clients: Sequence[Client],
        density: float,
        lr: float = 0.1,
        epochs: int = 5,
        batch_size: int = 64,
        clients_per_round: int | None = None,
        momentum: float = 0.0,
        seed: int = 0,
        *,
        rule: str = "uniform",
        interval: int = 10,
        stop: int = 100,
        adjust_rate: float = 0.2,
    ) -> None:
        super().__init__(
            model_fn, clients, density, lr, epochs, batch_size, clients_per_round, momentum, seed, rule=rule
        )
        self.adjust_rate = check_real("adjust_rate", adjust_rate, 0, low_open=True, high_open=True)
        self.schedule = BlockSchedule([list(self.model.masks)], interval=interval, stop=stop)
        self.active = {name: int(mask.sum()) for name, mask in self.model.masks.items()}

    def _client(self, worker: nn.Module, client: int, round: int) -> None:
        if not self.schedule.names(round) or not isinstance(worker, SparseModel):
            super()._client(worker, client, round)
            return
        before = self.epochs // 2
        if before:
            self._train(worker, client, round, before)
        self._readjust(worker, client, round)
        self._train(worker, client, round, self.epochs - before, part=1)

    @torch.no_grad()
    def _readjust(self, worker: SparseModel, client: int, round: int) -> None:
        """The client's own step of pruning and growing, in every layer."""
        x, y = self.clients[client]
        seed = derived_seed(self.seed, round, client, GRADIENT)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
        index = order[: self.batch_size]
        if sees_one_value(worker, x[index]):
            return
        with seeded(seed, x.device):
            grads = worker.dense_gradients(x[index], y[index])
        for name, mask in worker.masks.items():
            weight = worker.model.get_parameter(name)
            count = adjust_count(round, self.schedule.stop, self.active[name], self.adjust_rate)
            values, new = prune_and_grow(weight, mask, grads[name], count)
            weight.copy_(values)
            worker.set_masks({name: new})

    def _server(self, states: list[dict[str, Tensor]], chosen: list[int], round: int) -> None:
        sizes = self._sizes(chosen)
        if not self.schedule.names(round):
            super()._server(states, chosen, round)
            return
        average = fedavg(states, sizes)
        keys = self._keys()
        weights = [{name: state[w] for name, (w, _) in keys.items()} for state in states]
        masks = [{name: state[m] for name, (_, m) in keys.items()} for state in states]
        for name, mean in sparse_average(weights, masks, sizes).items():
            union = torch.stack([mask[name] for mask in masks]).any(0)
            ranked = torch.where(union, mean.abs(), -1.0).flatten()
            kept = torch.zeros_like(ranked, dtype=torch.bool)
            kept[top_positions(ranked, self.active[name])] = True
            average[keys[name][0]] = torch.where(kept.view(mean.shape), mean, 0)
            average[keys[name][1]] = kept.view(mean.shape)
        self.model.load_state_dict(average)

    def _keys(self) -> dict[str, tuple[str, str]]:
        """Names of weight and mask in the state, by the weight's name."""
        return {name: (f"model.{name}", holder) for name, holder in self.model.mask_names().items()}
