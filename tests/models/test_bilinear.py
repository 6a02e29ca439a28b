"""The bilinear map against NumPy: product, gradient, and the Hessian of the squared error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normviz.models import BilinearMap


def test_product_and_gradient_equal_numpys() -> None:
    rng = np.random.default_rng(0)
    A, B, C = (torch.tensor(rng.normal(size=shape)) for shape in ((4, 3), (2, 5), (4, 5)))
    torch.manual_seed(0)
    net = BilinearMap(3, 2, std=1.0).double()
    W = net.weight.detach().numpy()
    residual = np.zeros((4, 5))
    for i in range(4):
        for j in range(5):
            residual[i, j] = sum(A[i, k] * W[k, p] * B[p, j] for k in range(3) for p in range(2)) - C[i, j]
    net(A, B).sub(C).square().sum().backward()
    np.testing.assert_allclose(net(A, B).detach().numpy() - C.numpy(), residual, atol=1e-12)
    assert net.weight.grad is not None
    np.testing.assert_allclose(net.weight.grad.numpy(), 2 * A.numpy().T @ residual @ B.numpy().T, atol=1e-12)


def test_condition_number_of_the_hessian() -> None:
    A, B = torch.diag(torch.tensor([1.0, 0.1])).double(), torch.diag(torch.tensor([1.0, 0.5, 0.25])).double()
    net = BilinearMap(2, 3).double()
    hessian = torch.autograd.functional.hessian(
        lambda W: torch.func.functional_call(net, {"weight": W}, (A, B)).square().sum(), net.weight.detach()
    )
    assert torch.linalg.cond(hessian.reshape(6, 6)).item() == pytest.approx((10 * 4) ** 2)


def test_it_starts_from_zero_unless_told() -> None:
    assert not BilinearMap(2, 3).weight.any()
    torch.manual_seed(0)
    assert BilinearMap(300, 200, std=0.5).weight.std().item() == pytest.approx(0.5, rel=0.02)
    for options in ({"m": 0}, {"n": 0}, {"std": -1.0}, {"std": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BilinearMap(**{"m": 2, "n": 3, **options})
