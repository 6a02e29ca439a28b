"""LoRA as an arm of the page *Optimizer spectra*: the same training as the chain rule by hand on a dense network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from normviz.adapters import LoRALinear
from normviz.experiments.optimizer_spectra import Knobs
from normviz.experiments.optimizer_spectra.frames import WATCHED
from normviz.experiments.optimizer_spectra.lora import AdapterSpectrum, adapted, watched_adapter
from normviz.experiments.optimizer_spectra.optimizers import matrix_optimizer
from normviz.models import GPT, MLP, BilinearMap
from normviz.optim import split_matrix_params

LR, RANK = 0.05, 2


def network(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(5, (7, 6), 3).double()


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(steps)
    ]


def numpy_adam(x: np.ndarray, g: np.ndarray, state: dict[str, Any]) -> np.ndarray:
    state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g * g
    m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.999 ** state["t"])
    return x - LR * m / (np.sqrt(v) + 1e-8)


def test_training_and_records_equal_the_chain_rule_on_a_dense_network() -> None:
    model, dense = adapted(network(), RANK), network()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}
    assert list(layers) == ["blocks.0.linear", "blocks.1.linear"]
    matrices, rest = (group["params"] for group in split_matrix_params(model))
    assert [tuple(p.shape) for p in matrices] == [(2, 5), (7, 2), (2, 7), (6, 2)]
    assert sum(p.numel() for p in rest) == 7 + 6 + 3 * 6 + 3  # biases and the output layer
    optimizer = matrix_optimizer("lora", matrices, LR, Knobs())
    others = torch.optim.SGD(rest, 0.1)
    spectrum = AdapterSpectrum(optimizer, watched_adapter(model, "blocks.1.linear.weight"))

    start = {name: dense.get_submodule(name).weight.detach().numpy().copy() for name in layers}
    factors = {name: [x.detach().numpy().copy() for x in (m.lora_A, m.lora_B)] for name, m in layers.items()}
    states: dict[str, list[dict[str, Any]]] = {name: [{}, {}] for name in layers}
    dense_rest = [p for n, p in dense.named_parameters() if n.endswith("bias") or n.startswith("head")]
    for step, (x, y) in enumerate(batches(25)):
        spectrum.arm()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        others.step()
        model.zero_grad()

        before = dense.blocks[1].linear.weight.detach().clone()
        cross_entropy(dense(x), y).backward()
        with torch.no_grad():
            for p in dense_rest:
                p -= 0.1 * p.grad
            for name, (A, B) in factors.items():
                weight = dense.get_submodule(name).weight
                G = weight.grad.numpy().copy()
                if name == "blocks.1.linear":
                    probed = G
                A_next = numpy_adam(A, B.T @ G, states[name][0])
                factors[name] = [A_next, numpy_adam(B, G @ A.T, states[name][1])]
                weight.copy_(torch.from_numpy(start[name] + factors[name][1] @ factors[name][0]))
        dense.zero_grad()
        after = dense.blocks[1].linear.weight.detach()
        record = spectrum.read()["probed"]
        assert record.gradient is not None
        np.testing.assert_allclose(record.gradient.numpy(), probed, atol=1e-10, err_msg=str(step))
        np.testing.assert_allclose(record.update.numpy(), (before - after).numpy() / LR, atol=1e-8)
        assert int((record.singular_values() > 0).sum()) <= 2 * RANK
    for name, layer in layers.items():
        whole = layer.weight + layer.delta_weight()
        np.testing.assert_allclose(
            whole.detach().numpy(), dense.get_submodule(name).weight.detach().numpy(), atol=1e-9
        )


@pytest.mark.parametrize("matrix", ["tall", "square", "wide"])
def test_a_transformer_starts_as_it_was_and_trains_its_biases(matrix: str) -> None:
    torch.manual_seed(0)
    model = GPT(11, dim=8, num_layers=2, num_heads=2, max_length=6)
    tokens = torch.randint(11, (3, 6))
    before = model(tokens)
    trainable = {name for name, _ in model.named_parameters()}
    matrices = {id(p) for p in split_matrix_params(model)[0]["params"]}
    stepped = {name for name, p in model.named_parameters() if id(p) in matrices}
    with_adapters = adapted(model, 3)
    torch.testing.assert_close(with_adapters(tokens), before)
    names = {name for name, _ in with_adapters.named_parameters()}
    assert trainable - stepped < names
    assert names - trainable == {
        name.replace("weight", factor) for name in stepped for factor in ("lora_A", "lora_B")
    }
    assert watched_adapter(with_adapters, WATCHED["language"][matrix]).r == 3


def test_the_matrix_equation_has_one_adapter() -> None:
    generator = torch.Generator().manual_seed(2)
    base = BilinearMap(4, 3, std=1.0).double()
    A, B = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (4, 3))
    model = adapted(base, 2)
    torch.testing.assert_close(model(A, B), base(A, B))
    layer = watched_adapter(model, "weight")
    with torch.no_grad():
        layer.lora_B.normal_(generator=generator)
    changed = base.weight + layer.lora_B @ layer.lora_A
    torch.testing.assert_close(model(A, B), A @ changed @ B)
    spectrum = AdapterSpectrum(torch.optim.SGD(layer.parameters(), 0.1), layer)
    spectrum.arm()
    model(A, B).square().sum().backward()
    assert spectrum._gradient is not None
    torch.testing.assert_close(spectrum._gradient, (2 * A.T @ A @ changed @ B @ B.T).detach())
