"""Norms of an existing network replaced in place, and the network frozen."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import LaViDecoder, ViLN, freeze_host, inject_lavi, vision_context

D, R, V = 8, 4, 6


class Block(nn.Module):
    """Pre-norm, with a third norm that belongs to neither part."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.before_attn = norm(D)
        self.attn = nn.Linear(D, D)
        self.before_ffn = norm(D)
        self.ffn = nn.Linear(D, D)
        self.last = norm(D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.before_attn(x))
        return x + self.last(self.ffn(self.before_ffn(x)))


class Host(nn.Module):
    def __init__(self, depth: int = 5, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embedding_norm = norm(D)
        self.towers = nn.ModuleList([nn.Linear(D, D)])
        self.blocks = nn.ModuleList(Block(norm) for _ in range(depth))
        self.later = nn.ModuleList([norm(D)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.towers[0](self.embedding_norm(x))
        for block in self.blocks:
            x = block(x)
        return self.later[0](x)


def modulated(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, ViLN)]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["0.before_attn", "0.before_ffn", "4.before_attn", "4.before_ffn"]),
        ({"modulate_every": 2, "sublayers": "attn"}, ["0.before_attn", "2.before_attn", "4.before_attn"]),
        ({"modulate_every": 3, "sublayers": "ffn"}, ["0.before_ffn", "3.before_ffn"]),
        ({"modulate_every": 9}, ["0.before_attn", "0.before_ffn"]),
    ],
)
def test_every_kth_block_from_the_first_on(norm, options: dict[str, object], expected: list[str]) -> None:
    model = inject_lavi(Host(norm=norm), R, V, **options)
    assert modulated(model) == [f"blocks.{name}" for name in expected]


def test_select_decides_alone() -> None:
    seen = []

    def select(name: str, norm: nn.Module) -> bool:
        seen.append(name)
        return name.endswith("last") or name == "embedding_norm"

    model = inject_lavi(Host(2), R, V, select=select, modulate_every=9)
    blocks = [f"blocks.{i}.{name}" for i in range(2) for name in ("before_attn", "before_ffn", "last")]
    assert seen == ["embedding_norm", *blocks, "later.0"]
    assert modulated(model) == ["embedding_norm", "blocks.0.last", "blocks.1.last"]


def test_in_place_with_the_hosts_parameters_and_outputs() -> None:
    host = Host()
    x, image = torch.randn(2, 3, D), torch.randn(2, 5, V)
    expected, parameters = host(x), dict(host.named_parameters())
    state = copy.deepcopy(host.state_dict())
    model = inject_lavi(host, R, V, modulate_every=2, sublayers="both", conditioner="conv", modulate="scale")
    assert model is host
    for name, parameter in parameters.items():
        assert model.get_parameter(name) is parameter
    with vision_context(model, image):
        assert torch.equal(model(x), expected)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert {name.split(".")[3] for name in missing} == {"conditioner", "head"}
    assert model.blocks[0].before_attn.modulate == "scale"


def test_a_second_injection_takes_the_norms_that_are_left() -> None:
    model = inject_lavi(
        Host(3), R, V, modulate_every=2, sublayers="attn", conditioner="mlp", num_visual_tokens=5
    )
    inject_lavi(model, R, V, modulate_every=1, sublayers="both")
    names = [f"blocks.{i}.{name}" for i in range(3) for name in ("before_attn", "before_ffn")]
    assert modulated(model) == names
    assert hasattr(model.blocks[0].before_attn.conditioner, "token_in"), "those of before stay"
    seen = []
    inject_lavi(model, R, V, select=lambda name, _: seen.append(name) or name == "later.0")
    assert not any("conditioner" in name for name in seen)
    with pytest.raises(ValueError, match="model"):
        inject_lavi(model, R, V, modulate_every=1)


def test_one_norm_in_two_places_becomes_one() -> None:
    norm = nn.LayerNorm(D)
    model = inject_lavi(nn.Sequential(norm, nn.Linear(D, D), norm), R, select=lambda *_: True)
    assert isinstance(model[0], ViLN)
    assert model[0] is model[2]


def test_norms_that_compute_something_else_are_left_alone() -> None:
    class Doubled(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(Doubled(D), nn.BatchNorm1d(D), nn.LayerNorm(D))
    inject_lavi(model, R, select=lambda *_: True)
    assert [type(module) for module in model] == [Doubled, nn.BatchNorm1d, ViLN]


def test_dtype_device_and_mode_are_the_hosts() -> None:
    model = inject_lavi(Host(1).double().eval(), R, V, zero_init=False)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert not any(module.training for module in model.modules())
    plain = nn.Sequential(nn.Linear(D, D).double(), nn.LayerNorm(D, elementwise_affine=False))
    inject_lavi(plain, R, select=lambda *_: True)
    assert all(p.dtype == torch.float64 for p in plain.parameters())
    on_meta = inject_lavi(Host(1).to("meta"), R, V)
    assert all(p.is_meta for p in on_meta.parameters())


@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorchs_encoder_does_not_skip_its_norms(norm_first: bool) -> None:
    """In eval mode without gradients it would take the parameters of the norms and compute everything itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        host = nn.TransformerEncoder(layer, 2)
    model = inject_lavi(host, R, V, modulate_every=1, zero_init=False)
    assert len(modulated(model)) == 4
    x, image = torch.randn(2, 3, D), torch.randn(2, 5, V)
    padding = torch.tensor([[False, False, True], [False] * 3])
    with vision_context(model, image):
        training = model(x, src_key_padding_mask=padding)
        with torch.no_grad():
            evaluated = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(evaluated, training, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert (evaluated - model(x, src_key_padding_mask=padding)).abs().max() > 1e-2


def test_check_10_frozen_host() -> None:
    model = freeze_host(inject_lavi(Host(), R, V))
    trained = {name.split(".")[3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"conditioner", "head"}
    assert sum(p.requires_grad for p in model.parameters()) == 4 * (6 + 2)
    x, image = torch.randn(2, 3, D), torch.randn(2, 5, V)
    before = model(x)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        with vision_context(model, image):
            seeing = model(x)
        seeing.square().mean().backward()
        optimizer.step()
    assert torch.equal(model(x), before), "what it computes without an image"
    with vision_context(model, image):
        assert (model(x) - before).abs().max() > 1e-2
    thawed = freeze_host(model.requires_grad_(True))
    assert {name.split(".")[3] for name, p in thawed.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("fusion", ["lavi", "concat", "none"])
def test_check_10_of_a_decoder_the_projector_too(fusion: str) -> None:
    model = freeze_host(LaViDecoder(7, 8, 2, 2, fusion=fusion, vision_dim=V, cond_heads=2))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} <= {"projector", "blocks"}
    assert {name.split(".")[3] for name in trained if name.startswith("blocks")} == (
        {"conditioner", "head"} if fusion == "lavi" else set()
    )
    assert any(name.startswith("projector") for name in trained) == (fusion != "none")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Host, {"modulate_every": 0}, "modulate_every"),
        (Host, {"sublayers": "norm"}, "sublayers"),
        (Host, {"select": lambda *_: False}, "model"),
        (Host, {"conditioner": "mlp"}, "num_visual_tokens"),
        (Host, {"num_heads": 3}, "num_heads"),
        (lambda: nn.Sequential(nn.LayerNorm(D)), {}, "model"),
        (lambda: nn.LayerNorm(D), {"select": lambda *_: True}, "model"),
        (lambda: nn.Linear(D, D), {}, "model"),
        (nn.Identity, {}, "model"),
    ],
)
def test_bad_arguments_leave_the_model_alone(model, options: dict[str, object], message: str) -> None:
    host = model()
    before = [type(module) for module in host.modules()]
    with pytest.raises(ValueError, match=message):
        inject_lavi(host, R, V, **options)
    assert [type(module) for module in host.modules()] == before
