"""FedTiny: federated learning of a network that is tiny from the first round on.

Huang, Zhang, Sun, Fang, Yuan, Wu, "Distributed Pruning Towards Tiny Neural Networks in Federated Learning", ICDCS 2023,
arXiv 2212.01977. Before round 1, adaptive batch-norm selection (:mod:`normviz.federated.selection`) picks one of
several coarsely pruned networks. Then FedAvg (:mod:`normviz.federated.fedavg`) trains it, and in every ``interval``-th
round progressive pruning (:mod:`normviz.federated.progressive`) exchanges some weights of one block.

The authors' library has a reduced variant, FedTiny-Clean, without selection, with dense gradients and all layers at
once: ``FedTiny(..., pool_size=1, adapt=False, granularity="entire", upload="dense")``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from normviz.federated._networks import derived_seed, prunable_weights, seeded, sees_one_value
from normviz.federated.budget import adjust_count
from normviz.federated.fedavg import GRADIENT, Client, FedAvg
from normviz.federated.progressive import (
    GROW_FROM,
    BlockSchedule,
    Upload,
    aggregate_topk,
    prune_and_grow,
    topk_gradients,
)
from normviz.federated.pruning import SparseModel
from normviz.federated.selection import POOLS, AdaptiveBNSelection, CandidatePool
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["GRAD_MODES", "UPLOADS", "FedTiny", "child_blocks"]

GRAD_MODES = ("batch", "single", "entire", "random")
UPLOADS = ("topk", "dense")


def child_blocks(model: nn.Module) -> list[list[str]]:
    """Names of the prunable weights of each child of a network that has some, from input to output."""
    names = list(prunable_weights(model))
    blocks = [[name for name in names if name.startswith(f"{child}.")] for child, _ in model.named_children()]
    found = [block for block in blocks if block]
    return found or [names]


class FedTiny(FedAvg):
    """FedTiny (Huang et al., arXiv 2212.01977): BN selection (module 1), then FedAvg with progressive pruning (2).

    Args:
        model_fn: builds the server's dense network; called once.
        clients: pairs (x, y) of inputs (N_k, ...) and classes (N_k,).
        density: kept parameters over all parameters, in (0, 1].
        pool_size: number of candidates. Default: max(1, round(0.1 / density)), the paper's rule of thumb (unconfirmed).
            A pool of 1 is the plain mask of ``rule``; its statistics are still adapted with ``adapt``.
        interval: Delta_R, rounds between adjustments; 10 as in the paper's experiments.
        stop: R_stop, last round that may adjust; 100 as there.
        adjust_rate: alpha of the cosine, > 0; 0.2 as in the authors' library.
        grad_mode: data of a client's gradient: "batch" (default) one mini-batch, "single" one sample twice, "entire"
            all of its data, "random" no gradient but normal noise, as a control.
        rule: layer densities, "uniform" (default), "ER" or "ERK".
        pool: "noise" (default) or "seed", see :class:`CandidatePool`.
        noise: of the pool's layer densities; 0.5 is ours.
        adapt: estimate BN statistics anew in the selection; False: vanilla selection.
        dev_fraction: share of a client's data for the selection.
        blocks: lists of weight names, from input to output. Default: one per child of the network with such weights.
        order: "backward" (default, output to input) or "forward".
        granularity: "block" (default), "layer" or "entire".
        grow_from: "previously_inactive" (default) or "all_inactive".
        upload: "topk" (default): a_l pairs per layer. "dense": the gradients of all inactive weights.
        lr: as in :class:`FedAvg`, like all arguments that follow.
        epochs: local epochs per round.
        batch_size: of training, gradient and selection.
        clients_per_round: clients sampled per round. Default: all.
        momentum: of the clients' SGD; buffers are fresh in every round, so none survives for a pruned or grown weight.
        seed: decides pool, selection data, sampling, order of samples and gradient batches.

    Attributes:
        model: the global :class:`SparseModel`; before the first run the pool's first candidate.
        round: rounds that are done.
        selection: the :class:`AdaptiveBNSelection`, made at the start of the first run (``run(0)`` does only that);
            None before, after loading a state, and for ``pool_size=1`` without ``adapt``.
        schedule: the :class:`BlockSchedule`.
        last: of the last round: ``round``, ``block`` (None without adjustment), ``names``, and ``grown`` and
            ``pruned``, flat indices by weight name.

    Raises:
        ValueError: an argument out of range, unknown word, density at most the share of the dense parameters.

    Example:
        >>> from normviz.models import ConvNet
        >>> x, y = torch.randn(40, 1, 8, 8), torch.arange(40) % 4
        >>> clients = [(x[:20], y[:20]), (x[20:], y[20:])]
        >>> net = lambda: ConvNet(1, (4, 8), 4, norm=nn.BatchNorm2d, bias=False)
        >>> trainer = FedTiny(net, clients, 0.4, pool_size=3, interval=1, stop=4, epochs=1)
        >>> trainer.run(2).round, trainer.model.density() <= 0.4
        (2, True)
    """

    model: SparseModel

    def __init__(
        self,
        model_fn: Callable[[], nn.Module],
        clients: Sequence[Client],
        density: float,
        pool_size: int | None = None,
        interval: int = 10,
        stop: int = 100,
        adjust_rate: float = 0.2,
        grad_mode: str = "batch",
        *,
        rule: str = "uniform",
        pool: str = "noise",
        noise: float = 0.5,
        adapt: bool = True,
        dev_fraction: float = 0.1,
        blocks: Sequence[Sequence[str]] | None = None,
        order: str = "backward",
        granularity: str = "block",
        grow_from: str = "previously_inactive",
        upload: str = "topk",
        lr: float = 0.1,
        epochs: int = 5,
        batch_size: int = 64,
        clients_per_round: int | None = None,
        momentum: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.density = check_real("density", density, 0, 1, low_open=True)
        self.pool_size = (
            max(1, round(0.1 / self.density))
            if pool_size is None
            else check_integer("pool_size", pool_size, 1)
        )
        self.adjust_rate = check_real("adjust_rate", adjust_rate, 0, low_open=True, high_open=True)
        self.grad_mode = check_choice("grad_mode", grad_mode, GRAD_MODES)
        self.rule = rule
        self.pool = check_choice("pool", pool, POOLS)
        self.noise = check_real("noise", noise, 0, high_open=True)
        self.adapt = bool(adapt)
        self.dev_fraction = check_real("dev_fraction", dev_fraction, 0, 1, low_open=True)
        self.grow_from = check_choice("grow_from", grow_from, GROW_FROM)
        self.upload = check_choice("upload", upload, UPLOADS)
        self.selection: AdaptiveBNSelection | None = None
        self._selected = False
        self._uploads: list[dict[str, Upload]] = []
        self._seed = check_integer("seed", seed, 0)
        super().__init__(model_fn, clients, lr, epochs, batch_size, clients_per_round, momentum, seed)
        self.schedule = BlockSchedule(
            self._blocks(blocks), interval=interval, stop=stop, order=order, granularity=granularity
        )
        self.last: dict[str, Any] = self._record(0)

    def _start(self, model_fn: Callable[[], nn.Module]) -> nn.Module:
        dense = model_fn()
        if self.pool_size > 1:
            self._pool: CandidatePool | list[SparseModel] = CandidatePool(
                dense, self.density, self.pool_size, self.pool, self.noise, self.rule, self._seed
            )
        else:
            self._pool = [SparseModel(dense, self.density, self.rule)]
        return self._pool[0]

    def _blocks(self, blocks: Sequence[Sequence[str]] | None) -> Sequence[Sequence[str]]:
        if blocks is None:
            return child_blocks(self.model.model)
        unknown = sorted({name for block in blocks for name in block} - set(self.model.masks))
        if unknown:
            raise ValueError(
                f"blocks must name prunable weights ({', '.join(self.model.masks)}), got {unknown}."
            )
        return blocks

    def _record(self, round: int, block: int | None = None, names: Sequence[str] = ()) -> dict[str, Any]:
        return {"round": round, "block": block, "names": list(names), "grown": {}, "pruned": {}}

    def run(self, rounds: int, callback: Callable[[Self], object] | None = None) -> Self:
        """Go on for so many rounds; the first call selects the start before. ``run(2)`` twice equals ``run(4)``.

        Args:
            rounds: number of rounds, 0 or more; 0 does the selection only.
            callback: called with this object after every round.

        Raises:
            ValueError: rounds is no such number.
            RuntimeError: every candidate has a NaN loss.
        """
        check_integer("rounds", rounds, 0)
        if not self._selected:
            self._select()
        return super().run(rounds, callback)

    def _select(self) -> None:
        if self.pool_size > 1 or self.adapt:
            self.selection = AdaptiveBNSelection(
                self._pool,
                self.clients,
                self.dev_fraction,
                self.adapt,
                batch_size=self.batch_size,
                seed=self.seed,
            )
            self.model.load_state_dict(self.selection.run().state_dict())
        self._selected = True

    def _round(self, round: int) -> None:
        self._uploads = []
        super()._round(round)

    def _client(self, worker: nn.Module, client: int, round: int) -> None:
        super()._client(worker, client, round)
        names = self.schedule.names(round)
        if names and isinstance(worker, SparseModel):
            self._uploads.append(self._gradients(worker, client, round, names))

    def _gradients(self, worker: SparseModel, client: int, round: int, names: list[str]) -> dict[str, Upload]:
        """What a client uploads about the scheduled layers, with its own trained weights."""
        seed = derived_seed(self.seed, round, client, GRADIENT)
        generator = torch.Generator().manual_seed(seed)
        x, y = self._gradient_data(client, generator)
        masks = worker.masks
        if self.grad_mode == "random":
            drawn = {name: torch.randn(masks[name].shape, generator=generator) for name in names}
            weights = worker.effective_weights()
            grads = {name: noise.to(weights[name]) for name, noise in drawn.items()}
        elif sees_one_value(worker, x):
            return {}
        else:
            with seeded(seed, x.device):
                grads = worker.dense_gradients(x, y, names)
        if self.upload == "dense":
            return {name: topk_gradients(grads[name], masks[name], masks[name].numel()) for name in names}
        return {name: topk_gradients(grads[name], masks[name], self._count(name, round)) for name in names}

    def _gradient_data(self, client: int, generator: torch.Generator) -> Client:
        x, y = self.clients[client]
        if self.grad_mode == "entire":
            return x, y
        order = torch.randperm(len(x), generator=generator).to(x.device)
        index = order[:1].repeat(2) if self.grad_mode == "single" else order[: self.batch_size]
        return x[index], y[index]

    def _count(self, name: str, round: int) -> int:
        """a_l: weights of a layer that are exchanged in a round, cut to what is active and inactive."""
        mask = self.model.masks[name]
        active = int(mask.sum())
        count = adjust_count(round, self.schedule.stop, active, self.adjust_rate)
        return min(count, active, mask.numel() - active)

    def _server(self, states: list[dict[str, Tensor]], chosen: list[int], round: int) -> None:
        super()._server(states, chosen, round)
        names = self.schedule.names(round)
        self.last = self._record(round, self.schedule.block(round), names)
        sizes = self._sizes(chosen)
        for name in names:
            self._adjust(name, sizes, round)

    @torch.no_grad()
    def _adjust(self, name: str, sizes: list[int], round: int) -> None:
        """Steps 3 and 4 for one layer."""
        mask = self.model.masks[name]
        weight = self.model.model.get_parameter(name)
        heard = [(upload[name], size) for upload, size in zip(self._uploads, sizes, strict=True) if upload]
        count = self._count(name, round) if heard else 0
        old = mask.flatten().clone()
        if count:
            grad = aggregate_topk([upload for upload, _ in heard], [size for _, size in heard], mask.shape)
            values, new = prune_and_grow(weight, mask, grad.to(weight.dtype), count, self.grow_from)
            weight.copy_(values)
            self.model.set_masks({name: new})
        now = self.model.masks[name].flatten()
        self.last["grown"][name] = torch.nonzero(now & ~old).flatten()
        self.last["pruned"][name] = torch.nonzero(old & ~now).flatten()

    def state_dict(self) -> dict[str, Any]:
        """Global state with masks, round, whether the selection is done, and ``last``; plain data and tensors."""
        return {**super().state_dict(), "selected": self._selected, "last": dict(self.last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, of this or an equally built object; nothing is selected again."""
        super().load_state_dict(state)
        self._selected = bool(state["selected"])
        self.last = dict(state["last"])
        self.selection = None
