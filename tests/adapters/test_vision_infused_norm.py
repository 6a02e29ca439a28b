"""The vision-infused norm: the host's norm at the start, its formula, its cache, its context."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import ViLN, inject_lavi, vision_context
from tests.adapters import lavi_formulas as formulas

B, T, M, D, V, R = 3, 4, 5, 8, 6, 4
KINDS = {"attention": {}, "mlp": {"num_visual_tokens": M}, "conv": {"kernel_size": 3}, "pooled": {}}
HOSTS = {
    "layer": lambda: nn.LayerNorm(D),
    "rms": lambda: nn.RMSNorm(D, eps=1e-5),
    "rms-none": lambda: nn.RMSNorm(D),
    "layer-no-bias": lambda: nn.LayerNorm(D, bias=False),
    "layer-plain": lambda: nn.LayerNorm(D, elementwise_affine=False),
    "rms-plain": lambda: nn.RMSNorm(D, eps=1e-5, elementwise_affine=False),
}


def host_of(name: str) -> nn.Module:
    torch.manual_seed(2)
    norm = HOSTS[name]()
    with torch.no_grad():
        for p in norm.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return norm


def made(kind: str = "attention", host: str = "layer", zero_init: bool = False, **options) -> ViLN:
    torch.manual_seed(0)
    given = {"num_heads": 2, "zero_init": zero_init, **KINDS[kind], **options}
    return ViLN(host_of(host), D, R, V, kind, **given)


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(B, T, D, generator=g).to(dtype), torch.randn(B, M, V, generator=g).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_check_1_at_the_start_it_is_the_hosts_norm(kind: str, host: str, dtype: torch.dtype) -> None:
    norm = host_of(host).to(dtype)
    expected = copy.deepcopy(norm)
    layer = ViLN(norm, D, R, V, kind, num_heads=2, **KINDS[kind]).to(dtype)
    t, vision = drawn(dtype)
    out, dgamma, dbeta = layer(t, vision, return_delta=True)
    assert torch.equal(out, expected(t))
    assert torch.equal(layer.base(t), expected(t))
    assert out.dtype == dgamma.dtype == dbeta.dtype == dtype
    assert not dgamma.any()
    assert not dbeta.any()


def read_by(kind: str, w: formulas.Weights, u: np.ndarray, image: np.ndarray) -> np.ndarray:
    if kind == "attention":
        return formulas.attention(w, u, image, 2)
    return formulas.pooled(w, image) if kind == "pooled" else getattr(formulas, kind)(w, u, image)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_token_by_token(kind: str, host: str) -> None:
    layer = made(kind, host).double()
    t, vision = drawn(torch.float64)
    out, dgamma, dbeta = layer(t, vision, return_delta=True)
    w = formulas.weights_of(layer)
    inner = formulas.weights_of(layer.conditioner)
    rms = host.startswith("rms")
    eps = np.finfo(np.float64).eps if host == "rms-none" else 1e-5
    for b in range(B):
        for i in range(T):
            token, image = t[b, i].numpy(), vision[b].numpy()
            plain = formulas.rms_norm(token, eps=eps) if rms else formulas.layer_norm(token)
            u = w.get("weight", 1.0) * plain + w.get("bias", 0.0)
            read = read_by(kind, inner, u, image)
            expected = formulas.modulated(w, token, read, rms, eps)
            for mine, theirs in zip((out, dgamma, dbeta), expected, strict=True):
                np.testing.assert_allclose(mine[b, i].detach().numpy(), theirs, rtol=1e-10, atol=1e-12)
    assert torch.equal(layer(t, vision), out)


@pytest.mark.parametrize("modulate", ["both", "scale", "shift"])
@pytest.mark.parametrize("host", ["layer", "rms", "layer-plain"])
def test_check_2_deltas_are_added_and_can_be_switched_off(host: str, modulate: str) -> None:
    layer = made("attention", host, modulate=modulate).double()
    t, vision = drawn(torch.float64)
    out, dgamma, dbeta = layer(t, vision, return_delta=True)
    plain = formulas.rms_norm(t.numpy()) if host == "rms" else formulas.layer_norm(t.numpy())
    expected = layer.base(t) + dgamma * torch.from_numpy(plain) + dbeta
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert bool(dgamma.any()) == (modulate != "shift")
    assert bool(dbeta.any()) == (modulate != "scale")
    assert layer.head.weight.shape == (2 * D, R)
    out.sum().backward()
    used = slice(0, D) if modulate == "scale" else slice(D, None) if modulate == "shift" else slice(None)
    idle = torch.ones(2 * D, dtype=torch.bool)
    idle[used] = False
    assert not layer.head.weight.grad[idle].any()
    assert layer.head.bias.grad[used].any()


@pytest.mark.parametrize("kind", KINDS)
def test_check_3_tokens_are_modulated_one_by_one(kind: str) -> None:
    layer = made(kind).double()
    t, vision = drawn(torch.float64)
    out, dgamma, _ = layer(t, vision, return_delta=True)
    moved = t.clone()
    moved[:, 2] += torch.linspace(-1, 1, D, dtype=torch.float64)
    change = (layer(moved, vision) - out).abs().amax((0, 2))
    assert change[2] > 1e-3
    assert torch.equal(change[[0, 1, 3]], torch.zeros(3, dtype=torch.float64))
    other = vision.clone()
    other[:, 1] += 1
    assert ((layer(t, other) - out).abs().amax((0, 2)) > 1e-6).all()
    between = (dgamma[:, 1:] - dgamma[:, :1]).abs().max()
    assert between == 0 if kind == "pooled" else between > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_check_7_gradients(kind: str) -> None:
    layer = made(kind, "rms" if kind == "conv" else "layer").double()
    names = [name for name, _ in layer.named_parameters()]
    mask = torch.tensor([[True, True, False, True, True]])

    def call(t: Tensor, vision: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (t, vision, mask))

    t, vision = drawn(torch.float64)
    given = (t[:1, :2].clone().requires_grad_(), vision[:1].clone().requires_grad_())
    assert torch.autograd.gradcheck(call, (*given, *layer.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_check_7_the_first_step_moves_the_head_alone(kind: str) -> None:
    layer = made(kind, zero_init=True)
    layer(*drawn()).square().sum().backward()
    assert layer.head.weight.grad.abs().max() > 1e-3
    assert layer.head.bias.grad.abs().max() > 1e-3
    assert not any(p.grad.any() for p in layer.conditioner.parameters())
    with torch.no_grad():
        for p in layer.parameters():
            p.sub_(0.1 * p.grad)
    layer.zero_grad()
    layer(*drawn()).square().sum().backward()
    assert any(p.grad.any() for p in layer.conditioner.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_the_hosts_norm(kind: str) -> None:
    layer = made(kind)
    t, vision = drawn()
    for seen in (None, vision[:, :0], layer.precompute(None), layer.precompute(vision[:, :0])):
        out, dgamma, dbeta = layer(t, seen, return_delta=True)
        assert torch.equal(out, layer.base(t))
        assert torch.equal(layer(t, seen), out)
        assert dgamma.shape == dbeta.shape == t.shape
        assert not dgamma.any()
        assert not dbeta.any()
    assert torch.equal(layer(t, vision[:, :0], torch.ones(B, 0, dtype=torch.bool)), layer.base(t))
    assert torch.equal(layer(t[0, 0]), layer.base(t[0, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_a_valid_token_is_the_hosts_norm(kind: str) -> None:
    layer = made(kind)
    t, vision = drawn()
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[1] = False
    t.requires_grad_()
    vision.requires_grad_()
    out, dgamma, dbeta = layer(t, vision, mask, return_delta=True)
    assert torch.equal(out[1], layer.base(t)[1])
    assert not dgamma[1].any()
    assert not dbeta[1].any()
    assert (dgamma[0].abs().amax(-1) > 0).all()
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert t.grad.isfinite().all()
    assert not vision.grad[1].any()


def test_a_text_token_without_a_valid_token_is_the_hosts_norm() -> None:
    layer = made()
    t, vision = drawn()
    mask = torch.ones(B, T, M, dtype=torch.bool)
    mask[0, 1] = mask[2, 3] = False
    vision.requires_grad_()
    out, dgamma, _ = layer(t, vision, mask, return_delta=True)
    blind = ~mask.any(-1)
    assert torch.equal(out[blind], layer.base(t)[blind])
    assert torch.equal(dgamma.any(-1), ~blind)
    out.sum().backward()
    assert vision.grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_precomputed_vision_is_not_projected_again(kind: str, masked: bool) -> None:
    layer = made(kind)
    t, vision = drawn()
    mask = torch.tensor([[True, False, True, True, True], [False] * 5, [True] * 5]) if masked else None
    cache = layer.precompute(vision, mask)
    expected = layer(t, vision, mask)
    projections = [
        m for name, m in layer.conditioner.named_modules() if name in ("k_proj", "v_proj", "vision_proj")
    ]
    assert projections
    for projection in projections:
        projection.register_forward_hook(lambda *_: pytest.fail("projected again"))
    assert torch.equal(layer(t, cache), expected)
    for i in range(T):
        torch.testing.assert_close(
            layer(t[:, i : i + 1], cache), expected[:, i : i + 1], rtol=1e-5, atol=1e-6
        )


def test_names_of_parameters_are_the_hosts() -> None:
    norm = host_of("layer")
    layer = ViLN(norm, D, R, V)
    assert layer.weight is norm.weight
    assert layer.base.weight is norm.weight
    assert layer.base.bias is norm.bias
    names = set(layer.state_dict())
    assert {name for name in names if "." not in name} == {"weight", "bias"}
    assert {name.split(".")[0] for name in names if "." in name} == {"conditioner", "head"}
    missing, unexpected = ViLN(nn.LayerNorm(D), D, R, V).load_state_dict(norm.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"conditioner", "head"}
    assert set(ViLN(nn.RMSNorm(D), D, R).state_dict()) & {"weight", "bias"} == {"weight"}
    assert not set(ViLN(host_of("layer-plain"), D, R).state_dict()) & {"weight", "bias"}
    assert isinstance(made(host="rms").base, nn.RMSNorm)
    assert not ViLN(norm.eval(), D, R).training


def test_the_base_follows_what_is_done_to_the_layer() -> None:
    layer = copy.deepcopy(made()).double()
    assert layer.base.weight is layer.weight
    state = {name: value + 1 for name, value in layer.state_dict().items()}
    layer.load_state_dict(state)
    assert torch.equal(layer.base.weight, state["weight"])


def test_half_precision_is_computed_in_float32() -> None:
    """With large deltas a normalised token rounded to bfloat16 would be off by its rounding times the delta."""
    layer = made()
    with torch.no_grad():
        layer.head.bias.fill_(8.0)
    t, vision = drawn(torch.bfloat16)
    layer = layer.to(torch.bfloat16)
    out, dgamma, dbeta = layer(t, vision, return_delta=True)
    plain = torch.from_numpy(formulas.layer_norm(t.double().numpy()))
    expected = layer.base(t).double() + dgamma.double() * plain + dbeta.double()
    # One rounding of the result to 8 bits, and the two of the deltas that are returned.
    allowed = 2.0**-8 * (out.double().abs() + (dgamma.double() * plain).abs() + dbeta.double().abs())
    assert ((out.double() - expected).abs() <= allowed).all()


def test_context_gives_the_image_and_takes_it_back() -> None:
    block = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.RMSNorm(D))
    model = inject_lavi(block, R, V, select=lambda *_: True, num_heads=2, zero_init=False)
    t, vision = drawn()
    other, mask = vision.flip(0), torch.tensor([[True, False, False, True, True]] * B)
    blind = model(t)
    layer = model[0]

    def seeing(image: Tensor, mask: Tensor | None = None) -> Tensor:
        return model[2](model[1](layer(t, image, mask)), image, mask)

    with vision_context(model, vision):
        assert torch.equal(model(t), seeing(vision))
        with vision_context(model, other, mask):
            assert torch.equal(model(t), seeing(other, mask))
            assert torch.equal(layer(t, vision), layer(t, vision)), "an image that is given goes first"
            with vision_context(model, None):
                assert torch.equal(model(t), blind)
        assert torch.equal(model(t), seeing(vision))
        with pytest.raises(ZeroDivisionError), vision_context(model, other):
            _ = 1 / 0
        assert torch.equal(model(t), seeing(vision))
    assert torch.equal(model(t), blind)
    with pytest.raises(ValueError, match="ViLN"), vision_context(nn.Linear(2, 2), vision):
        pass
    with pytest.raises(ValueError, match="vision_mask"), vision_context(model, None, mask):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": D + 1}, "dim"),
        ({"norm": nn.LayerNorm((2, D))}, "dim"),
        ({"conditioner": "film"}, "conditioner"),
        ({"modulate": "gain"}, "modulate"),
        ({"conditioner": "mlp"}, "num_visual_tokens"),
        ({"num_heads": 3}, "num_heads"),
        ({"conditioner": "conv", "kernel_size": 2}, "kernel_size"),
        ({"cond_dim": 0}, "cond_dim"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViLN(**{"norm": nn.LayerNorm(D), "dim": D, "cond_dim": R, **options})


def test_other_norms_are_refused() -> None:
    class Doubled(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    for norm in (nn.BatchNorm1d(D), Doubled(D)):
        with pytest.raises(TypeError, match="norm"):
            ViLN(norm, D, R)


def test_bad_inputs() -> None:
    layer = made()
    t, vision = drawn()
    cache = layer.precompute(vision)
    with pytest.raises(ValueError, match="vision"):
        layer(t, vision[:1])
    with pytest.raises(ValueError, match="vision"):
        layer(t, vision[:1, :0])
    with pytest.raises(ValueError, match="vision"):
        layer(t[:1], cache)
    with pytest.raises(ValueError, match="vision"):
        layer(t, vision[..., :5])
    with pytest.raises(ValueError, match="vision_mask"):
        layer(t, cache, torch.ones(B, M, dtype=torch.bool))
    with pytest.raises(ValueError, match="vision_mask"):
        layer(t, None, torch.ones(B, M, dtype=torch.bool))
    with pytest.raises(ValueError, match="vision_mask"):
        layer(t, vision, torch.ones(B, T + 1, M, dtype=torch.bool))
    with pytest.raises(ValueError, match="vision_mask"):
        made("conv")(t, vision, torch.ones(B, T, M, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"5.*4"):
        made("mlp")(t, vision[:, :4])
    with pytest.raises(ValueError, match="t must"):
        layer(t[0], vision)
    with pytest.raises(TypeError, match="t must"):
        layer(t.long(), vision)
