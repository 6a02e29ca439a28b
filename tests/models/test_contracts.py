"""What every network must do: start equal whatever the norm, run under vmap and compile, be saved and copied."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from normviz import models
from tests.models.cases import CASES, WITHOUT_NORM, Case

ALL = CASES | WITHOUT_NORM


def make(case: Case, seed: int = 0, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return case.build(case.norm if norm else None)


def own_weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in net.state_dict().items() if "norm" not in name}


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_output_shape_and_finite_gradients(case: Case) -> None:
    net = make(case)
    out = net(case.inputs())
    assert out.shape == case.output
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_start_whatever_the_norm(case: Case) -> None:
    with_norm, random_after_norm = own_weights(make(case)), torch.rand(3)
    without, random_after = own_weights(make(case, norm=False)), torch.rand(3)
    assert with_norm.keys() == without.keys()
    for name, weight in with_norm.items():
        assert torch.equal(weight, without[name]), name
    assert torch.equal(random_after_norm, random_after)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_seed_decides_everything(case: Case) -> None:
    first, again, other = make(case, 1), make(case, 1), make(case, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    weights = [(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.ndim > 1]
    assert weights
    assert all(not torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_vmap_over_stacked_members_equals_loop(case: Case) -> None:
    members = [make(case, seed).train() for seed in range(3)]
    params, buffers = stack_module_state(members)
    torch.manual_seed(9)
    xs = torch.stack([case.inputs() for _ in members])

    def loss(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(members[0], (p, b), (x,)).square().mean()

    grads, losses = vmap(grad_and_value(loss))(params, buffers, xs)
    for i, member in enumerate(members):
        value = member(xs[i]).square().mean()
        value.backward()
        torch.testing.assert_close(losses[i], value.detach(), rtol=1e-5, atol=1e-6)
        for name, p in member.named_parameters():
            torch.testing.assert_close(grads[name][i], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_compiled_equals_eager(case: Case) -> None:
    torch.compiler.reset()
    net = make(case).eval()
    x = case.inputs()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_state_dict_and_copies(case: Case) -> None:
    net, other = make(case, 0).eval(), make(case, 1).eval()
    x = case.inputs()
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))
    assert torch.equal(net(x), copy.deepcopy(net)(x))


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_second_derivatives_exist(case: Case) -> None:
    """Curvature probes need Hessian-vector products of every network."""
    net = make(case).double().eval()
    x = case.inputs()
    weight = next(p for p in net.parameters() if p.ndim > 1)
    loss = net(x.double() if x.is_floating_point() else x).square().mean()
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    (product,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert product.isfinite().all()
    assert product.abs().sum() > 0


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_double_keeps_dtype(case: Case) -> None:
    x = case.inputs()
    out = make(case).double()(x.double() if x.is_floating_point() else x)
    assert out.dtype == torch.float64


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_autocast_runs(case: Case) -> None:
    net = make(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(case.inputs())
    assert out.isfinite().all()


def test_default_device_is_respected() -> None:
    with torch.device("meta"):
        net = models.MLP(3, [4], 2)
    assert all(p.is_meta for p in net.parameters())


def test_networks_import_only_torch() -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    for path in Path(models.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            foreign = {name.split(".")[0] for name in names if not name.startswith("normviz.models")}
            assert foreign <= allowed, path.name


def test_all_names_are_exported() -> None:
    assert list(models.__all__) == sorted(models.__all__, key=lambda s: (not s.isupper(), s))
    for name in models.__all__:
        assert hasattr(models, name)
