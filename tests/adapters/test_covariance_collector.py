"""What the collector sums, counts, refuses and leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import CovarianceCollector


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 3))


def by_samples(samples: list[np.ndarray], normalize: bool = True) -> np.ndarray:
    total = np.zeros((samples[0].shape[1],) * 2)
    for x in samples:
        if normalize:
            x = x / abs(x.max())
        for token in x:
            total += np.outer(token, token)
    return total / len(samples)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("normalize", [True, False])
def test_check_11_sum_over_samples(dtype: torch.dtype, rtol: float, normalize: bool) -> None:
    model, x = model_of(), randn(5, 1, 8, 4)
    with CovarianceCollector(model, normalize=normalize, dtype=dtype) as collector:
        for sample in x:
            model(sample)
    found = collector.covariances()
    assert set(found) == {"0", "2"}
    assert collector.counts == {"0": 5, "2": 5}
    assert found["0"].dtype == dtype
    expected = by_samples([s[0].double().numpy() for s in x], normalize)
    np.testing.assert_allclose(found["0"], expected, rtol=0, atol=rtol * np.abs(expected).max())
    hidden = [torch.tanh(model[0](s[0])).detach().double().numpy() for s in x]
    expected = by_samples(hidden, normalize)
    np.testing.assert_allclose(found["2"], expected, rtol=0, atol=max(rtol, 1e-6) * np.abs(expected).max())


def test_the_maximum_is_signed() -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    with CovarianceCollector(layer) as collector:
        layer(torch.tensor([[-8.0, 2.0], [-1.0, 1.0]]))
    assert collector.covariances()["0"].tolist() == [[16.25, -4.25], [-4.25, 1.25]]


def test_batches_count_their_samples_and_use_their_own_maxima() -> None:
    model, x = model_of(), randn(2, 3, 5, 4)
    with CovarianceCollector(model, ["0"], dtype=torch.float64) as together:
        model(x)
    with CovarianceCollector(model, ["0"], dtype=torch.float64) as alone:
        for sample in x.flatten(0, 1):
            model(sample)
    assert together.counts == alone.counts == {"0": 6}
    torch.testing.assert_close(together.covariances()["0"], alone.covariances()["0"], rtol=1e-13, atol=0)
    with CovarianceCollector(model, ["0"], normalize=False) as vector:
        model(x[0, 0, 0])
    torch.testing.assert_close(vector.covariances()["0"], torch.outer(x[0, 0, 0], x[0, 0, 0]))
    assert vector.counts == {"0": 1}


def test_a_module_used_twice_counts_twice_and_keyword_inputs_are_seen() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=self.layer(x))

    model = Twice()
    with CovarianceCollector(model, normalize=False) as collector:
        model(randn(3, 4))
    assert collector.counts == {"layer": 2}


def test_entered_again_goes_on() -> None:
    model, x = model_of(), randn(2, 5, 4)
    collector = CovarianceCollector(model, ["0"], dtype=torch.float64)
    assert collector.counts == {"0": 0}
    with pytest.raises(ValueError, match="'0' was never called"):
        collector.covariances()
    with collector:
        model(x[0])
        inside = collector.covariances()["0"]
    model(x[1])
    assert collector.counts == {"0": 1}
    with collector as same:
        assert same is collector
        model(x[1])
        with pytest.raises(RuntimeError, match="already collecting"), collector:
            pass
    assert collector.counts == {"0": 2}
    expected = by_samples([s.double().numpy() for s in x])
    np.testing.assert_allclose(collector.covariances()["0"], expected, rtol=1e-12)
    np.testing.assert_allclose(inside, by_samples([x[0].double().numpy()]), rtol=1e-12)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_hooks_are_restored(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[2].eval()
    flags = [module.training for module in model.modules()]
    try:
        with CovarianceCollector(model, normalize=False):
            assert not any(module.training for module in model.modules())
            model(randn(5, 4))
            if fails:
                raise KeyError("something else")
    except KeyError:
        assert fails
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_autocast_and_half_inputs_do_not_round_the_sums() -> None:
    model, x = model_of(), randn(1, 50, 4)
    with CovarianceCollector(model, ["0"]) as plain:
        model(x)
    with CovarianceCollector(model, ["0"]) as mixed, torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    torch.testing.assert_close(mixed.covariances(), plain.covariances(), rtol=1e-6, atol=1e-6)
    with CovarianceCollector(model.bfloat16(), ["0"]) as half:
        model(x.bfloat16())
    assert half.covariances()["0"].dtype == torch.float32
    expected = by_samples([x[0].bfloat16().double().numpy()])
    np.testing.assert_allclose(half.covariances()["0"], expected, rtol=1e-5, atol=1e-5)


def test_refusals_name_the_layer() -> None:
    model = model_of()
    for targets, named in ((["0", "9"], "'9'"), (["1"], "'1'"), ([""], "''")):
        with pytest.raises(ValueError, match=rf"^targets must .*{named}"):
            CovarianceCollector(model, targets)
    with pytest.raises(ValueError, match=r"^dtype must"):
        CovarianceCollector(model, dtype=torch.int64)
    for x, message in (
        (torch.full((3, 4), float("nan")), "not finite"),
        (-torch.rand(2, 3, 4) * torch.tensor([1.0, 0, 1, 1]), "maximum is 0"),
        (torch.zeros(3, 4), "maximum is 0"),
        (torch.zeros(0, 4), "without tokens"),
    ):
        with (
            CovarianceCollector(model) as collector,
            pytest.raises(ValueError, match=rf"layer '0'.*{message}"),
        ):
            model(x)
        assert collector.counts == {"0": 0, "2": 0}
    with CovarianceCollector(model, normalize=False) as collector:
        model(torch.zeros(3, 4))
        with pytest.raises(ValueError, match=r"covariance of layer '0' is not finite"):
            model(torch.full((3, 4), 1e30))
    assert not collector.covariances()["0"].any()


def test_an_unknown_target_comes_with_the_nearest_names() -> None:
    model = nn.ModuleDict({"query": nn.Linear(2, 2), "value": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"'quary', which is unknown\. Nearest: query\."):
        CovarianceCollector(model, ["quary"])
