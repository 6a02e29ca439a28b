"""Adaptive batch-norm selection: which coarsely pruned network suits the clients best, found without training.

Huang et al., "Distributed Pruning Towards Tiny Neural Networks in Federated Learning" (FedTiny), ICDCS 2023, arXiv
2212.01977, module 1 (adaptive BN selection). The server has a pool of candidates, magnitude masks at different layer
densities. A candidate's loss under the server's BN statistics says little: they belong to the dense network and other
data. So the clients estimate the statistics anew, the server averages them, and the candidate with the lowest mean loss
under the averaged statistics is the start of training.

1. :func:`client_bn_stats`: weights frozen, running statistics reset, one pass over the development data, plain means
   over batches (torch's ``momentum=None``; the variances are unbiased).
2. :func:`aggregate_bn_stats`: mu = sum p_k mu_k, var = sum p_k var_k with p_k = n_k / sum n. ``pooled`` (ours) adds
   sum p_k (mu_k - mu)^2, so that biased variances give exactly that of all data together.
3. Losses in eval mode on the clients' development data; :func:`select_candidate` takes the lowest mean.

The authors' repository collects the affine parameters of the norms in step 1 and leaves the statistics out, so its
selection is in effect the vanilla one; this follows the paper. Pool size and noise of the paper could not be confirmed.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.federated._networks import batch_norms, chunks, kept_modes, prunable_weights, sees_one_value
from normviz.federated.budget import RULES, layer_densities
from normviz.federated.fedavg import Client, check_clients, client_shares
from normviz.federated.pruning import SparseModel, largest_mask, plain_network
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "AGGREGATES",
    "POOLS",
    "AdaptiveBNSelection",
    "CandidatePool",
    "aggregate_bn_stats",
    "client_bn_stats",
    "load_bn_stats",
    "noisy_layer_densities",
    "select_candidate",
]

POOLS = ("noise", "seed")
AGGREGATES = ("weighted", "pooled")

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance, (C,) each, of every batch norm by its module name."""

CANDIDATE, DEVELOPMENT = 11, 12
"""What a random stream is for; part of its key."""


def noisy_layer_densities(
    shapes: Mapping[str, Sequence[int]],
    prunable: Sequence[str],
    density: float,
    noise: Mapping[str, float],
    rule: str = "uniform",
) -> dict[str, float]:
    """Layer densities of a candidate: ``clip(b_l + e_l, 1 / size_l, 1)``, scaled down where they exceed the budget.

    b_l are the densities of the rule. All are multiplied by ``min(1, budget / sum of d_l size_l)``, budget = sum of
    b_l size_l.

    Args:
        shapes: shape of every parameter of the network, by name.
        prunable: names of the weights that are pruned.
        density: share of all parameters that stays.
        noise: e_l by name; 0 for names that are missing.
        rule: "uniform" (default), "ER" or "ERK".

    Returns:
        d_l by name. Without noise exactly those of the rule.

    Raises:
        ValueError: noise of an unknown name or not finite; what :func:`layer_densities` refuses.
    """
    base = layer_densities(shapes, prunable, density, rule)
    unknown = sorted(set(noise) - set(base))
    if unknown:
        raise ValueError(f"noise must be for prunable weights, got {unknown}.")
    sizes = {name: math.prod(shapes[name]) for name in base}
    moved = {
        name: min(
            max(
                b + check_real("noise", noise.get(name, 0.0), low_open=True, high_open=True), 1 / sizes[name]
            ),
            1.0,
        )
        for name, b in base.items()
    }
    budget = math.fsum(b * sizes[name] for name, b in base.items())
    spent = math.fsum(d * sizes[name] for name, d in moved.items())
    if spent <= budget:
        return moved
    return {name: d * (budget / spent) for name, d in moved.items()}


class CandidatePool:
    """The server's candidates: sparse networks of about equal density (arXiv 2212.01977, module 1).

    ``pool[c]`` builds candidate c anew, the same each time. A layer keeps ``int(size * d_l)`` weights, at least one.

    Args:
        model: the server's dense network, which the pool copies.
        density: share of all parameters that stays, in (0, 1].
        size: number of candidates C >= 1.
        pool: "noise" (default): the network's own weights, masks at noisy layer densities, candidate 0 without noise.
            "seed" (as in the authors' repository): the weights of convolutions and linear layers are drawn anew,
            Kaiming-normal from ``seed + c``, at the densities of the rule.
        noise: e_l is uniform in [-noise b_l, noise b_l]; 0.5 is ours.
        rule: layer densities b_l: "uniform" (default), "ER" or "ERK".
        seed: decides noise and drawn weights.

    Raises:
        ValueError: an argument out of range, density at most the share of the dense parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        size: int,
        pool: str = "noise",
        noise: float = 0.5,
        rule: str = "uniform",
        seed: int = 0,
    ) -> None:
        self.size = check_integer("size", size, 1)
        self.pool = check_choice("pool", pool, POOLS)
        self.noise = check_real("noise", noise, 0, high_open=True)
        self.rule = check_choice("rule", rule, RULES)
        self.seed = check_integer("seed", seed, 0)
        self.density = density
        self._model = copy.deepcopy(model)
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._base = layer_densities(self._shapes, list(prunable_weights(model)), density, rule)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, candidate: int) -> SparseModel:
        if not 0 <= candidate < self.size:
            raise IndexError(f"candidate must be in [0, {self.size}), got {candidate}.")
        model = copy.deepcopy(self._model)
        weights = prunable_weights(model)
        if self.pool == "seed":
            generator = torch.Generator().manual_seed(self.seed + candidate)
            for w in weights.values():
                drawn = torch.empty(w.shape, dtype=w.dtype)
                nn.init.kaiming_normal_(drawn, generator=generator)
                w.data.copy_(drawn)
        densities = self.layer_densities(candidate)
        keep = {name: max(1, int(w.numel() * densities[name])) for name, w in weights.items()}
        return SparseModel.with_masks(
            model, {name: largest_mask(w, keep[name]) for name, w in weights.items()}
        )

    def layer_densities(self, candidate: int) -> dict[str, float]:
        """d_l of a candidate, by the weight's name."""
        noise: dict[str, float] = {}
        if self.pool == "noise" and candidate > 0:
            rng = np.random.default_rng([self.seed, candidate, CANDIDATE])
            noise = {name: float(rng.uniform(-1, 1)) * self.noise * b for name, b in self._base.items()}
        return noisy_layer_densities(self._shapes, list(self._base), self.density, noise, self.rule)


# ------------------------------------------------------------------------------------------- statistics


@torch.no_grad()
def client_bn_stats(model: nn.Module, loader: Iterable[Client]) -> Statistics:
    """Mean and variance of every batch norm's input over one pass of the data, as a client estimates them.

    The running statistics are reset, the batch norms (and nothing else) are in train mode, and the plain mean over
    batches is taken, of unbiased variances. Each layer sees what the layers before it make of their batch statistics.
    A batch that leaves a norm one value per channel is skipped.

    Args:
        model: a network, or a :class:`normviz.federated.SparseModel`; its weights, buffers and modes are as before
            afterwards.
        loader: batches (x, y); y is not used.

    Returns:
        Layer name (of the plain network) -> (mean, var), (C,) each. Empty if the network has no batch norm with running
        statistics, or no batch could be used.
    """
    network = plain_network(model)[0]
    norms = batch_norms(network)
    buffers = {name: {key: b.clone() for key, b in norm.named_buffers()} for name, norm in norms.items()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    used = 0
    with kept_modes(model):
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for x, _ in loader:
                if norms and not sees_one_value(model, x):
                    model(x)
                    used += 1
            found = {name: _running(norm) for name, norm in norms.items()}
        finally:
            for name, norm in norms.items():
                norm.momentum = momenta[name]
                for key, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name][key])
    return found if used else {}


def _running(norm: nn.Module) -> tuple[Tensor, Tensor]:
    return norm.get_buffer("running_mean").clone(), norm.get_buffer("running_var").clone()


def aggregate_bn_stats(
    stats: Sequence[Statistics], sizes: Sequence[float], mode: str = "weighted"
) -> Statistics:
    """The server's average of the clients' statistics, p_k = sizes_k / sum(sizes).

    Args:
        stats: per client: layer -> (mean, var).
        sizes: samples that each client used.
        mode: "weighted" (default): sum p_k mu_k and sum p_k var_k. "pooled" (ours): the variance gets
            sum p_k (mu_k - mu)^2 too; of biased variances that is the variance of all data together.

    Raises:
        ValueError: unknown mode, no clients, clients with different layers, sizes that do not fit.
    """
    check_choice("mode", mode, AGGREGATES)
    if not stats or any(entry.keys() != stats[0].keys() for entry in stats):
        raise ValueError("stats must hold the same layers for every client, for at least one client.")
    if len(sizes) != len(stats):
        raise ValueError(f"sizes must have one entry per client ({len(stats)}), got {len(sizes)}.")
    shares = client_shares(sizes)
    result: Statistics = {}
    for name in stats[0]:
        means = torch.stack([entry[name][0] for entry in stats])  # (K, C)
        variances = torch.stack([entry[name][1] for entry in stats])
        p = torch.tensor(shares, dtype=means.dtype, device=means.device)[:, None]
        mean, variance = (p * means).sum(0), (p * variances).sum(0)
        if mode == "pooled":
            variance = variance + (p * (means - mean).square()).sum(0)
        result[name] = mean, variance
    return result


@torch.no_grad()
def load_bn_stats(model: nn.Module, stats: Statistics) -> None:
    """Write means and variances into the batch norms' running statistics, in place.

    Args:
        model: a network or a :class:`normviz.federated.SparseModel`.
        stats: layer name (of the plain network) -> (mean, var).

    Raises:
        ValueError: a name that is no batch norm with running statistics.
    """
    norms = batch_norms(plain_network(model)[0])
    unknown = sorted(set(stats) - set(norms))
    if unknown:
        raise ValueError(f"stats must be of batch norms of the model ({', '.join(norms)}), got {unknown}.")
    for name, (mean, variance) in stats.items():
        norms[name].get_buffer("running_mean").copy_(mean)
        norms[name].get_buffer("running_var").copy_(variance)


# ------------------------------------------------------------------------------------------- selection


def select_candidate(
    losses: Tensor | npt.ArrayLike, sizes: Sequence[float] | None = None
) -> tuple[int, Tensor]:
    """The candidate with the lowest mean loss, the first of equal ones.

    Args:
        losses: (clients, candidates).
        sizes: weights of the clients. Default: all alike, as in the authors' repository.

    Returns:
        (index, mean losses (candidates,) in float64). The mean of a candidate with a NaN loss is NaN; it is not chosen.

    Raises:
        ValueError: losses is not a matrix with entries, or sizes do not fit.
        RuntimeError: every candidate has a NaN loss.

    Example:
        >>> select_candidate([[3, 1, 2], [1, 2.5, 2]])[0], select_candidate([[3, 1, 2], [1, 2.5, 2]], [1, 9])[0]
        (1, 0)
    """
    table = torch.as_tensor(losses, dtype=torch.float64).cpu()
    if table.ndim != 2 or not table.numel():
        raise ValueError(f"losses must be (clients, candidates), got shape {tuple(table.shape)}.")
    if sizes is not None and len(sizes) != len(table):
        raise ValueError(f"sizes must have one entry per client ({len(table)}), got {len(sizes)}.")
    shares = client_shares([1] * len(table) if sizes is None else sizes)
    means = torch.tensor(shares, dtype=torch.float64) @ table
    if bool(means.isnan().all()):
        raise RuntimeError("no candidate can be chosen: the loss of every one is NaN at some client.")
    order = torch.where(means.isnan(), torch.inf, means)
    chosen = int(torch.nonzero(~means.isnan() & (order == order.min()))[0])
    return chosen, means


class AdaptiveBNSelection:
    """Adaptive batch-norm selection (arXiv 2212.01977, module 1): the candidate with the lowest loss at the clients.

    Args:
        pool: candidates, a :class:`CandidatePool` or a sequence of sparse networks (which are copied).
        clients: pairs (x, y).
        dev_fraction: share of a client's data that is used, in (0, 1]: ``min(N_k, max(2, int(dev_fraction N_k)))``
            samples, drawn by seed and client.
        adapt: False: the server's own statistics ("vanilla selection").
        mode: how statistics are averaged, "weighted" (default) or "pooled".
        sample_weighted: average losses with the numbers of samples used; default False, all clients alike.
        batch_size: of the pass for statistics.
        seed: decides which samples are used.

    Attributes:
        index: the chosen candidate, None before ``run``.
        losses: (clients, candidates), float64; NaN where not evaluated yet.
        mean_losses: (candidates,), or None before ``run``.

    Raises:
        ValueError: an argument out of range, an empty pool, a client without data.
    """

    def __init__(
        self,
        pool: CandidatePool | Sequence[SparseModel],
        clients: Sequence[Client],
        dev_fraction: float = 0.1,
        adapt: bool = True,
        mode: str = "weighted",
        sample_weighted: bool = False,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        if not len(pool):
            raise ValueError("pool must hold at least one candidate, got none.")
        self.pool = pool
        self.clients = check_clients(clients)
        self.dev_fraction = check_real("dev_fraction", dev_fraction, 0, 1, low_open=True)
        self.adapt = bool(adapt)
        self.mode = check_choice("mode", mode, AGGREGATES)
        self.sample_weighted = bool(sample_weighted)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)
        self.index: int | None = None
        self.mean_losses: Tensor | None = None
        self.losses = torch.full((len(self.clients), len(pool)), torch.nan, dtype=torch.float64)
        self.development = [self._development(k) for k in range(len(self.clients))]

    def _development(self, client: int) -> Client:
        x, y = self.clients[client]
        count = min(len(x), max(2, int(self.dev_fraction * len(x))))
        order = np.random.default_rng([self.seed, client, DEVELOPMENT]).permutation(len(x))[:count]
        index = torch.from_numpy(np.sort(order)).to(x.device)
        return x[index], y[index]

    def evaluate(self, candidate: int) -> SparseModel:
        """Steps 1 to 3 for one candidate: fills its column of ``losses``; returns it as the clients saw it."""
        model = self._candidate(candidate)
        if self.adapt:
            stats, sizes = [], []
            for x, y in self.development:
                found = client_bn_stats(
                    model, zip(chunks(x, self.batch_size), chunks(y, self.batch_size), strict=True)
                )
                if found:
                    stats.append(found)
                    sizes.append(len(x))
            if stats:
                load_bn_stats(model, aggregate_bn_stats(stats, sizes, self.mode))
        with torch.no_grad(), kept_modes(model):
            model.eval()
            for k, (x, y) in enumerate(self.development):
                self.losses[k, candidate] = float(F.cross_entropy(model(x), y))
        return model

    def _candidate(self, candidate: int) -> SparseModel:
        model = self.pool[candidate]
        return model if isinstance(self.pool, CandidatePool) else copy.deepcopy(model)

    def run(self) -> SparseModel:
        """Evaluate every candidate and return the best one, with the averaged statistics in its batch norms.

        A network without batch norm has no statistics to adapt: a UserWarning says so, and the selection is vanilla.

        Raises:
            RuntimeError: every candidate has a NaN loss.
        """
        if self.adapt and not batch_norms(plain_network(self._candidate(0))[0]):
            warnings.warn(
                "the model has no batch norm with running statistics: the selection is the vanilla one.",
                UserWarning,
                stacklevel=2,
            )
        models = [self.evaluate(c) for c in range(len(self.pool))]
        sizes = [len(x) for x, _ in self.development] if self.sample_weighted else None
        self.index, self.mean_losses = select_candidate(self.losses, sizes)
        return models[self.index]
