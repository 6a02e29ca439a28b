r"""Feature maps of linear attention: the norm-aware one and the kernels it is compared with.

Each turns queries and keys [B, h, N, d] into features [B, h, N, m] whose inner products replace exp(q k).
Everything is computed in float32 (float64 stays), also under autocast.

====================================================  =============================================================
NaLaFormer, arXiv 2506.21137                            ``NormAwareFeatureMap``
elu(x) + 1, Katharopoulos et al., arXiv 2006.16236      ``elu1_features``
relu(x)                                                 ``relu_features``
exp(W x' - |x'|^2/2) / sqrt(m), Choromanski et al.,     ``performer_features``, ``orthogonal_projection``
arXiv 2009.14794 (FAVOR+), x' = x d^(-1/4)
focused map of FLatten, Han et al., arXiv 2308.00442    ``focused_features``
polarity-aware map of PolaFormer, Meng et al.,          ``pola_features``
arXiv 2501.15061
====================================================  =============================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "FEATURES",
    "NormAwareFeatureMap",
    "computing_dtype",
    "elu1_features",
    "focused_features",
    "orthogonal_projection",
    "performer_features",
    "pola_features",
    "relu_features",
]

Features = tuple[Tensor, Tensor]


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of ``tensors``, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _direction(x: Tensor) -> tuple[Tensor, Tensor]:
    """x / |x| and |x| over the last axis; 0 for x = 0."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.clamp_min(torch.finfo(x.dtype).tiny), norm


class NormAwareFeatureMap(nn.Module):
    r"""phi_q and phi_k of NaLaFormer: the query's norm is the exponent of its direction.

    With d(x) = x / |x| (0 for x = 0), p(r) = lam (tau + tanh r) and theta(x) = pi/4 tanh(alpha d(x)):

    - "cosine": phi_q = |d(q)|^{p(|q|)} [cos theta(q); sin theta(q)], phi_k = |k|^lam [cos theta(k); sin theta(k)], so
      phi_q phi_k = sum_i |d(q)_i|^p |k_i|^lam cos(theta_i(q) - theta_i(k)). Angles lie within pi/4, so every term is
      non-negative (single sine features are not), near full for equal signs and near 0 for opposite ones.
    - "sign" (official release): phi_q = [relu(d(q)); relu(-d(q))]^{p(|q|)}, phi_k = [relu(k)^lam; relu(-k)^lam]. Its
      inner products are the limit alpha -> infinity of the cosine form.

    A factor |q| would cancel in the normalisation; as an exponent it sharpens the row. No parameters, no buffers.

    Args:
        lam: power of keys and scale of the queries' power. Default 3 (all sources).
        tau: floor of the power, p in [lam tau, lam (tau + 1)). Default 0.5 (all sources). lam tau < 1 gives a zero
            coordinate of a short query an infinite gradient.
        alpha: steepness of the angle. Default 20 (implementation of arXiv v2). Unused by "sign".
        direction: "cosine" (default, the paper's form) or "sign".

    Raises:
        ValueError: lam, tau or alpha not positive and finite, unknown direction.

    Example:
        >>> phi = NormAwareFeatureMap()
        >>> e = torch.eye(4)
        >>> same, opposite = phi.query(e[0]) @ phi.key(e[0]), phi.query(e[0]) @ phi.key(-e[0])
        >>> round(same.item(), 6), opposite.item() < 1e-6
        (1.0, True)

    Reference: Meng et al. 2025 (NaLaFormer), arXiv 2506.21137, section 3.2 of its first version.
    """

    def __init__(
        self, lam: float = 3.0, tau: float = 0.5, alpha: float = 20.0, direction: str = "cosine"
    ) -> None:
        super().__init__()
        self.lam = check_real("lam", lam, 0, math.inf, low_open=True, high_open=True)
        self.tau = check_real("tau", tau, 0, math.inf, low_open=True, high_open=True)
        self.alpha = check_real("alpha", alpha, 0, math.inf, low_open=True, high_open=True)
        self.direction = check_choice("direction", direction, ("cosine", "sign"))

    def power(self, q_norm: Tensor) -> Tensor:
        """p(|q|) = lam (tau + tanh |q|), of the same shape."""
        return self.lam * (self.tau + torch.tanh(q_norm.to(computing_dtype(q_norm))))

    def query(self, q: Tensor) -> Tensor:
        """phi_q of q [..., d] -> [..., 2d]."""
        direction, norm = _direction(q.to(computing_dtype(q)))
        return self._features(direction, direction, self.power(norm))

    def key(self, k: Tensor) -> Tensor:
        """phi_k of k [..., d] -> [..., 2d]."""
        k = k.to(computing_dtype(k))
        return self._features(k, _direction(k)[0], self.lam)

    def _features(self, magnitude: Tensor, direction: Tensor, power: Tensor | float) -> Tensor:
        if self.direction == "sign":
            return torch.cat((magnitude.relu() ** power, (-magnitude).relu() ** power), dim=-1)
        theta = math.pi / 4 * torch.tanh(self.alpha * direction)
        raised = magnitude.abs() ** power
        return torch.cat((raised * theta.cos(), raised * theta.sin()), dim=-1)

    def forward(self, q: Tensor, k: Tensor) -> Features:
        """(phi_q(q), phi_k(k))."""
        return self.query(q), self.key(k)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"lam={self.lam:g}, tau={self.tau:g}, alpha={self.alpha:g}, direction={self.direction!r}"


# ------------------------------------------------------------------------------------------------- other kernels


def elu1_features(q: Tensor, k: Tensor) -> Features:
    """elu(x) + 1."""
    return F.elu(q) + 1, F.elu(k) + 1


def relu_features(q: Tensor, k: Tensor) -> Features:
    """relu(x); the query's norm cancels in the normalisation."""
    return q.relu(), k.relu()


def orthogonal_projection(
    num_features: int,
    dim: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Random W [num_features, dim]: rows orthogonal within blocks of ``dim``, lengths those of Gaussian vectors."""
    blocks = -(-num_features // dim)
    gaussian = torch.randn(blocks, dim, dim, generator=generator, device=device, dtype=dtype)
    Q, R = torch.linalg.qr(gaussian)
    # A QR with positive diagonal makes Q uniform over the orthogonal group.
    directions = (Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]).reshape(-1, dim)[:num_features]
    vectors = torch.randn(num_features, dim, generator=generator, device=device, dtype=dtype)
    out: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True) * directions
    return out


def performer_features(
    q: Tensor,
    k: Tensor,
    projection: Tensor | None = None,
    num_features: int | None = None,
    generator: torch.Generator | None = None,
) -> Features:
    """FAVOR+: exp(W x' - |x'|^2 / 2) / sqrt(m), x' = x d^(-1/4); unbiased for exp(q k / sqrt(d)).

    Raises:
        ValueError: projection not [m, d], both projection and num_features, num_features < 1.
    """
    d = q.shape[-1]
    if projection is None:
        m = max(1, int(d * math.log(d))) if num_features is None else num_features
        check_integer("num_features", m, 1)
        projection = orthogonal_projection(m, d, generator=generator, device=q.device, dtype=q.dtype)
    elif num_features is not None:
        raise ValueError(f"give projection or num_features, not both (num_features={num_features}).")
    elif projection.ndim != 2 or projection.shape[1] != d:
        raise ValueError(f"projection must have shape (m, {d}), got {tuple(projection.shape)}.")
    W = projection.to(q.dtype)

    def phi(x: Tensor) -> Tensor:
        x = x * d**-0.25
        features: Tensor = (x @ W.mT - x.square().sum(-1, keepdim=True) / 2).exp()
        return features / math.sqrt(W.shape[0])

    return phi(q), phi(k)


def _per_channel(name: str, parameter: Tensor | None, x: Tensor) -> Tensor:
    """A learned tensor [h, 1, d], zeros for None."""
    shape = (x.shape[1], 1, x.shape[3])
    if parameter is None:
        return x.new_zeros(shape)
    if parameter.shape != shape:
        raise ValueError(f"{name} must have shape (heads, 1, d) = {shape}, got {tuple(parameter.shape)}.")
    return parameter.to(x.dtype)


def focused_features(q: Tensor, k: Tensor, scale: Tensor | None = None, power: float = 3.0) -> Features:
    """FLatten's focused map: x = (relu(x) + 1e-6) / softplus(scale), raised to ``power`` at unchanged length.

    Lengths are taken per token over all heads together (its code).

    Raises:
        ValueError: scale not [h, 1, d], power not positive.
    """
    check_real("power", power, 0, math.inf, low_open=True, high_open=True)
    divisor = F.softplus(_per_channel("scale", scale, q))

    def phi(x: Tensor) -> Tensor:
        x = (x.relu() + 1e-6) / divisor
        # The power of entries near 1e-6 would underflow; the length is restored below, so any scale will do.
        y = (x / x.amax(dim=(1, 3), keepdim=True)) ** power
        return y * (_token_norm(x) / _token_norm(y))

    return phi(q), phi(k)


def _token_norm(x: Tensor) -> Tensor:
    """Length over heads and channels of x [B, h, N, d] -> [B, 1, N, 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 3), keepdim=True)
    return norm


def pola_features(
    q: Tensor,
    k: Tensor,
    scale: Tensor | None = None,
    power_logits: Tensor | None = None,
    path: str = "same",
) -> Features:
    """PolaFormer: x / softplus(scale), split by sign, each part raised to 1 + 4 sigmoid(power_logits).

    "same" is [q+; q-] against [k+; k-], "opposite" is [q-; q+] against [k+; k-].

    Raises:
        ValueError: scale or power_logits not [h, 1, d], unknown path.
    """
    check_choice("path", path, ("same", "opposite"))
    divisor = F.softplus(_per_channel("scale", scale, q))
    power = 1 + 4 * torch.sigmoid(_per_channel("power_logits", power_logits, q))
    q, k = q / divisor, k / divisor
    positive, negative = q.relu() ** power, (-q).relu() ** power
    phi_q = (positive, negative) if path == "same" else (negative, positive)
    return torch.cat(phi_q, dim=-1), torch.cat((k.relu() ** power, (-k).relu() ** power), dim=-1)


def _nala(direction: str) -> Callable[..., Features]:
    def features(q: Tensor, k: Tensor, lam: float = 3.0, tau: float = 0.5, alpha: float = 20.0) -> Features:
        phi = NormAwareFeatureMap(lam, tau, alpha, direction)
        return phi.query(q), phi.key(k)

    return features


FEATURES: Mapping[str, Callable[..., Features]] = {
    "elu1": elu1_features,
    "relu": relu_features,
    "performer": performer_features,
    "focused": focused_features,
    "pola": pola_features,
    "nala_cosine": _nala("cosine"),
    "nala_sign": _nala("sign"),
}
