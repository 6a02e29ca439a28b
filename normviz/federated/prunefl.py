"""PruneFL: clients upload dense squared gradients, the server chooses the weights that are worth their time.

Jiang et al., "Model Pruning Enables Efficient Federated Learning on Edge Devices", arXiv 1909.12326: adaptive pruning,
section IV. In an adjustment round the mean squared gradient g_j^2 of *every* weight is known, t_j is the time that
weight j costs, and the set M that maximises sum of g^2 over M / (c + sum of t over M) stays: sorted by g^2 / t, a
weight enters as long as it does not lower the ratio. As a rival of FedTiny (arXiv 2212.01977) it shows what dense
gradients cost a device: memory for all of them.

Here t_j is the multiply-accumulates of a weight per sample, 1 for a linear layer and the number of output positions
for a convolution; the paper measures it on devices. By default c is so large that the density's budget alone decides
how many weights stay, for comparisons at equal density. With the paper's c the network may shrink far below the
budget.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy.typing as npt
import torch
from torch import Tensor, nn

from normviz.federated._networks import chunks, derived_seed, seeded, sees_one_value
from normviz.federated.accounting import model_macs
from normviz.federated.budget import prunable_budget
from normviz.federated.fedavg import GRADIENT, Client, client_shares
from normviz.federated.one_shot import OneShotMagnitude
from normviz.federated.progressive import BlockSchedule
from normviz.federated.pruning import top_positions
from normviz.validation import check_real

__all__ = ["PruneFL", "prunefl_select"]

BUDGET_ALONE = 1e30
"""A constant beside which no time counts: every weight with a gradient enters."""


def prunefl_select(g2: Tensor | npt.ArrayLike, t: Tensor | npt.ArrayLike, constant: float = 0.0) -> Tensor:
    """Weights whose set has the largest gain per time (arXiv 1909.12326, algorithm 2).

    By falling g2 / t (of equal ones the lower index first); the first one always enters, the next one while its g2 / t
    is at least the running sum(g2) / (constant + sum t).

    Args:
        g2: (n,), squared gradients, >= 0.
        t: (n,), times > 0.
        constant: time that does not depend on the weights, >= 0.

    Returns:
        Indices, in the order in which they entered.

    Raises:
        ValueError: vectors that differ in size or are empty, a time that is not positive, a negative constant.

    Example:
        >>> prunefl_select([1.0, 9.0, 4.0], [1.0, 1.0, 1.0], constant=2.0).tolist()
        [1, 2]
    """
    gains = torch.as_tensor(g2, dtype=torch.float64).flatten()
    times = torch.as_tensor(t, dtype=torch.float64).flatten()
    fixed = check_real("constant", constant, 0, high_open=True)
    if len(gains) != len(times) or not len(gains):
        raise ValueError(
            f"t must have as many entries as g2, at least one, got {len(times)} and {len(gains)}."
        )
    if not bool((times > 0).all()):
        raise ValueError("t must hold positive times only, got one that is not.")
    ratios = gains / times
    order = top_positions(ratios, len(ratios))
    gain, time = gains[order].cumsum(0), times[order].cumsum(0)
    stays = ratios[order][1:] >= gain[:-1] / (fixed + time[:-1])
    stop = 1 + int(stays.long().cumprod(0).sum())
    return order[:stop]


class PruneFL(OneShotMagnitude):
    """PruneFL (Jiang et al., arXiv 1909.12326, section IV) at a given density: adaptive pruning by squared gradients.

    The start is the magnitude mask of ``rule``. In adjustment rounds a client's squared gradient is the mean over its
    mini-batches, with its own trained weights; the server averages them, takes :func:`prunefl_select` over all layers
    and never more than the budget of ``density``. Every layer keeps its best weight. Weights that enter start at 0.

    Args:
        model_fn: builds the server's dense network; called once.
        clients: pairs (x, y).
        density: kept parameters over all parameters, in (0, 1].
        lr: as in :class:`normviz.federated.FedAvg`, like all arguments up to ``seed``.
        epochs: local epochs per round.
        batch_size: of training and gradients.
        clients_per_round: clients sampled per round. Default: all.
        momentum: of the clients' SGD.
        seed: decides sampling and order of samples.
        rule: layer densities at the start.
        interval: rounds between adjustments.
        stop: last round that may adjust.
        constant: c of the rule, in multiply-accumulates. Default: so large that the budget is used in full.

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
        constant: float | None = None,
    ) -> None:
        super().__init__(
            model_fn, clients, density, lr, epochs, batch_size, clients_per_round, momentum, seed, rule=rule
        )
        names = list(self.model.masks)
        self.schedule = BlockSchedule([names], interval=interval, stop=stop)
        network = self.model.model
        macs = model_macs(network, tuple(self.clients[0][0].shape[1:]))
        self._times = {name: macs[name] / network.get_parameter(name).numel() for name in names}
        self.constant = (
            BUDGET_ALONE if constant is None else check_real("constant", constant, 0, high_open=True)
        )
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        self.budget, _ = prunable_budget(shapes, names, density)
        self._squares: list[dict[str, Tensor]] = []

    def _round(self, round: int) -> None:
        self._squares = []
        super()._round(round)

    def _client(self, worker: nn.Module, client: int, round: int) -> None:
        super()._client(worker, client, round)
        if self.schedule.names(round):
            self._squares.append(self._squared_gradients(worker, client, round))

    def _squared_gradients(self, worker: nn.Module, client: int, round: int) -> dict[str, Tensor]:
        x, y = self.clients[client]
        seed = derived_seed(self.seed, round, client, GRADIENT)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
        local = copy.deepcopy(self.model)
        local.load_state_dict(worker.state_dict())
        total = {name: torch.zeros_like(w) for name, w in local.effective_weights().items()}
        used = 0
        with seeded(seed, x.device):
            for batch in chunks(order, self.batch_size):
                if sees_one_value(local, x[batch]):
                    continue
                used += 1
                for name, grad in local.dense_gradients(x[batch], y[batch]).items():
                    total[name] += grad.square()
        return {name: square.detach() / max(used, 1) for name, square in total.items()}

    def _server(self, states: list[dict[str, Tensor]], chosen: list[int], round: int) -> None:
        super()._server(states, chosen, round)
        if self._squares:
            shares = client_shares(self._sizes(chosen))
            means = {
                name: sum(p * squares[name] for p, squares in zip(shares, self._squares, strict=True))
                for name in self.model.masks
            }
            self.model.set_masks(self._masks({name: torch.as_tensor(mean) for name, mean in means.items()}))

    def _masks(self, squares: dict[str, Tensor]) -> dict[str, Tensor]:
        """The selected weights, cut to the budget; the best weight of every layer is among them."""
        g2 = torch.cat([square.flatten().double() for square in squares.values()])
        t = torch.cat(
            [torch.full((s.numel(),), self._times[n], dtype=torch.float64) for n, s in squares.items()]
        ).to(g2.device)
        chosen = torch.zeros(len(g2), dtype=torch.bool, device=g2.device)
        start = 0
        for square in squares.values():
            chosen[start + int(square.flatten().argmax())] = True
            start += square.numel()
        others = [int(i) for i in prunefl_select(g2, t, self.constant) if not chosen[i]]
        chosen[others[: self.budget - int(chosen.sum())]] = True
        parts = chunks(chosen, [square.numel() for square in squares.values()])
        return {name: part.view(squares[name].shape) for name, part in zip(squares, parts, strict=True)}
