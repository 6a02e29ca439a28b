"""The decoder: every fusion against NumPy, causality, caches, masks, checkpoints."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.adapters import LaViDecoder, ViLN
from tests.adapters import lavi_formulas as formulas

VOCAB, D, DEPTH, V, B, T, M = 7, 8, 3, 6, 2, 5, 4
ARMS = {
    "attention": {},
    "mlp": {"conditioner": "mlp", "num_visual_tokens": M},
    "conv": {"conditioner": "conv", "kernel_size": 3},
    "pooled": {"conditioner": "pooled"},
    "rms": {"norm": "rms"},
    "concat": {"fusion": "concat"},
    "cross_attention": {"fusion": "cross_attention"},
    "none": {"fusion": "none"},
}
FUSED = [arm for arm in ARMS if arm != "none"]


def made(arm: str = "attention", *, spread: bool = True, seed: int = 0, **options) -> LaViDecoder:
    """In float64; ``spread`` moves every parameter away from where it starts."""
    torch.manual_seed(seed)
    given = {"vision_dim": V, "cond_heads": 2, "max_len": 16, **ARMS[arm], **options}
    model = LaViDecoder(VOCAB, D, DEPTH, 2, **given).double()
    if spread:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return model


def drawn(length: int = T) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return (
        torch.randint(VOCAB, (B, length), generator=g),
        torch.randn(B, M, V, generator=g, dtype=torch.float64),
    )


MASK = torch.tensor([[True, False, True, True], [False, True, True, False]])


def read_by(arm: str, w: formulas.Weights, u: np.ndarray, image: np.ndarray) -> np.ndarray:
    if arm == "pooled":
        return formulas.pooled(w, image)
    return {"mlp": formulas.mlp, "conv": formulas.conv}.get(arm, attention_of_two_heads)(w, u, image)


def attention_of_two_heads(w: formulas.Weights, u: np.ndarray, image: np.ndarray) -> np.ndarray:
    return formulas.attention(w, u, image, 2)


def reference(model: LaViDecoder, tokens: Tensor, vision: Tensor, arm: str) -> Tensor:
    """Logits of every sample, block by block, head by head."""
    w = formulas.weights_of(model)
    rms = arm == "rms"

    def part(prefix: str) -> formulas.Weights:
        return {name[len(prefix) + 1 :]: value for name, value in w.items() if name.startswith(f"{prefix}.")}

    def norm(prefix: str, x: np.ndarray) -> np.ndarray:
        own = part(prefix)
        return (
            formulas.rms_norm(x, own["weight"]) if rms else formulas.layer_norm(x, own["weight"], own["bias"])
        )

    def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
        out = np.zeros_like(q)
        for own in (slice(0, D // 2), slice(D // 2, D)):
            for i in range(len(q)):
                last = i + 1 if causal else len(k)
                p = formulas.softmax(k[:last, own] @ q[i, own] / (D / 2) ** 0.5)
                out[i, own] = p @ v[:last, own]
        return out

    logits = []
    for b in range(B):
        image = formulas.affine(
            w, "projector.2", formulas.gelu(formulas.affine(w, "projector.0", vision[b].numpy()))
        )
        x = w["token_embedding.weight"][tokens[b].numpy()] + w["position_embedding.weight"][: tokens.shape[1]]
        if arm == "concat":
            x = np.concatenate([image, x])
        for i in range(DEPTH):
            block = part(f"blocks.{i}")

            def normed(which: str, x: np.ndarray, i: int = i, image: np.ndarray = image) -> np.ndarray:
                u = norm(f"blocks.{i}.{which}", x)
                if arm in ("concat", "cross_attention") or i % 2:
                    return u
                own, inner = part(f"blocks.{i}.{which}"), part(f"blocks.{i}.{which}.conditioner")
                read = [read_by(arm, inner, row, image) for row in u]
                return np.array(
                    [formulas.modulated(own, row, f, rms)[0] for row, f in zip(x, read, strict=True)]
                )

            if arm == "cross_attention" and i % 2 == 0:
                q = formulas.affine(block, "cross.q_proj", norm(f"blocks.{i}.cross.norm", x))
                k, v = np.split(formulas.affine(block, "cross.kv_proj", image), 2, -1)
                read = formulas.affine(block, "cross.proj", attended(q, k, v, causal=False))
                x = x + np.tanh(block["cross.gate"]) * read
            q, k, v = np.split(formulas.affine(block, "attn.qkv", normed("norm1", x)), 3, -1)
            x = x + formulas.affine(block, "attn.proj", attended(q, k, v, causal=True))
            x = x + formulas.affine(
                block, "mlp.2", formulas.gelu(formulas.affine(block, "mlp.0", normed("norm2", x)))
            )
        logits.append(formulas.affine(w, "head", norm("norm_out", x[-tokens.shape[1] :])))
    return torch.from_numpy(np.array(logits))


@pytest.mark.parametrize("arm", FUSED)
def test_every_fusion_against_numpy(arm: str) -> None:
    model, (tokens, vision) = made(arm), drawn()
    torch.testing.assert_close(
        model(tokens, vision), reference(model, tokens, vision, arm), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("arm", FUSED)
def test_check_1_any_image_leaves_the_text_model_at_the_start(arm: str) -> None:
    tokens, vision = drawn()
    text = made("none" if arm != "rms" else "rms", spread=False, fusion="none")
    model = made(arm, spread=False)
    assert torch.equal(model(tokens), text(tokens)), "without an image"
    same = arm != "concat"
    for image in (vision, 100 * vision):
        far = (model(tokens, image) - text(tokens)).abs().max()
        assert far <= 1e-12 if same else far > 1e-6


@pytest.mark.parametrize("arm", FUSED)
def test_fusions_start_from_the_same_text_weights(arm: str) -> None:
    text = made("none", spread=False).state_dict()
    state = made(arm, spread=False).state_dict()
    assert all(torch.equal(state[name], value) for name, value in text.items() if name in state)


@pytest.mark.parametrize("conditioner", ["attention", "mlp", "conv", "pooled"])
def test_check_9_a_text_checkpoint_loads(conditioner: str) -> None:
    model = made(conditioner)
    missing, unexpected = model.load_state_dict(made("none").state_dict(), strict=False)
    assert not unexpected
    norms = [name for name, module in model.named_modules() if isinstance(module, ViLN)]
    assert norms == [f"blocks.{i}.{norm}" for i in (0, 2) for norm in ("norm1", "norm2")]
    allowed = ("projector.", *(f"{name}.{part}." for name in norms for part in ("conditioner", "head")))
    assert missing
    assert all(name.startswith(allowed) for name in missing)


@pytest.mark.parametrize("arm", ["concat", "cross_attention"])
def test_a_text_checkpoint_loads_into_the_rivals(arm: str) -> None:
    missing, unexpected = made(arm).load_state_dict(made("none").state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("projector.") or ".cross." in name for name in missing)


@pytest.mark.parametrize("arm", FUSED)
def test_check_4_causality(arm: str) -> None:
    model, (tokens, vision) = made(arm), drawn()
    other = tokens.clone()
    other[:, 3] = (other[:, 3] + 1) % VOCAB
    change = (model(other, vision) - model(tokens, vision)).abs().amax((0, 2))
    assert change[:3].max() < 1e-12
    assert (change[3:] > 1e-4).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("arm", ARMS)
def test_check_4_incremental_decoding_equals_the_full_forward(arm: str, image: bool, masked: bool) -> None:
    model, (tokens, vision) = made(arm), drawn()
    seen = vision if image else None
    mask = MASK if image and masked else None
    expected = model(tokens, seen, mask)
    cache = model.init_cache(seen, mask)
    pieces = [model(piece, cache=cache) for piece in tokens.split([1, 1, 2, 1], 1)]
    assert cache.length == T
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=1e-9, atol=1e-11)


def test_the_image_is_projected_once_for_a_whole_text() -> None:
    model, (tokens, vision) = made(), drawn()
    cache = model.init_cache(vision)
    read = [m for name, m in model.named_modules() if name.endswith(("projector", "k_proj", "v_proj"))]
    assert len(read) == 1 + 2 * 4
    for module in read:
        module.register_forward_hook(lambda *_: pytest.fail("projected again"))
    for token in tokens.split(1, 1):
        model(token, cache=cache)


@pytest.mark.parametrize("arm", ["attention", "rms", "concat", "cross_attention"])
def test_masked_visual_tokens_are_removed_ones(arm: str) -> None:
    model, (tokens, vision) = made(arm), drawn()
    spoilt = vision.masked_fill(~MASK.unsqueeze(-1), 1e3)
    out = model(tokens, spoilt, MASK)
    for b in range(B):
        alone = model(tokens[b : b + 1], vision[b : b + 1, MASK[b]])
        torch.testing.assert_close(out[b : b + 1], alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("arm", ARMS)
def test_no_valid_visual_token_is_no_image(arm: str) -> None:
    model, (tokens, vision) = made(arm), drawn()
    text = model(tokens)
    assert torch.equal(model(tokens, vision[:, :0]), text)
    mask = torch.tensor([[False] * M, [True] * M])
    vision.requires_grad_()
    out = model(tokens, vision, mask)
    torch.testing.assert_close(out[0], text[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(out[1], model(tokens, vision)[1], rtol=1e-9, atol=1e-11)
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if arm != "none":
        assert vision.grad.isfinite().all()
        assert not vision.grad[0].any()
        assert (out[1] - text[1]).abs().max() > 1e-3
    cache = model.init_cache(vision.detach(), mask)
    torch.testing.assert_close(model(tokens, cache=cache), out, rtol=1e-9, atol=1e-11)


def test_a_mask_for_each_text_token_shows_each_its_own_image() -> None:
    model, (tokens, vision) = made(modulate_every=4), drawn()
    both = torch.cat([vision, vision.flip(0)], 1)  # two images in one sequence
    mask = torch.zeros(B, T, 2 * M, dtype=torch.bool)
    mask[:, :3, :M] = True
    mask[:, 3:, M:] = True
    out = model(tokens, both, mask)
    torch.testing.assert_close(out[:, :3], model(tokens[:, :3], vision), rtol=1e-9, atol=1e-11)
    assert (out[:, 3:] - model(tokens, vision)[:, 3:]).abs().max() > 1e-3


@pytest.mark.parametrize("arm", ["attention", "concat", "cross_attention"])
def test_check_7_gradients_reach_the_image(arm: str) -> None:
    model, (tokens, vision) = made(arm), drawn(3)

    def call(vision: Tensor) -> Tensor:
        return model(tokens[:1], vision)

    assert torch.autograd.gradcheck(call, (vision[:1].clone().requires_grad_(),))


def test_cross_attention_starts_closed() -> None:
    model = made("cross_attention", spread=False)
    gates = [p for name, p in model.named_parameters() if name.endswith("gate")]
    assert [gate.item() for gate in gates] == [0.0, 0.0]
    assert [block.cross is not None for block in model.blocks] == [True, False, True]
    tokens, vision = drawn()
    model(tokens, vision).square().sum().backward()
    assert all(gate.grad != 0 for gate in gates)


def test_defaults() -> None:
    model = LaViDecoder(VOCAB, 16, 4, 2, vision_dim=V)
    norm = model.blocks[0].norm1
    assert norm.conditioner.cond_dim == 8
    assert norm.conditioner.num_heads == 4
    assert norm.conditioner.vision_dim == 16, "after the projector"
    assert [isinstance(block.norm1, ViLN) for block in model.blocks] == [True, False, True, False]
    assert model.blocks[0].mlp[0].out_features == 64
    assert not isinstance(model.norm_out, ViLN)
    assert model.position_embedding.weight.shape == (256, 16)
    assert LaViDecoder(VOCAB, 16, 4, 2, fusion="none").projector is None


def test_state_and_copies() -> None:
    model, (tokens, vision) = made(), drawn()
    other = made(seed=3)
    assert not torch.equal(other(tokens, vision), model(tokens, vision))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens, vision), model(tokens, vision))
    assert torch.equal(copy.deepcopy(model)(tokens, vision), model(tokens, vision))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "film"}, "fusion"),
        ({"norm": "batch"}, "norm"),
        ({"conditioner": "film"}, "conditioner"),
        ({"modulate": "gain"}, "modulate"),
        ({"sublayers": "norm"}, "sublayers"),
        ({"modulate_every": 0}, "modulate_every"),
        ({"vision_dim": None}, "vision_dim"),
        ({"num_heads": 3}, "num_heads"),
        ({"cond_heads": 3}, "num_heads"),
        ({"conditioner": "mlp"}, "num_visual_tokens"),
        ({"fusion": "concat", "kernel_size": 3}, "kernel_size"),
        ({"max_len": 0}, "max_len"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaViDecoder(**{"vocab_size": VOCAB, "dim": D, "depth": 2, "num_heads": 2, "vision_dim": V, **options})


@pytest.mark.parametrize("arm", FUSED)
def test_bad_inputs(arm: str) -> None:
    model, (tokens, vision) = made(arm, max_len=T), drawn()
    mask = torch.ones(B, M, dtype=torch.bool)
    longer = torch.zeros(B, T + 1, dtype=torch.long)
    cache = model.init_cache(vision)
    model(tokens, cache=cache)
    for call, message in (
        (lambda: model(longer), "max_len"),
        (lambda: model(tokens[:, :1], cache=cache), "max_len"),
        (lambda: model(tokens[:1], cache=model.init_cache(vision)), "batch"),
        (lambda: model(tokens, vision, cache=model.init_cache()), "vision"),
        (lambda: model(tokens, vision[:1]), "vision"),
        (lambda: model(tokens, vision[..., 1:]), "vision"),
        (lambda: model(tokens, vision, mask[:, 1:]), "vision_mask"),
        (lambda: model(tokens, vision, mask.long()), "vision_mask"),
        (lambda: model(tokens, None, mask), "vision_mask"),
        (lambda: model.init_cache(vision, mask[:, None].expand(-1, T, -1)), "vision_mask"),
        (lambda: model(tokens[0], vision), "tokens"),
        (lambda: model(tokens[:, :0], vision), "tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if arm not in ("attention", "rms"):
        with pytest.raises(ValueError, match="vision_mask"):
            model(tokens, vision, mask[:, None].expand(-1, T, -1))
    with pytest.raises(TypeError, match="tokens"):
        model(tokens.double(), vision)
