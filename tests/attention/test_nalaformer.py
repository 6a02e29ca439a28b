import copy
import io
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from normviz.attention import (
    NaLaFormer,
    NaLaFormerBlock,
    NormAwareLinearAttention,
    apply_rotary,
    rope_2d,
)
from normviz.attention._nalaformer_backbone import DropPath, PixelLinear
from normviz.attention._nalaformer_layers import GatedSoftmaxAttention

SMALL = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def randomise(module: nn.Module, std: float = 0.4) -> nn.Module:
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


# ------------------------------------------------------------------------------------------------- the layer


def layer_by_hand(layer: nn.Module, x: torch.Tensor, softmax: bool = False) -> torch.Tensor:
    """Item by item from the weights, head by head, pixel by pixel."""
    B, C, H, W = x.shape
    d = C // layer.num_heads
    tokens = x.permute(0, 2, 3, 1).reshape(B, H * W, C)
    q, k, v, g = (
        (tokens @ w.T + b) for w, b in zip(layer.qkvg.weight.split(C), layer.qkvg.bias.split(C), strict=True)
    )
    sin, cos = rope_2d(H, W, d, dtype=x.dtype)
    o = torch.zeros_like(v)
    for b in range(B):
        for h in range(layer.num_heads):
            part = slice(h * d, (h + 1) * d)
            if softmax:
                a, c = apply_rotary(q[b, :, part], sin, cos), apply_rotary(k[b, :, part], sin, cos)
                o[b, :, part] = torch.softmax(a @ c.T / math.sqrt(d), -1) @ v[b, :, part]
                continue
            phi = layer.feature_map
            a, c = phi.query(q[b, :, part]), phi.key(k[b, :, part])
            numerator = apply_rotary(a, sin, cos) @ apply_rotary(c, sin, cos).T / (H * W)
            o[b, :, part] = numerator @ v[b, :, part] / (a @ c.mean(0) + 1e-6)[:, None]
    image = v.reshape(B, H, W, C)
    reach = layer.lepe.kernel_size[0] // 2
    padded = F.pad(image, (0, 0, reach, reach, reach, reach))
    lepe = layer.lepe.bias.expand(B, H, W, C).clone()
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            lepe = lepe + padded[:, i : i + H, j : j + W] * layer.lepe.weight[:, 0, i, j]
    y = o + lepe.reshape(B, H * W, C)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    y = (y * layer.norm.weight + layer.norm.bias) * g * torch.sigmoid(g)
    y = y @ layer.proj.weight.T + layer.proj.bias
    return y.reshape(B, H, W, C).permute(0, 3, 1, 2)


@pytest.mark.parametrize("direction", ["sign", "cosine"])
def test_layer_equals_its_formula(direction: str) -> None:
    layer = randomise(NormAwareLinearAttention(16, 2, direction=direction, lam=2.5))
    x = randn(2, 16, 3, 5)
    torch.testing.assert_close(layer(x), layer_by_hand(layer, x), rtol=0, atol=1e-9)
    single = copy.deepcopy(layer).float()
    torch.testing.assert_close(single(x.float()).double(), layer_by_hand(layer, x), rtol=0, atol=1e-5)


def test_softmax_twin_equals_its_formula_and_shares_the_keys() -> None:
    layer = randomise(GatedSoftmaxAttention(16, 2, lepe_kernel=3))
    x = randn(2, 16, 3, 4)
    torch.testing.assert_close(layer(x), layer_by_hand(layer, x, softmax=True))
    linear = NormAwareLinearAttention(16, 2, lepe_kernel=3)
    assert layer.state_dict().keys() == linear.state_dict().keys()


def test_parts_and_state_dict() -> None:
    layer = NormAwareLinearAttention(16, 2)
    assert set(layer.state_dict()) == {
        f"{part}.{kind}" for part in ("qkvg", "lepe", "norm", "proj") for kind in ("weight", "bias")
    }
    assert layer.qkvg.weight.shape == (64, 16)
    assert layer.lepe.weight.shape == (16, 1, 5, 5)
    assert layer.norm.eps == 1e-5
    assert layer.feature_map.direction == "cosine"
    bare = NormAwareLinearAttention(15, 3, rotary=False, lepe_kernel=0, qkv_bias=False)
    assert bare.lepe is None
    assert bare.qkvg.bias is None
    assert bare(torch.randn(1, 15, 2, 2)).shape == (1, 15, 2, 2)
    assert "num_heads=3, rotary=False" in repr(bare)


def test_without_positions_pixels_may_be_permuted() -> None:
    layer = randomise(NormAwareLinearAttention(8, 2, rotary=False, lepe_kernel=0))
    x, order = randn(2, 8, 3, 4), torch.randperm(12)
    permuted = layer(x.flatten(2)[..., order].reshape(2, 8, 3, 4))
    torch.testing.assert_close(permuted.flatten(2), layer(x).flatten(2)[..., order])
    rotary = randomise(NormAwareLinearAttention(8, 2, lepe_kernel=0))
    permuted = rotary(x.flatten(2)[..., order].reshape(2, 8, 3, 4))
    assert (permuted.flatten(2) - rotary(x).flatten(2)[..., order]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------- the causal layer


@pytest.mark.parametrize("lepe_kernel", [5, 1, 0])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_token_by_token_equals_the_whole_sequence(lepe_kernel: int, rotary: bool, steps: int) -> None:
    layer = randomise(NormAwareLinearAttention(8, 2, causal=True, lepe_kernel=lepe_kernel, rotary=rotary))
    x = randn(3, 11, 8)
    whole, final = layer(x, return_state=True)
    torch.testing.assert_close(layer(x), whole)
    state, parts = None, []
    for start in range(0, 11, steps):
        part, state = layer(x[:, start : start + steps], state, True)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-7)
    S, s, t, tail = state
    assert S.shape == (3, 2, 8, 4)
    assert s.shape == (3, 2, 8)
    assert t == 11
    v = layer.qkvg(x)[..., 16:24]
    reach = max(lepe_kernel - 1, 0)
    torch.testing.assert_close(tail, v[:, 11 - reach :])
    for ours, theirs in zip(state, final, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_causal_lepe_looks_back_only() -> None:
    layer = randomise(NormAwareLinearAttention(8, 2, causal=True, lepe_kernel=3))
    assert isinstance(layer.lepe, nn.Conv1d)
    x = randn(1, 7, 8)
    changed = x.clone()
    changed[:, 4] += 1
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-3
    # LePE by hand, zeros before the start
    v = layer.qkvg(x)[..., 16:24]
    padded = torch.cat((torch.zeros(1, 2, 8, dtype=v.dtype), v), 1)
    lepe = sum(padded[:, i : i + 7] * layer.lepe.weight[:, 0, i] for i in range(3)) + layer.lepe.bias
    without = copy.deepcopy(layer)
    without.lepe = None
    seen = []
    layer.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    without.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    layer(x)
    without(x)
    torch.testing.assert_close(seen[0] - seen[1], lepe)


# ------------------------------------------------------------------------------------------------- block, backbone


def channel_norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    mean = x.mean(1, keepdim=True)
    y = (x - mean) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def pixelwise(x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    return torch.einsum("bchw,oc->bohw", x, layer.weight.flatten(1)) + layer.bias[:, None, None]


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_block_equals_its_formula(attention: str) -> None:
    block = randomise(NaLaFormerBlock(8, 2, mlp_ratio=1.6, attention=attention))
    assert block.ffn.fc1.out_channels == 12  # int(1.6 * 8)
    assert block.gamma1.numel() == block.gamma2.numel() == 8
    x = randn(2, 8, 4, 3)

    def dw(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, conv.weight, conv.bias, padding=1, groups=x.shape[1])

    y = x + dw(block.dw1, x)
    y = y + block.gamma1[:, None, None] * block.attn(channel_norm(y, block.norm1))
    y = y + dw(block.dw2, y)
    h = F.gelu(pixelwise(channel_norm(y, block.norm2), block.ffn.fc1))
    y = y + block.gamma2[:, None, None] * pixelwise(h + dw(block.ffn.dw, h), block.ffn.fc2)
    torch.testing.assert_close(block(x), y)
    kind = NormAwareLinearAttention if attention == "linear" else GatedSoftmaxAttention
    assert isinstance(block.attn, kind)


def test_block_options_and_initialisation() -> None:
    block = NaLaFormerBlock(32, 4, layer_scale_init=1e-3, direction="sign", lepe_kernel=3)
    assert block.attn.feature_map.direction == "sign"
    assert block.attn.lepe.kernel_size == (3, 3)
    assert (block.gamma1 == 1e-3).all()
    assert (block.gamma2 == 1e-3).all()
    for conv in (block.dw1, block.dw2, block.ffn.dw, block.attn.lepe):
        assert not conv.bias.any()
        assert conv.weight.detach().std().item() == pytest.approx(0.02, rel=0.15)
    # Linear layers keep the framework's uniform start on +-1/sqrt(fan_in), also as 1 x 1 convolutions
    for weight, fan_in in (
        (block.ffn.fc1.weight, 32),
        (block.ffn.fc2.weight, 128),
        (block.attn.qkvg.weight, 32),
    ):
        bound = 1 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound
        assert weight.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("variant", "count"),
    [("XT", 6_142_248), ("T", 15_907_752), ("S", 25_654_184), ("B", 52_002_952), ("L", 95_426_760)],
)
def test_parameter_counts(variant: str, count: int) -> None:
    with torch.device("meta"):
        model = NaLaFormer(variant)
    assert sum(p.numel() for p in model.parameters()) == count


def test_variants_stages() -> None:
    with torch.device("meta"):
        model = NaLaFormer("B")
    kinds = [{type(block.attn) for block in stage} for stage in model.stages]
    assert kinds == [{NormAwareLinearAttention}] * 2 + [{GatedSoftmaxAttention}] * 2
    assert [len(stage) for stage in model.stages] == [4, 6, 12, 6]
    assert [stage[0].attn.num_heads for stage in model.stages] == [1, 2, 6, 8]
    assert model.stages[0][0].attn.feature_map.direction == "sign"
    rates = [block.drop_path.p for stage in model.stages for block in stage]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.4)
    steps = [b - a for a, b in pairwise(rates)]
    assert steps == pytest.approx([0.4 / 27] * 27)
    small = NaLaFormer("B", **SMALL)
    scales = [stage[0].gamma1[0].item() for stage in small.stages]
    assert scales == pytest.approx([1, 1, 1e-6, 1e-6])


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (33, 47)])
def test_backbone_on_any_size(size: tuple[int, int]) -> None:
    model = NaLaFormer(num_classes=5, in_chans=1, **SMALL).eval()
    assert model(torch.randn(2, 1, *size)).shape == (2, 5)
    strides = []
    for stage in model.stages:
        stage.register_forward_pre_hook(lambda _, args: strides.append(args[0].shape[2:]))
    model(torch.randn(1, 1, *size))
    assert [tuple(s) for s in strides] == [tuple(-(-n // 2**i) for n in size) for i in (2, 3, 4, 5)]


def test_all_linear_backbone_and_overrides() -> None:
    options = {"mlp_ratio": 2, "drop_path": 0.3, "layer_scale_init": (1, 2, 3, 4), **SMALL}
    model = NaLaFormer(attention=("linear",) * 4, direction="cosine", **options)
    for i, stage in enumerate(model.stages):
        assert isinstance(stage[0].attn, NormAwareLinearAttention)
        assert stage[0].attn.feature_map.direction == "cosine"
        assert stage[0].gamma1[0] == i + 1
        assert stage[0].ffn.fc1.out_channels == 2 * SMALL["dims"][i]
    assert model.stages[3][0].drop_path.p == pytest.approx(0.3)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_backbone_initialisation() -> None:
    model = NaLaFormer(dims=(32, 32, 32, 64), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    for part in model.modules():
        if isinstance(part, PixelLinear):
            assert part.weight.abs().max() <= 1 / math.sqrt(part.in_channels)
        elif isinstance(part, nn.Conv2d):
            assert part.weight.detach().std().item() == pytest.approx(0.02, rel=0.2)
            assert not part.bias.any()
        elif isinstance(part, nn.LayerNorm):
            assert (part.weight == 1).all()
            assert not part.bias.any()


def test_drop_path_drops_samples_and_keeps_the_mean() -> None:
    layer, x = DropPath(0.25), torch.ones(20000, 2, 1, 1)
    y = layer(x)
    assert torch.equal(y[:, 0], y[:, 1])
    kept = y[:, 0, 0, 0] != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 4 / 3))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 20000))
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


# ------------------------------------------------------------------------------------------------- contracts


def made(kind: str) -> tuple[nn.Module, torch.Tensor]:
    if kind == "layer":
        return NormAwareLinearAttention(8, 2), torch.randn(2, 8, 3, 4)
    if kind == "causal":
        return NormAwareLinearAttention(8, 2, causal=True, direction="sign"), torch.randn(2, 6, 8)
    if kind == "block":
        return NaLaFormerBlock(8, 2), torch.randn(2, 8, 3, 4)
    if kind == "softmax block":
        return NaLaFormerBlock(8, 2, attention="softmax"), torch.randn(2, 8, 3, 4)
    return NaLaFormer(num_classes=4, **SMALL).eval(), torch.randn(2, 3, 32, 32)


KINDS = ("layer", "causal", "block", "softmax block", "backbone")


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_stacked_modules_equals_the_loop(kind: str) -> None:
    pairs = [made(kind) for _ in range(2)]
    modules, x = [module for module, _ in pairs], pairs[0][1]
    parameters, buffers = stack_module_state(modules)
    skeleton = copy.deepcopy(modules[0]).to("meta")
    together = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(parameters, buffers)
    for row, module in zip(together, modules, strict=True):
        torch.testing.assert_close(row, module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "backbone"])
def test_compiled_equals_eager(kind: str) -> None:
    module, x = made(kind)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_dtype_and_state_dict(kind: str) -> None:
    module, x = made(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y.float(), module(x), rtol=0.1, atol=0.1)
    assert copy.deepcopy(module).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert copy.deepcopy(module).double()(x.double()).dtype == torch.float64
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other, _ = made(kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), module(x))


def test_gradients_reach_every_parameter() -> None:
    for kind in ("layer", "causal", "block"):
        module, x = made(kind)
        module(x).square().sum().backward()
        for name, p in module.named_parameters():
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.any(), name


IMAGE, LINE = torch.ones(1, 8, 2, 2), torch.ones(1, 3, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NormAwareLinearAttention(8, 3), "num_heads must divide dim = 8, got 3"),
        (lambda: NormAwareLinearAttention(12, 2), "multiple of 4 for 2D rotary, got 6"),
        (lambda: NormAwareLinearAttention(6, 2, causal=True), "multiple of 2 for 1D rotary, got 3"),
        (lambda: NormAwareLinearAttention(8, 2, lepe_kernel=4), "lepe_kernel must be odd"),
        (lambda: NormAwareLinearAttention(8, 2, lepe_kernel=-1), "lepe_kernel must be"),
        (lambda: NormAwareLinearAttention(8, 2, direction="cos"), "direction must be one of"),
        (lambda: NormAwareLinearAttention(8, 2, lam=0), "lam must be"),
        (lambda: NormAwareLinearAttention(8, 2, eps=-1.0), "eps must be"),
        (lambda: NormAwareLinearAttention(8, 2)(IMAGE, return_state=True), "need causal=True"),
        (lambda: NormAwareLinearAttention(8, 2)(LINE), r"x must have shape \(B, 8, H, W\)"),
        (lambda: NormAwareLinearAttention(8, 2, causal=True)(IMAGE), r"x must have shape \(B, N, 8\)"),
        (
            lambda: NormAwareLinearAttention(8, 2, causal=True)(
                LINE, (torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 8), 0, torch.zeros(1, 2, 8))
            ),
            "state must hold a tail",
        ),
        (lambda: NaLaFormerBlock(8, 2, attention="linaer"), "Did you mean 'linear'"),
        (lambda: NaLaFormerBlock(8, 2, drop_path=1.0), r"drop_path must be a number in \[0, 1\), got 1.0"),
        (lambda: NaLaFormerBlock(8, 2, mlp_ratio=0.01), r"int\(mlp_ratio \* dim\) must be"),
        (lambda: NaLaFormerBlock(8, 2, causal=True), "causal must be False"),
        (lambda: NaLaFormer("XXL"), "variant must be one of"),
        (lambda: NaLaFormer(direction="signs"), "direction must be one of"),
        (lambda: NaLaFormer(attention=("linear",) * 3), "attention must have one value for each"),
        (
            lambda: NaLaFormer(attention=("linear",) * 3 + ("full",), **SMALL),
            r"attention\[3\] must be one of",
        ),
        (lambda: NaLaFormer(depths=(1, 1)), "depths must have one value for each"),
        (lambda: NaLaFormer(dims=(7, 8, 8, 8)), r"dims\[0\] must be even"),
        (lambda: NaLaFormer(drop_path=-0.1), "drop_path must be"),
        (lambda: NaLaFormer(num_classes=0), "num_classes must be"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_argument_the_attention_does_not_have() -> None:
    with pytest.raises(TypeError, match="direction"):
        NaLaFormerBlock(8, 2, attention="softmax", direction="sign")
