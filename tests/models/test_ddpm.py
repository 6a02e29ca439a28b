"""The diffusion process against closed forms: Gaussian data, for which the best denoiser is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from normviz.models import DDPM, FiLMDenoiser


def process(variance: str = "beta", **options: float) -> DDPM:
    return DDPM(
        **{"steps": 12, "beta_start": 0.01, "beta_end": 0.4, "variance": variance, **options}
    ).double()


def linspace(steps: int = 12, start: float = 0.01, end: float = 0.4) -> list[float]:
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]


def test_noise_added_step_by_step() -> None:
    """x_t of equation (4) has the mean and variance of t + 1 single steps sqrt(1 - beta) x + sqrt(beta) z."""
    ddpm, x0, eps = process(), torch.randn(2, 3).double(), torch.randn(2, 3).double()
    mean, variance = 1.0, 0.0
    for i, beta in enumerate(linspace()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        expected = mean * x0 + math.sqrt(variance) * eps
        torch.testing.assert_close(
            ddpm.add_noise(x0, torch.full((2,), i), eps), expected, rtol=1e-6, atol=1e-6
        )
    mixed = ddpm.add_noise(x0, torch.tensor([0, 11]), eps)
    torch.testing.assert_close(mixed[1], ddpm.add_noise(x0, torch.tensor(11), eps)[1])


def test_loss_equals_numpy() -> None:
    ddpm, x0, eps, t = (
        process(),
        torch.randn(4, 3).double(),
        torch.randn(4, 3).double(),
        torch.tensor([0, 5, 11, 5]),
    )

    def denoise(x: Tensor, times: Tensor) -> Tensor:
        return 0.3 * x + times[..., None]

    total = 0.0
    for row, noise, time in zip(x0.numpy(), eps.numpy(), t.tolist(), strict=True):
        abar = math.prod(1 - beta for beta in linspace()[: time + 1])
        xt = math.sqrt(abar) * row + math.sqrt(1 - abar) * noise
        total += ((0.3 * xt + time - noise) ** 2).sum() / 12
    assert float(ddpm.loss(denoise, x0, t, eps)) == pytest.approx(total, rel=1e-6)


def test_sampling_standard_normal_data() -> None:
    """For data N(0, 1) the best denoiser is sqrt(1 - abar) x, and a step is sqrt(1 - beta) x + sqrt(beta) z."""
    ddpm, start, noise = process(), torch.randn(5, 2).double(), torch.randn(12, 5, 2).double()
    x = start.numpy()
    for i in reversed(range(12)):
        beta = linspace()[i]
        x = math.sqrt(1 - beta) * x + (math.sqrt(beta) * noise[i].numpy() if i else 0)
    sample = ddpm.sample(lambda y, t: (1 - ddpm.alphas_bar[t]).sqrt() * y, start, noise)
    np.testing.assert_allclose(sample, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_sampling_a_single_point_ends_there(variance: str) -> None:
    """For data at one point the best denoiser knows the noise; whatever was drawn, the last step removes it."""
    ddpm, point = process(variance), torch.tensor([2.0, -1.0]).double()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        abar = ddpm.alphas_bar[t]
        return (x - abar.sqrt() * point) / (1 - abar).sqrt()

    sample = ddpm.sample(denoise, torch.randn(5, 2).double(), torch.randn(12, 5, 2).double())
    torch.testing.assert_close(sample, point.expand(5, 2), rtol=1e-5, atol=1e-5)


def test_sigmas() -> None:
    betas = linspace()
    abar = np.cumprod(1 - np.array(betas))
    posterior = [0, *((1 - abar[i - 1]) / (1 - abar[i]) * betas[i] for i in range(1, 12))]
    np.testing.assert_allclose(process("posterior").sigmas ** 2, posterior, rtol=1e-5)
    np.testing.assert_allclose(process().sigmas ** 2, [0, *betas[1:]], rtol=1e-5)
    assert float(DDPM().alphas_bar[-1]) == pytest.approx(0.0413, abs=1e-4)


def test_a_network_samples_stacked_as_in_a_loop_and_compiled() -> None:
    torch.manual_seed(0)
    ddpm, net = DDPM(steps=5), FiLMDenoiser(2, [7, 6], token_features=5, time_features=4)
    tokens, start, noise = torch.randn(3, 5), torch.randn(3, 4, 2), torch.randn(3, 5, 4, 2)

    def draw(token: Tensor, x: Tensor, z: Tensor) -> Tensor:
        return ddpm.sample(lambda y, t: net(y, t, token), x, z)

    with torch.no_grad():
        stacked = vmap(draw)(tokens, start, noise)
        for i in range(3):
            torch.testing.assert_close(stacked[i], draw(tokens[i], start[i], noise[i]), rtol=1e-4, atol=1e-5)
        torch.compiler.reset()
        compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(tokens[0], start[0], noise[0]), stacked[0], rtol=1e-4, atol=1e-5)
    assert list(ddpm.parameters()) == []
    assert isinstance(ddpm, nn.Module)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": 1}, "steps"),
        ({"beta_start": 0.0}, "beta_start"),
        ({"beta_end": 1.0}, "beta_end"),
        ({"beta_end": "0.1"}, "beta_end"),
        ({"variance": "learned"}, "'posterior'"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DDPM(**arguments)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must have shape \(40, 3, 2\)"):
        DDPM().sample(lambda x, t: x, torch.zeros(3, 2), torch.zeros(39, 3, 2))
