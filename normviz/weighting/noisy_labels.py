"""Label noise with an exact count of wrong labels, for experiments on learning from noisy labels.

Four laws of where and into what labels are flipped. In all of them exactly round(rate n) labels are wrong:

==================  ================================  =========================================================
kind                which samples                     new label
==================  ================================  =========================================================
symmetric           random subset                     uniform over the other classes
pair                random subset                     (y + 1) mod C
class_dependent     random subset                     each true class has its own distribution over the others
instance-dependent  those that look like others       the class it looks like
==================  ================================  =========================================================

The distributions of "class_dependent" are drawn once, from a Dirichlet(1). The instance-dependent law (ours, in the
spirit of Chen et al. 2021, arXiv 2012.05458, who flip what a network confuses) stands for a careless annotator. With
m_c the mean input of class c and s^2 the mean squared distance of a sample to the mean of its own class,
q_i = softmax_c(-sharpness ||x_i - m_c||^2 / (2 s^2)). Samples are drawn without replacement with probabilities
proportional to 1 - q_i,y, and flipped to a class drawn from q_i over the others.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from normviz.validation import check_choice, check_integer, check_real
from normviz.weighting._forward_pass import check_labels

__all__ = ["NOISE_KINDS", "inject_instance_noise", "inject_label_noise"]

NOISE_KINDS = ("symmetric", "pair", "class_dependent")


def inject_label_noise(
    y: Tensor, rate: float, num_classes: int, kind: str = "symmetric", generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Flip exactly round(rate n) labels, a random subset, by one of NOISE_KINDS.

    Args:
        y: true labels [n], integers in 0..num_classes-1.
        rate: share of wrong labels, in [0, 1).
        num_classes: C >= 2.
        kind: "symmetric" (default), "pair" or "class_dependent".
        generator: source of randomness; None: the global one of the CPU.

    Returns:
        (noisy labels [n] in y's dtype and on its device, mask [n] of the flipped ones = where they differ from y).

    Raises:
        ValueError: rate outside [0, 1), num_classes < 2, unknown kind, y not 1-D, labels outside 0..num_classes-1.

    Example:
        >>> y, flipped = inject_label_noise(torch.zeros(10, dtype=torch.long), 0.3, 4)
        >>> int(flipped.sum()), bool((y[flipped] != 0).all())
        (3, True)
    """
    check_choice("kind", kind, NOISE_KINDS)
    C, count = _checked(y, rate, num_classes)
    device = torch.device("cpu") if generator is None else generator.device
    true = y.detach().to(device).long()
    flipped_to = _other_class_law(C, kind, device, generator)  # (C, C - 1)
    chosen = torch.randperm(len(true), generator=generator, device=device)[:count]
    shift = _draw(flipped_to[true[chosen]], generator)
    noisy = true.clone()
    noisy[chosen] = (true[chosen] + 1 + shift) % C
    return _result(y, noisy)


def inject_instance_noise(
    x: Tensor,
    y: Tensor,
    rate: float,
    num_classes: int,
    generator: Generator | None = None,
    sharpness: float = 8.0,
) -> tuple[Tensor, Tensor]:
    """Flip exactly round(rate n) labels, of those samples that look like another class, to that class.

    Args:
        x: inputs [n, ...], compared as flat vectors.
        y: true labels [n], integers in 0..num_classes-1.
        rate: share of wrong labels, in [0, 1).
        num_classes: C >= 2.
        generator: source of randomness; None: the global one of the CPU.
        sharpness: how much resemblance decides, > 0 (8: ours). Towards 0: a random subset, uniform over the others.

    Returns:
        (noisy labels [n], mask of the flipped ones [n]), as :func:`inject_label_noise`.

    Raises:
        ValueError: as :func:`inject_label_noise`; x of another length than y; sharpness <= 0.
    """
    C, count = _checked(y, rate, num_classes)
    check_real("sharpness", sharpness, 0.0, float("inf"), low_open=True, high_open=True)
    if x.ndim < 1 or len(x) != len(y):
        raise ValueError(f"x must have y's length {len(y)}, got shape {tuple(x.shape)}.")
    device = torch.device("cpu") if generator is None else generator.device
    true = y.detach().to(device).long()
    if not count:
        return _result(y, true)
    flat = x.detach().to(device).flatten(1).double()
    member = torch.nn.functional.one_hot(true, C).double()  # (n, C)
    means = member.T @ flat / member.sum(0).clamp(min=1)[:, None]
    distance = torch.cdist(flat, means).square()  # (n, C)
    # No sample looks like a class that has none.
    distance = distance.masked_fill(member.sum(0) == 0, torch.inf)
    own = distance.gather(1, true[:, None])
    spread = own.mean().clamp(min=torch.finfo(flat.dtype).tiny)
    log_q = (-sharpness * distance / (2 * spread)).log_softmax(1)
    others = log_q.scatter(1, true[:, None], -torch.inf)
    # The largest keys of log weight + Gumbel noise are a draw without replacement in proportion to the weights.
    weight = others.logsumexp(1).nan_to_num(neginf=0.0)  # -inf if no other class has samples
    keys = weight + _gumbel(len(true), device, generator)
    chosen = keys.topk(count).indices
    noisy = true.clone()
    law = others[chosen].softmax(1)
    uniform = (1 - member[chosen]) / (C - 1)
    noisy[chosen] = _draw(torch.where(law.isfinite().all(1, keepdim=True), law, uniform), generator)
    return _result(y, noisy)


def _checked(y: Tensor, rate: float, num_classes: int) -> tuple[int, int]:
    """C and the number of labels to flip."""
    check_real("rate", rate, 0.0, 1.0, high_open=True)
    check_integer("num_classes", num_classes, 2)
    if y.ndim != 1:
        raise ValueError(f"y must have shape [n], got {tuple(y.shape)}.")
    check_labels(y, num_classes)
    return num_classes, round(rate * len(y))


def _other_class_law(C: int, kind: str, device: torch.device, generator: Generator | None) -> Tensor:
    """For each true class the probabilities of the C - 1 others, ordered (y + 1, y + 2, …) mod C."""
    if kind == "class_dependent":
        weights = torch.empty(C, C - 1, dtype=torch.float64, device=device).exponential_(generator=generator)
        return weights / weights.sum(1, keepdim=True)  # normalised exponentials are Dirichlet(1)
    law = torch.zeros(C, C - 1, dtype=torch.float64, device=device)
    if kind == "pair":
        law[:, 0] = 1
    else:
        law[:] = 1 / (C - 1)
    return law


def _draw(law: Tensor, generator: Generator | None) -> Tensor:
    """One index for each row of probabilities [m, K]."""
    if not len(law):
        return torch.zeros(0, dtype=torch.long, device=law.device)
    return torch.multinomial(law, 1, generator=generator).squeeze(1)


def _gumbel(n: int, device: torch.device, generator: Generator | None) -> Tensor:
    return -torch.empty(n, dtype=torch.float64, device=device).exponential_(generator=generator).log()


def _result(y: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
    noisy = noisy.to(y.device, y.dtype)
    return noisy, noisy != y
