"""Agreement with peft, where it is installed: starts of adapters, scaling, outputs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import CovarianceCollector, LoRALinear, apply_corda

peft = pytest.importorskip("peft")


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))


def samples() -> Tensor:
    """[samples, 1, tokens, in]; peft takes one sample per forward."""
    return torch.randn(12, 1, 20, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
@pytest.mark.parametrize("alpha", [2, 6])
def test_corda(mode: str, alpha: int) -> None:
    from peft.tuners.lora.corda import preprocess_corda

    base, x = model_of(), samples()
    with CovarianceCollector(base) as collector:
        for sample in x:
            base(sample)
    ours = apply_corda(copy.deepcopy(base), collector.covariances(), 2, mode, alpha)

    config = peft.LoraConfig(
        init_lora_weights="corda",
        target_modules=["0", "2"],
        r=2,
        lora_alpha=alpha,
        corda_config=peft.tuners.lora.config.CordaConfig(corda_method=mode),
    )
    theirs = copy.deepcopy(base)
    preprocess_corda(theirs, config, run_model=lambda: [theirs(sample) for sample in x])
    theirs = peft.get_peft_model(theirs, config)
    for name in ("0", "2"):
        mine, other = ours.get_submodule(name), theirs.base_model.model.get_submodule(name)
        assert isinstance(mine, LoRALinear)
        assert mine.scaling == other.scaling["default"] == alpha / 2
        delta = other.scaling["default"] * other.lora_B["default"].weight @ other.lora_A["default"].weight
        torch.testing.assert_close(mine.delta_weight(), delta, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(mine.weight, other.base_layer.weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x[0]), base(x[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["lora", "pissa"])
def test_lora_and_pissa(init: str) -> None:
    base, x = nn.Linear(6, 8), torch.randn(4, 6)
    theirs = peft.get_peft_model(
        nn.Sequential(copy.deepcopy(base)),
        peft.LoraConfig(init_lora_weights=init == "lora" or init, target_modules=["0"], r=3, lora_alpha=6),
    )
    other = theirs.base_model.model.get_submodule("0")
    mine = LoRALinear(base, 3, 6, init)
    assert mine.scaling == other.scaling["default"]
    if init == "lora":
        assert not other.lora_B["default"].weight.any()
        assert float(other.lora_A["default"].weight.detach().abs().max()) <= 1 / math.sqrt(6)
        with torch.no_grad():
            mine.lora_A.copy_(other.lora_A["default"].weight)
            for B in (mine.lora_B, other.lora_B["default"].weight):
                B.copy_(torch.arange(24.0).reshape(8, 3) / 24)
    delta = other.scaling["default"] * other.lora_B["default"].weight @ other.lora_A["default"].weight
    torch.testing.assert_close(mine.delta_weight(), delta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.weight, other.base_layer.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)
