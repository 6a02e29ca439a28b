"""One-shot magnitude pruning at the server, as in FL-PQSU: the mask is made once and never moves.

Xu et al., "Accelerating Federated Learning for IoT in Big Data Analytics with Pruning, Quantization and Selective
Updating" (FL-PQSU), IEEE Access 2021: its pruning step, as a rival of FedTiny (arXiv 2212.01977).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from normviz.federated.budget import RULES
from normviz.federated.fedavg import Client, FedAvg
from normviz.federated.pruning import SparseModel
from normviz.validation import check_choice

__all__ = ["OneShotMagnitude"]


class OneShotMagnitude(FedAvg):
    """FedAvg of a network that the server has pruned by magnitude, without any client's data.

    Args:
        model_fn: builds the server's dense network; called once.
        clients: pairs (x, y).
        density: kept parameters over all parameters, in (0, 1].
        lr: as in :class:`normviz.federated.FedAvg`, like all arguments that follow.
        epochs: local epochs per round.
        batch_size: of training.
        clients_per_round: clients sampled per round. Default: all.
        momentum: of the clients' SGD.
        seed: decides sampling and order of samples.
        rule: layer densities, "uniform" (default), "ER" or "ERK".

    Attributes:
        model: the global :class:`SparseModel`.
        round: rounds that are done.

    Raises:
        ValueError: as :class:`SparseModel` and :class:`normviz.federated.FedAvg`.

    Reference: Xu et al. 2021 (FL-PQSU), IEEE Access, its pruning step; here a rival of FedTiny, arXiv 2212.01977.
    """

    model: SparseModel

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
    ) -> None:
        self.density = density
        self.rule = check_choice("rule", rule, RULES)
        super().__init__(model_fn, clients, lr, epochs, batch_size, clients_per_round, momentum, seed)

    def _start(self, model_fn: Callable[[], nn.Module]) -> nn.Module:
        return SparseModel(model_fn(), self.density, self.rule)
