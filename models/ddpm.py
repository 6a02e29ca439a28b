r"""Denoising diffusion in T steps: how noise is added, what is learned, how a sample is drawn.

Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239. Times count from 0 to T - 1:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps            abar_t = prod_{s <= t} (1 - beta_s)      (4)
    loss = mean ||eps - eps_theta(x_t, t)||^2                                                         (14)
    x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) eps_theta) / sqrt(1 - beta_t) + sigma_t z              (algorithm 2)

with sigma_t^2 = beta_t, or the posterior's ``(1 - abar_{t-1}) / (1 - abar_t) beta_t``; no noise in the last step. The
paper has T = 1000 with beta from 1e-4 to 0.02. Forty steps are enough for a few dimensions if beta grows to 0.15:
abar ends at 0.04.

All noise is an argument, so that networks can be compared on the same noise, and stacked ones run under ``vmap``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normviz.models import _checks

__all__ = ["DDPM"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [..., d], t [] or [...]) -> the noise in it [..., d]."""

VARIANCES = ("beta", "posterior")


def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """values[t] [..., 1] in the dtype of ``like``."""
    # Indexing by a tensor without axes would read it, which neither vmap nor the compiler allows.
    return values[t.reshape(-1)].reshape(*t.shape, 1).to(like.dtype)


class DDPM(nn.Module):
    """The process of arXiv 2006.11239 with T linearly spaced betas. It has no parameters.

    Args:
        steps: T, >= 2. Default 40.
        beta_start: beta_0, in (0, 1). Default 1e-3.
        beta_end: beta_{T-1}, in (0, 1). Default 0.15.
        variance: sigma_t^2: "beta" (default) or "posterior"; the paper reports similar results.

    Attributes:
        betas, alphas_bar, sigmas: buffers [T].

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> process = DDPM()
        >>> start, noise = torch.zeros(3, 2), torch.zeros(40, 3, 2)
        >>> process.sample(lambda x, t: torch.zeros_like(x), start, noise).shape
        torch.Size([3, 2])
    """

    betas: Tensor
    alphas_bar: Tensor
    sigmas: Tensor

    def __init__(
        self, steps: int = 40, beta_start: float = 1e-3, beta_end: float = 0.15, *, variance: str = "beta"
    ) -> None:
        super().__init__()
        self.steps = _checks.size("steps", steps, 2)
        for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0 < _checks.real(name, beta) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {beta!r}.")
        self.variance = _checks.choice("variance", variance, VARIANCES)
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        alphas_bar = (1 - betas).cumprod(0)
        before = torch.cat((alphas_bar.new_ones(1), alphas_bar[:-1]))
        variances = betas if variance == "beta" else (1 - before) / (1 - alphas_bar) * betas
        sigmas = variances.sqrt()
        sigmas[0] = 0
        for name, value in (("betas", betas), ("alphas_bar", alphas_bar), ("sigmas", sigmas)):
            self.register_buffer(name, value.to(torch.get_default_dtype()))

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t [..., d] for x_0 and eps [..., d] and integer times t [...], equation (4)."""
        abar = _at(self.alphas_bar, t, x0)
        return abar.sqrt() * x0 + (1 - abar).sqrt() * eps

    def loss(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The mean squared error of the predicted noise, equation (14), over all entries."""
        return (denoise(self.add_noise(x0, t, eps), t) - eps).square().mean()

    def step_back(self, x: Tensor, t: Tensor, eps: Tensor, z: Tensor) -> Tensor:
        """x_{t-1} [..., d] from x_t, the predicted noise eps and fresh noise z [..., d], at times t [] or [...]."""
        beta, abar, sigma = (_at(b, t, x) for b in (self.betas, self.alphas_bar, self.sigmas))
        return (x - beta / (1 - abar).sqrt() * eps) / (1 - beta).sqrt() + sigma * z

    def sample(self, denoise: Denoiser, start: Tensor, noise: Tensor) -> Tensor:
        """A sample [..., d] from x_T = start [..., d], algorithm 2.

        Args:
            denoise: (x, t []) -> predicted noise.
            start: N(0, 1), [..., d].
            noise: z of the steps, N(0, 1), [T, ..., d]; noise[t] is used at time t, and noise[0] has no effect.

        Raises:
            ValueError: noise of another shape.
        """
        if noise.shape != (self.steps, *start.shape):
            wanted = (self.steps, *start.shape)
            raise ValueError(f"noise must have shape {wanted}, got {tuple(noise.shape)}.")
        x = start
        for i in reversed(range(self.steps)):
            t = torch.full((), i, device=start.device)
            x = self.step_back(x, t, denoise(x, t), noise[i])
        return x

    def extra_repr(self) -> str:
        """The number of steps and the variance."""
        return f"steps={self.steps}, variance={self.variance!r}"
