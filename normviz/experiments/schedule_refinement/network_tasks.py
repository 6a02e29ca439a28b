"""Text and digits: many networks of one shape side by side, the parameters of each in one flat vector.

One vector per network is one parameter of an optimizer, so that each network is a parameter group with its own learning
rate; ``torch.func.vmap`` evaluates all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from normviz.data import load_rows, pydoc_topics, seeded_generator
from normviz.data.sampling import BatchSource, TensorBatches
from normviz.models import MLP, RNNLanguageModel
from normviz.norms import LayerNormGRU
from normviz.training.seeding import seeded

__all__ = ["NetworkTask", "digits_task", "text_task"]

WIDTH = 48
CONTEXT, TEXT_BATCH, TEXT_WINDOWS = 16, 16, 64
DIGITS_HIDDEN, DIGITS_BATCH = (128, 128), 64


class NetworkTask:
    """A classification with a network that has no minimum we know.

    Args:
        network: makes the network; its weights come from torch's global generator.
        batches: training batches (x, y) of a run, by the run's number.
        held_out: (x, y) of which the loss is measured.
        device: where it is trained.

    Attributes:
        dtype: of the parameters.
    """

    dtype = torch.float32

    def __init__(
        self,
        network: Callable[[], nn.Module],
        batches: tuple[BatchSource, ...],
        held_out: tuple[Tensor, Tensor],
        device: torch.device,
    ) -> None:
        self._make, self._batches, self.device = network, batches, device
        self._held_out = (held_out[0].to(device), held_out[1].to(device))
        with torch.random.fork_rng(devices=[]):
            self._body = self._make().to(device)
        self._names = [name for name, _ in self._body.named_parameters()]
        self._shapes = [p.shape for p in self._body.parameters()]
        self._sizes = [p.numel() for p in self._body.parameters()]

    def start(self, seed: int, run: int) -> Tensor:
        """The first weights of a run, one flat vector; both runs of a seed have their own."""
        with seeded(int(torch.randint(2**31, (), generator=seeded_generator(seed, 41, run)))):
            network = self._make()
        return torch.cat([p.detach().flatten() for p in network.parameters()]).to(self.device)

    def losses(self, weights: Tensor, seed: int, run: int, step: int) -> Tensor:
        """Loss of every network (M, P) on the batch of a step, (M,)."""
        x, y = self._batches[run](seed, step)
        return self._every(weights, x.to(self.device), y.to(self.device))

    @torch.no_grad()
    def measured(self, weights: Tensor) -> Tensor:
        """Loss of every network (M, P) on the held-out data, (M,)."""
        return self._every(weights, *self._held_out)

    def _every(self, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        every: Tensor = vmap(self._loss, in_dims=(0, None, None))(weights, x, y)
        return every

    def _loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = torch.split(flat, self._sizes)
        parameters = {n: p.view(s) for n, p, s in zip(self._names, parts, self._shapes, strict=True)}
        logits: Tensor = functional_call(self._body, parameters, (x,))
        return cross_entropy(logits.flatten(0, -2), y.flatten())


def _gru(input_size: int, hidden: int) -> nn.Module:
    """A plain gated recurrent unit as a loop of cells, which ``vmap`` can run."""
    return LayerNormGRU(input_size, hidden, normalize=False, batch_first=True)


def _language_model() -> nn.Module:
    """A language model of bytes with the first weights that PyTorch's own layers have: embeddings N(0, 1), the rest
    uniform in +-1/sqrt(width)."""
    network = RNNLanguageModel(256, rnn=_gru, embedding_dim=WIDTH, hidden=WIDTH)
    network.embedding.reset_parameters()
    network.head.reset_parameters()
    for parameter in network.layers.parameters():
        nn.init.uniform_(parameter, -(WIDTH**-0.5), WIDTH**-0.5)
    return network


def _digit_network(values: int, classes: int) -> nn.Module:
    return MLP(values, DIGITS_HIDDEN, classes)


@lru_cache(maxsize=16)
def text_task(seed: int, device: torch.device) -> NetworkTask:
    """The next byte of Python's help topics: windows of 16 bytes, 16 in a batch; the split is the seed's."""
    corpus = pydoc_topics("byte", split_seed=seed)
    windows = corpus.windows("val", CONTEXT, limit=TEXT_WINDOWS)
    batches = tuple(corpus.batches(CONTEXT, TEXT_BATCH, stream=run) for run in (0, 1))
    return NetworkTask(_language_model, batches, (windows.tokens, windows.targets), device)


@lru_cache(maxsize=16)
def digits_task(seed: int, noise: float, device: torch.device, data: str = "digits") -> NetworkTask:
    """Digits in batches of 64, of which a share of the labels is replaced by another class; the split is the seed's.

    Args:
        seed: of the split and the wrong labels.
        noise: the share.
        device: where the networks are trained.
        data: which digits, or the reader's own (:func:`normviz.data.load_rows`).
    """
    given = load_rows(data, seed=seed)
    y_train, y_test = (
        _noisy(y, given.num_classes, noise, seeded_generator(seed, 42, part))
        for part, y in enumerate((given.y_train, given.y_test))
    )
    size = min(DIGITS_BATCH, len(y_train))
    batches = tuple(TensorBatches((given.x_train, y_train), size, stream=run) for run in (0, 1))
    network = partial(_digit_network, given.x_train.shape[1], given.num_classes)
    return NetworkTask(network, batches, (given.x_test, y_test), device)


def _noisy(y: Tensor, classes: int, share: float, generator: torch.Generator) -> Tensor:
    """Labels of which each is, with this probability, another class."""
    wrong = torch.rand(len(y), generator=generator) < share
    other = (y + torch.randint(1, classes, (len(y),), generator=generator)) % classes
    return torch.where(wrong, other, y)
