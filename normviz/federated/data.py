"""How the samples of a data set are dealt out to clients: with skewed labels (Dirichlet) or alike.

The Dirichlet split is the one of the experiments in "Distributed Pruning Towards Tiny Neural Networks in Federated
Learning" (arXiv 2212.01977), as in the authors' library FedPruning: every class is divided by proportions that are
drawn from Dir(alpha, ..., alpha). A small alpha gives most of a class to a few clients, a large one gives every client
the same share.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from normviz.validation import check_integer, check_real

__all__ = ["dirichlet_partition", "iid_partition"]

Indices = npt.NDArray[np.int64]

MAX_DRAWS = 1000
"""Draws after which the split gives up: some client was too small in each of them."""


def dirichlet_partition(
    labels: npt.ArrayLike,
    n_clients: int,
    alpha: float = 0.5,
    min_size: int = 10,
    balance: bool = True,
    seed: int = 0,
) -> list[Indices]:
    """Indices of the samples of each client, with labels skewed by a Dirichlet law (arXiv 2212.01977, experiments).

    For each class in turn, draw proportions from Dir(alpha * ones(n_clients)), set them to 0 for clients that hold
    their share of N / n_clients samples already, renormalise, and cut the shuffled indices of the class at
    ``int(cumsum * class size)``. All is drawn again until every client has ``min_size`` samples.

    Args:
        labels: (N,), class of each sample, integers.
        n_clients: number of clients K >= 1.
        alpha: concentration > 0, 0.5 as in the paper.
        min_size: samples that every client must have at least; 10 as in the authors' library.
        balance: False: a client that has its share goes on getting more, so that sizes differ strongly.
        seed: the split is a function of it and the labels.

    Returns:
        One sorted array of indices per client; together they are 0..N-1, each once.

    Raises:
        ValueError: an argument out of range; more clients than ``N / min_size``; a client was too small in each of
            1000 draws.

    Example:
        >>> parts = dirichlet_partition([0, 1] * 50, 4, alpha=0.1)
        >>> sorted(int(i) for part in parts for i in part) == list(range(100))
        True
    """
    y = _labels(labels)
    clients = check_integer("n_clients", n_clients, 1)
    concentration = check_real("alpha", alpha, 0, low_open=True, high_open=True)
    smallest = check_integer("min_size", min_size, 0)
    _check_enough(clients, len(y), max(smallest, 1))
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    classes = [np.flatnonzero(y == c) for c in np.unique(y)]
    for _ in range(MAX_DRAWS):
        parts = _draw(classes, len(y), clients, concentration, balance, rng)
        if parts is not None and min(map(len, parts)) >= smallest:
            return [np.sort(part) for part in parts]
    raise ValueError(
        f"min_size must be reachable: in {MAX_DRAWS} draws with alpha {concentration:g} some of {clients} clients "
        f"had fewer than {smallest} samples. Take a larger alpha, a smaller min_size or fewer clients."
    )


def iid_partition(labels: npt.ArrayLike, n_clients: int, seed: int = 0) -> list[Indices]:
    """Indices of the samples of each client, dealt out at random; sizes differ by at most one.

    Args:
        labels: (N,), class of each sample; only its length matters.
        n_clients: number of clients, 1 to N.
        seed: the split is a function of it and N.

    Raises:
        ValueError: an argument out of range, more clients than samples.
    """
    y = _labels(labels)
    clients = check_integer("n_clients", n_clients, 1)
    _check_enough(clients, len(y), 1)
    order = np.random.default_rng(check_integer("seed", seed, 0)).permutation(len(y))
    return [np.sort(part) for part in np.array_split(order, clients)]


def _labels(labels: npt.ArrayLike) -> npt.NDArray[np.integer]:
    y = np.asarray(labels)
    if y.ndim != 1 or not len(y) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be a vector of integers, got shape {y.shape} of {y.dtype}.")
    return y


def _check_enough(clients: int, samples: int, smallest: int) -> None:
    if clients > samples / smallest:
        raise ValueError(
            f"n_clients must be at most {samples // smallest} for {samples} samples and at least {smallest} "
            f"per client, got {clients}."
        )


def _draw(
    classes: list[Indices],
    samples: int,
    clients: int,
    alpha: float,
    balance: bool,
    rng: np.random.Generator,
) -> list[Indices] | None:
    """One try; None if every client that still has room got the proportion 0 (underflow at a tiny alpha)."""
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    sizes = np.zeros(clients)
    for members in classes:
        shares = rng.dirichlet(np.full(clients, alpha))
        if balance:
            shares = shares * (sizes < samples / clients)
        total = shares.sum()
        if not total > 0:
            return None
        cuts = (np.cumsum(shares / total) * len(members)).astype(int)[:-1]
        for client, piece in enumerate(np.split(rng.permutation(members), cuts)):
            parts[client].append(piece)
            sizes[client] += len(piece)
    return [np.concatenate(part) for part in parts]
