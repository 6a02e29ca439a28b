"""SWAN: SGD with Normalization and Whitening.

Ma, Gong, Scetbon, Meeds, "SWAN: SGD with Normalization and Whitening Enables Stateless LLM Training", ICML 2025,
arXiv 2412.13148.

Two operators applied to the instantaneous gradient replace Adam's two moments: GradNorm standardises every output
row, GradWhitening removes the correlation between rows, G -> (G G^T)^{-1/2} G. The result is orthogonal up to scale,
so its size is fixed and the factor alpha restores Adam-like steps. No state is kept for matrices.

Equations -> code (W, G in R^{m x n}, torch layout, m outputs = rows, n inputs):

========================================================  ===================================================
GradNorm (algorithm 3)  N = (G - mean_j G) / std_j G       ``grad_norm``
GradWhitening (algorithm 2)  (N N^T)^{-1/2} N              ``grad_whitening`` (Newton-Schulz), ``exact_whitening``
D = whitened N * ||N||_F / ||whitened N||_F                ``swan_update``
SWAN (algorithm 1)  W <- W - eta alpha D                   ``SWAN``
diagonal substitution in the inner products                ``diagonal=True``, ``SWANFast``
========================================================  ===================================================

What is NOT true: with the defaults (10 steps, beta = 0.8) the update is not orthogonal. Every singular value x of
N / sqrt(c) follows x <- beta x (3 - x^2), whose fixed point x*^2 = 3 - 1/beta has slope 3 - 6 beta. At beta = 0.5 it
is 1 (quadratic convergence), at 0.4 it is 0.7071 (rate 0.6), at 0.8 the slope is -1.8: values that have grown keep
moving within [0.5632, 1.6], like those of Muon's quintic, and more steps do not help. Small values grow by 3 beta = 2.4
a step, so those below about 1e-4 still lag after ten. Convergence needs 1/3 < beta < 2/3.

The announced code was not published. alpha = 0.05, (10, 0.8) for the full and (2, 0.4) for the diagonal scheme come
from public implementations, the Frobenius initialisation from the same authors' later paper. Ours, because the paper
leaves them open: correlation scaling of the diagonal scheme, decoupled weight decay (default 0), N-d weights flattened
to (out, rest), and AdamW for centred matrices of one column, which centring would erase.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from normviz.optim._matrix import (
    MatrixBatch,
    MatrixOptimizer,
    add_to_parameters,
    check_adam,
    check_rates,
    matrix_shape,
)
from normviz.optim._precision import full_precision, widen
from normviz.optim._steps import Group, learning_rate
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["SWAN", "SWANFast", "exact_whitening", "grad_norm", "grad_whitening", "swan_update"]

GRAM_NORMS = ("frobenius", "trace", "correlation")
NORM_AXES = ("rows", "short")


def grad_norm(G: Tensor, center: bool = True, eps: float = 1e-8) -> Tensor:
    """GradNorm (algorithm 3): standardise along the last axis, N_ij = (G_ij - gbar_i) / max(s_i, eps).

    gbar_i is the row mean and s_i = sqrt(mean_j (G_ij - gbar_i)^2), the biased standard deviation; hence
    ||N||_F = sqrt(mn) unless a row is degenerate.

    Args:
        G: gradients (..., m, n).
        center: subtract the row mean (True, the paper). False divides by the RMS only: the row projection of
            gradient multi-normalization.
        eps: lower clamp of s_i (1e-8, ours): zero rows stay zero, as do constant rows under centring.

    Returns:
        N, shape and dtype of G, computed in at least float32.

    Raises:
        ValueError: eps <= 0, G not (..., m, n) or not a real floating tensor.

    Example:
        >>> grad_norm(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    check_real("eps", eps, 0.0, low_open=True)
    X = widen("G", G)
    if center:
        # A rounded mean would leave a constant row at one ulp, which the division by s_i blows up to 1.
        constant = X.amax(-1, keepdim=True) == X.amin(-1, keepdim=True)
        X = torch.where(constant, 0.0, X - X.mean(-1, keepdim=True))
    s: Tensor = torch.linalg.vector_norm(X, dim=-1, keepdim=True) / math.sqrt(X.shape[-1])  # (..., m, 1)
    return (X / s.clamp(min=eps)).to(G.dtype)


def grad_whitening(
    G: Tensor,
    steps: int = 10,
    beta: float = 0.8,
    diagonal: bool = False,
    gram_norm: str = "frobenius",
    eps: float = 1e-8,
) -> Tensor:
    """GradWhitening (algorithm 2): approximate (G G^T)^{-1/2} G = U V^T by coupled Newton-Schulz.

    On the short side (m <= n, otherwise on the transpose), with A = G G^T and Y = A / c, Z = I, repeat ``steps``
    times, both from the old values::

        full      T = 3 I - Z Y ;  Y <- beta Y T ;  Z <- beta T Z
        diagonal  Y <- beta Y Diag(3 - diag(Z) o diag(Y)) ;  Z <- beta (3 I - Diag(diag Z) Y) Diag(diag Z)

    and return Z G / sqrt(c). The cost is O(m^2 n + steps m^3) for the full scheme.

    Args:
        G: matrices (..., m, n), usually grad_norm's result.
        steps: k (10; public implementations). The diagonal scheme is meant for k = 2, beta = 0.4.
        beta: step factor in (0, 1) (0.8; public implementations). It does not converge there, see the module's text.
        diagonal: diagonal substitution in the inner products (False).
        gram_norm: c is ||A||_F ("frobenius", the authors' later paper), tr A = ||G||_F^2 ("trace", a public
            implementation; with ``diagonal`` the whitening almost vanishes for large m) or the mean of diag A
            ("correlation", ours, for the diagonal scheme: diag Y = 1; the full scheme explodes with it as soon as
            the largest singular value of G / sqrt(c) exceeds sqrt(3 + 1/beta)).
        eps: lower clamp of c (1e-8, ours).

    Returns:
        Shape and dtype of G, computed in float32 or float64 whatever the input or autocast.

    Raises:
        ValueError: steps < 1, beta outside (0, 1), eps <= 0, unknown gram_norm, G not (..., m, n) or not a real
            floating tensor.
    """
    check_whitening(steps, beta, gram_norm)
    check_real("eps", eps, 0.0, low_open=True)
    X = widen("G", G)
    if X.shape[-2] > X.shape[-1]:
        return grad_whitening(X.mT, steps, beta, diagonal, gram_norm, eps).mT.to(G.dtype)
    with full_precision(X):
        A = X @ X.mT  # (..., m, m)
        c = gram_size(A, gram_norm).clamp(min=eps)[..., None, None]
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        Y, Z = A / c, identity.expand_as(A)
        for _ in range(steps):
            if diagonal:
                y, z = Y.diagonal(dim1=-2, dim2=-1), Z.diagonal(dim1=-2, dim2=-1)  # (..., m)
                Y, Z = (
                    beta * Y * (3 - z * y).unsqueeze(-2),
                    beta * (3 * identity - z.unsqueeze(-1) * Y) * z.unsqueeze(-2),
                )
            else:
                T = -beta * (Z @ Y)
                T.diagonal(dim1=-2, dim2=-1).add_(3 * beta)  # beta (3 I - Z Y)
                Y, Z = Y @ T, T @ Z
        return ((Z / c.sqrt()) @ X).to(G.dtype)


def gram_size(A: Tensor, gram_norm: str) -> Tensor:
    """The scale c of the Gram matrices A (..., m, m), shape (...)."""
    if gram_norm == "frobenius":
        return A.square().sum((-2, -1)).sqrt()
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    return diagonal.sum(-1) if gram_norm == "trace" else diagonal.mean(-1)


def exact_whitening(G: Tensor, rtol: float = 1e-12) -> Tensor:
    """(G G^T)^{-1/2} G = U V^T from the singular value decomposition, on whichever side is short.

    Args:
        G: matrices (..., m, n).
        rtol: directions with s <= rtol * s_max are dropped (1e-12, ours); a zero matrix stays zero.

    Raises:
        ValueError: rtol < 0, G not (..., m, n) or not a real floating tensor.
    """
    check_real("rtol", rtol, 0.0)
    U, s, Vh = torch.linalg.svd(widen("G", G), full_matrices=False)  # (..., m, k), (..., k), (..., k, n)
    kept = (s > rtol * s.amax(-1, keepdim=True)).to(s.dtype)
    with full_precision(U):
        polar: Tensor = (U * kept.unsqueeze(-2)) @ Vh
    return polar.to(G.dtype)


def swan_update(
    G: Tensor,
    steps: int | None = None,
    beta: float | None = None,
    center: bool = True,
    diagonal: bool = False,
    rescale: bool = True,
    gram_norm: str | None = None,
    eps: float = 1e-8,
) -> Tensor:
    """SWAN's direction D: GradNorm, then GradWhitening, then rescaled to the norm before whitening.

    Args:
        G: gradients (..., m, n).
        steps: of grad_whitening; None: 10, or 2 when diagonal.
        beta: of grad_whitening; None: 0.8, or 0.4 when diagonal.
        center: of grad_norm.
        diagonal: of grad_whitening.
        rescale: D <- D ||N||_F / max(||D||_F, eps) (True): RMS 1, whatever beta does to the scale.
        gram_norm: of grad_whitening; None: "frobenius", or "correlation" when diagonal.
        eps: lower clamp of s_i, c and ||D||_F (1e-8, ours): a zero gradient gives exactly zero.

    Returns:
        D, shape and dtype of G, computed in at least float32.

    Raises:
        ValueError: an argument out of range, G not (..., m, n) or not a real floating tensor.

    Example:
        >>> D = swan_update(torch.randn(4, 9))
        >>> bool(torch.isclose(D.square().mean(), torch.tensor(1.0)))
        True
    """
    steps = (2 if diagonal else 10) if steps is None else steps
    beta = (0.4 if diagonal else 0.8) if beta is None else beta
    gram_norm = ("correlation" if diagonal else "frobenius") if gram_norm is None else gram_norm
    N = grad_norm(widen("G", G), center, eps)
    D = grad_whitening(N, steps, beta, diagonal, gram_norm, eps)
    if rescale:
        D = D * (frobenius(N) / frobenius(D).clamp(min=eps))
    return D.to(G.dtype)


def frobenius(X: Tensor) -> Tensor:
    """||X||_F, shape (..., 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    return size


def check_whitening(steps: object, beta: object, gram_norm: object) -> None:
    """Raise ValueError if an argument of grad_whitening is out of range."""
    check_integer("steps", steps, 1)
    check_real("beta", beta, 0.0, 1.0, low_open=True, high_open=True)
    check_choice("gram_norm", gram_norm, GRAM_NORMS)


class SWAN(MatrixOptimizer):
    """SWAN (algorithm 1): W <- W - eta alpha swan_update(G) for matrices, AdamW for everything else.

    Matrices keep no state. Embeddings, output head, norm gains and biases take AdamW with the global eta. Groups carry
    ``use_swan`` (``split_matrix_params`` sets it); without the flag parameters with ndim >= 2 are matrices. Weight
    decay is decoupled: W <- W (1 - eta alpha wd) first. The constructor's ``weight_decay`` concerns matrices; a
    fallback parameter decays, by 1 - eta wd, only if its own ``use_swan=False`` group gives ``weight_decay``.

    Centring along rows erases a matrix of one column; such a matrix takes AdamW even in a ``use_swan=True`` group.

    Args:
        params: parameters or param groups; N-d weights are read as (out, rest).
        lr: eta (1e-3, ours, for long runs; the paper's are not confirmed). A small network wants more: a digits
            network of 64-128-128-10 gets 53 % right after 150 steps at 1e-3 and 96 % at 0.05, where
            :func:`create_optimizer` starts.
        alpha: factor of eta for matrices (0.05, a public implementation).
        steps, beta, center, diagonal, rescale, gram_norm, eps: of :func:`swan_update`.
        norm_axis: "rows" (default, ours) standardises rows of the torch layout; "short" those of the orientation with
            the short side first, i.e. swan_update(G^T)^T for m > n, nothing new for m <= n.
        weight_decay: wd of the matrices (0, ours).
        betas: of the AdamW fallback (0.9, 0.999).
        adam_eps: of the AdamW fallback (1e-8).
        maximize: climb instead of descend: steps with the negative gradient. Default False.

    Raises:
        ValueError: lr < 0, alpha <= 0, steps < 1, beta outside (0, 1), eps <= 0, weight_decay < 0, betas outside
            [0, 1), unknown gram_norm or norm_axis, or a ``use_swan=True`` group with a parameter of ndim < 2.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> optimizer = SWAN(model.parameters(), lr=1e-2)
        >>> model(torch.randn(8, 6)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(tuple(p.shape) for p in optimizer.state)  # only the biases have state
        [(2,), (4,)]

    Reference: Ma, Gong, Scetbon, Meeds, "SWAN: SGD with Normalization and Whitening Enables Stateless LLM
        Training", arXiv 2412.13148, algorithms 1 to 3.
    """

    flag: ClassVar[str] = "use_swan"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.05,
        steps: int | None = None,
        beta: float | None = None,
        center: bool = True,
        diagonal: bool = False,
        rescale: bool = True,
        gram_norm: str | None = None,
        norm_axis: str = "rows",
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "steps": steps,
            "beta": beta,
            "center": center,
            "diagonal": diagonal,
            "rescale": rescale,
            "gram_norm": gram_norm,
            "norm_axis": norm_axis,
            "weight_decay": weight_decay,
            "eps": eps,
            "betas": betas,
            "adam_eps": adam_eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if a hyper-parameter of ``group`` is out of range."""
        check_rates(group["lr"], group["weight_decay"])
        check_real("alpha", group["alpha"], 0.0, math.inf, low_open=True, high_open=True)
        check_whitening(
            10 if group["steps"] is None else group["steps"],
            0.8 if group["beta"] is None else group["beta"],
            "frobenius" if group["gram_norm"] is None else group["gram_norm"],
        )
        check_choice("norm_axis", group["norm_axis"], NORM_AXES)
        check_real("eps", group["eps"], 0.0, math.inf, low_open=True, high_open=True)
        check_adam(group["betas"], group["adam_eps"])

    def is_matrix(self, p: Tensor, group: Mapping[str, Any]) -> bool:
        """Whether ``p`` of ``group`` takes SWAN's step: a matrix that centring does not erase."""
        if not super().is_matrix(p, group):
            return False
        m, n = matrix_shape(p)
        standardised = max(m, n) if group["norm_axis"] == "short" else n
        return not group["center"] or standardised > 1

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        """W <- W (1 - eta alpha wd) - eta alpha swan_update(G) on equal shapes at once."""
        G = batch.G  # (k, m, n)
        turned = group["norm_axis"] == "short" and G.shape[-2] > G.shape[-1]
        names = ("steps", "beta", "center", "diagonal", "rescale", "gram_norm", "eps")
        D = swan_update(G.mT if turned else G, **{name: group[name] for name in names})
        rate = learning_rate(group) * group["alpha"]
        add_to_parameters(batch.params, D.mT if turned else D, -rate, 1 - rate * group["weight_decay"])


class SWANFast(SWAN):
    """SWAN with the diagonal substitution (2 steps, beta 0.4, correlation scaling): O(m^2) work per inner step.

    The same arguments as :class:`SWAN` without ``diagonal``, which is True. On wide and tall matrices its update is
    even flatter than the full scheme's, because beta = 0.8 does not converge; on square ones the full scheme wins.
    It is meant for gradients that no few directions dominate: the digits network of :class:`SWAN` it leaves between
    chance and 35 % at every lr from 1e-3 to 1, for the following reason.

    It turns around gradients that a few directions dominate: where all rows of N are equally long (m <= n),
    two steps at beta 0.4 give Z = 0.96 I - 0.2048 Y, so a singular value of N above 2.165 times their root mean square
    changes its sign, and the step goes uphill. The full scheme keeps all signs.

    Reference: Ma, Gong, Scetbon, Meeds, "SWAN: SGD with Normalization and Whitening Enables Stateless LLM
        Training", arXiv 2412.13148, algorithm 1 with the diagonal substitution of public implementations.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.05,
        steps: int | None = None,
        beta: float | None = None,
        center: bool = True,
        rescale: bool = True,
        gram_norm: str | None = None,
        norm_axis: str = "rows",
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            steps=steps,
            beta=beta,
            center=center,
            diagonal=True,
            rescale=rescale,
            gram_norm=gram_norm,
            norm_axis=norm_axis,
            weight_decay=weight_decay,
            eps=eps,
            betas=betas,
            adam_eps=adam_eps,
            maximize=maximize,
        )
