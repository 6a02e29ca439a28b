"""Rows of LaVi, of :mod:`normviz.adapters`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normviz import adapters
from normviz.testing._values import Inputs
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract

__all__ = ["ROWS"]

B, T, M, D, V, R = 3, 4, 5, 8, 6, 4
"""Batch, text tokens, visual tokens, their widths d and dv, the conditioner's width."""


def text_and_image() -> Inputs:
    """t [B, T, d], vision [B, M, dv]."""
    return torch.randn(B, T, D), torch.randn(B, M, V)


def masked(per_token: bool = False) -> Callable[[], Inputs]:
    """The same with a mask by which the last text has no image at all."""

    def inputs() -> Inputs:
        mask = torch.rand(B, T, M) < 0.6 if per_token else torch.rand(B, M) < 0.6
        return *text_and_image(), mask & (torch.arange(B) < B - 1).view(-1, *[1] * (mask.ndim - 1))

    return inputs


def of_shape(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Inputs]:
    """Visual tokens of another shape or dtype than :func:`norm` takes."""
    return lambda: (torch.randn(B, T, D), torch.zeros(shape, dtype=dtype))


def with_mask(*shape: int, dtype: torch.dtype = torch.bool) -> Callable[[], Inputs]:
    """A mask that must be refused."""
    return lambda: (*text_and_image(), torch.ones(shape, dtype=dtype))


def norm(**options: Any) -> nn.Module:
    """A ViLN on a layer norm, with a head that is not zero."""
    given = {"norm": nn.LayerNorm(D), "dim": D, "cond_dim": R, "vision_dim": V, "num_heads": 2, **options}
    return adapters.ViLN(**given)


def conditioner(kind: str, **options: Any) -> nn.Module:
    """A conditioning module by the name of its class."""
    made: nn.Module = getattr(adapters, kind)(**{"dim": D, "cond_dim": R, "vision_dim": V, **options})
    return made


class Host(nn.Module):
    """Two pre-norm blocks that know of no image."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList([nn.LayerNorm(D), nn.Linear(D, D)]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d]."""
        for block in self.blocks:
            normalize, mix = block.children()
            x = x + mix(normalize(x))
        return x


class Seeing(nn.Module):
    """A network with ViLNs that is given its image by a context."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = adapters.inject_lavi(
            **{
                "model": Host(),
                "cond_dim": R,
                "vision_dim": V,
                "num_heads": 2,
                "modulate_every": 1,
                **options,
            }
        )

    def forward(self, x: Tensor, vision: Tensor) -> Tensor:
        """[B, T, d]."""
        with adapters.vision_context(self.model, vision):
            out: Tensor = self.model(x)
        return out


class Decoder(nn.Module):
    """A decoder of two blocks, the first modulated, called with tokens and image."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = adapters.LaViDecoder(
            **{
                "vocab_size": 7,
                "dim": D,
                "depth": 2,
                "num_heads": 2,
                "vision_dim": V,
                "cond_heads": 2,
                "max_len": T,
                **options,
            }
        )

    def forward(self, tokens: Tensor, vision: Tensor) -> Tensor:
        """Logits [B, T, 7]."""
        logits: Tensor = self.model(tokens, vision)
        return logits


def tokens_and_image() -> Inputs:
    """tokens [B, T], vision [B, M, dv]."""
    return torch.randint(7, (B, T)), torch.randn(B, M, V)


WIDTHS = (Bad({"dim": 0}), Bad({"cond_dim": 0}), Bad({"vision_dim": 0}))
SHAPES = (
    Bad(inputs=of_shape(B, M, V + 1), names="vision"),
    Bad(inputs=of_shape(B + 1, M, V), names="vision"),
    Bad(inputs=of_shape(B, M, V, dtype=torch.long), names="vision", error=TypeError),
    Bad(inputs=with_mask(B, M + 1), names="vision_mask"),
    Bad(inputs=with_mask(B, M, dtype=torch.long), names="vision_mask"),
)
NO_MASK_PER_TOKEN = Bad(inputs=with_mask(B, T, M), names="vision_mask")

ROWS: list[Contract] = [
    LayerContract(
        method="normviz.adapters.ViLN",
        make=norm,
        inputs=text_and_image,
        bad=[
            *SHAPES,
            Bad({"dim": D + 1}),
            Bad({"cond_dim": 0}),
            Bad({"norm": nn.BatchNorm1d(D)}, error=TypeError),
            Bad({"num_heads": 3}),
            Bad({"conditioner": "film"}),
            Bad({"modulate": "gain"}),
            Bad({"conditioner": "mlp"}, names="num_visual_tokens"),
            Bad(
                {"conditioner": "mlp", "num_visual_tokens": M + 1}, text_and_image, names="num_visual_tokens"
            ),
            Bad({"conditioner": "conv", "kernel_size": 4}, names="kernel_size"),
            Bad(inputs=lambda: (torch.zeros(B, T, D + 1), torch.zeros(B, M, V)), names="t"),
            Bad(
                inputs=lambda: (torch.zeros(B, T, D), None, torch.ones(B, M, dtype=torch.bool)),
                names="vision_mask",
            ),
        ],
    ),
    LayerContract(
        method="normviz.adapters.ViLN",
        variant="rms-mask",
        make=lambda **options: norm(**{"norm": nn.RMSNorm(D, eps=None), **options}),
        inputs=masked(),
        bad=[Bad({"dim": 0})],
    ),
    *(
        LayerContract(
            method="normviz.adapters.ViLN",
            variant=kind,
            make=partial(norm, conditioner=kind, **options),
            inputs=masked(),
            bad=[NO_MASK_PER_TOKEN],
            skip={"numbers": "the heads are of the attention conditioner"},
        )
        for kind, options in (("mlp", {"num_visual_tokens": M}), ("conv", {"kernel_size": 3}), ("pooled", {}))
    ),
    LayerContract(
        method="normviz.adapters.AttentionConditioner",
        make=partial(conditioner, "AttentionConditioner", num_heads=2),
        inputs=masked(per_token=True),
        bad=[*WIDTHS, *SHAPES, Bad({"num_heads": 3})],
    ),
    LayerContract(
        method="normviz.adapters.MLPConditioner",
        make=lambda **options: conditioner("MLPConditioner", **{"num_visual_tokens": M, **options}),
        inputs=masked(),
        bad=[
            *WIDTHS,
            *SHAPES,
            NO_MASK_PER_TOKEN,
            Bad({"num_visual_tokens": 0}),
            Bad({"num_visual_tokens": M + 1}, text_and_image),
            Bad({"token_hidden": 0}),
            Bad({"channel_hidden": 0}),
        ],
    ),
    LayerContract(
        method="normviz.adapters.ConvConditioner",
        make=partial(conditioner, "ConvConditioner"),
        inputs=masked(),
        bad=[*WIDTHS, *SHAPES, NO_MASK_PER_TOKEN, Bad({"kernel_size": 4}), Bad({"kernel_size": -1})],
    ),
    LayerContract(
        method="normviz.adapters.PooledConditioner",
        make=partial(conditioner, "PooledConditioner"),
        inputs=text_and_image,
        differentiable=False,  # the text has no influence on it
        bad=[*WIDTHS, *SHAPES, NO_MASK_PER_TOKEN],
    ),
    LayerContract(
        method="normviz.adapters.inject_lavi",
        make=Seeing,
        inputs=text_and_image,
        bad=[
            Bad({"modulate_every": 0}),
            Bad({"sublayers": "norm"}),
            Bad({"modulate": "gain"}),
            Bad({"cond_dim": 0}),
            Bad({"sublayers": "ffn"}, names="model"),
            Bad({"select": lambda *_: False}, names="model"),
            Bad({"model": nn.LayerNorm(D)}),
        ],
    ),
    *(
        LayerContract(
            method="normviz.adapters.LaViDecoder",
            variant=fusion,
            make=partial(Decoder, fusion=fusion),
            inputs=tokens_and_image,
            bad=[
                Bad({"fusion": "film"}),
                Bad({"norm": "batch"}),
                Bad({"conditioner": "film"}),
                Bad({"sublayers": "norm"}),
                Bad({"modulate": "gain"}),
                Bad({"modulate_every": 0}),
                Bad({"num_heads": 3}),
                Bad({"vision_dim": None}),
                Bad({"max_len": T - 1}, tokens_and_image),
                Bad(
                    inputs=lambda: (torch.zeros(B, T), torch.zeros(B, M, V)), names="tokens", error=TypeError
                ),
                Bad(inputs=lambda: (torch.zeros(B, T).long(), torch.zeros(B, M, V + 1)), names="vision"),
                Bad(inputs=lambda: (torch.zeros(B, T).long(), torch.zeros(B + 1, M, V)), names="vision"),
            ],
        )
        for fusion in ("lavi", "concat", "cross_attention")
    ),
    FunctionContract(
        method="normviz.adapters.decoder_flops",
        inputs=lambda: (64, 2, 8, 32),
        tensors=False,
        bad=[Bad({"kv_dim": 0}), Bad({"ffn_mats": 0}), Bad(inputs=lambda: (-1, 2, 8, 32), names="n")],
    ),
    FunctionContract(
        method="normviz.adapters.concat_flops",
        inputs=lambda: (64, 9, 2, 8, 32),
        tensors=False,
        bad=[Bad({"kv_dim": 0}), Bad(inputs=lambda: (64, -1, 2, 8, 32), names="M")],
    ),
    FunctionContract(
        method="normviz.adapters.cross_attention_flops",
        inputs=lambda: (64, 9, 2, 8, 32, 1),
        tensors=False,
        bad=[Bad({"kv_dim": 0}), Bad(inputs=lambda: (64, 9, 2, 8, 32, -1), names="n_mod")],
    ),
    FunctionContract(
        method="normviz.adapters.lavi_flops",
        inputs=lambda: (64, 9, 2, 8, 32, 4, 4),
        tensors=False,
        bad=[
            Bad({"conditioner": "film"}),
            Bad({"vision_dim": 0}),
            Bad({"token_hidden": 0}),
            Bad({"channel_hidden": 0}),
            Bad({"kernel_size": 0}),
            Bad(inputs=lambda: (64, 9, 2, 8, 32, 4, 0), names="cond_dim"),
        ],
    ),
]
