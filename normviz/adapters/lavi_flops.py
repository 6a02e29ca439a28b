"""Floating-point operations of a decoder that sees an image: by concatenation, by LaVi, by cross-attention.

Yue et al. 2025, LaVi, arXiv 2506.16691, compares costs; its own accounting is not public, this one is ours. A
multiply-add counts 2. Matrix products are counted; norms, softmax, embeddings, the output matrix, the image encoder and
the projector are left out, and the causal half of attention is not saved. With L layers, width d, key width d_kv, a
feed-forward part of f matrices d x m:

    decoder(n) = 2 L [n (2 d^2 + 2 d d_kv) + 2 n^2 d + f n d m]
    concat     = decoder(T + M)
    LaVi       = decoder(T) + 2 n_mod c             n_mod modulated norms, each with a conditioner of c multiply-adds

    attention  c = T d r + 2 M dv r + 2 T M r + 2 T r d
    mlp        c = T d r + M dv r + M h r + 2 T h r + 2 T r w + 2 T r d       h, w hidden units along rows and channels
    conv       c = T d r + M dv r + T (M + 1)(k r + r^2) + 2 T r d            as written; the layer shares most of it
    pooled     c = dv r + 2 r d

The last term is the head of the norm. For small T the projections of the visual tokens, 2 M dv r, are the largest.
While generating with a cache every T is 1 and those of the visual tokens are free.
"""

from __future__ import annotations

from normviz.adapters.vision_infused_norm import CONDITIONERS
from normviz.validation import check_choice, check_integer

__all__ = ["concat_flops", "cross_attention_flops", "decoder_flops", "lavi_flops"]


def decoder_flops(
    n: int, layers: int, dim: int, ffn: int, kv_dim: int | None = None, ffn_mats: int = 3
) -> int:
    """Floating-point operations of a decoder over n tokens, see :mod:`normviz.adapters.lavi_flops`.

    Args:
        n: tokens, >= 0.
        layers: L.
        dim: d.
        ffn: m, width of the feed-forward part.
        kv_dim: d_kv, width of all keys together. None (default): ``dim``.
        ffn_mats: f: 3 for a gated feed-forward part (default), 2 for a plain one.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> decoder_flops(1, 1, dim=2, ffn=4, ffn_mats=2)
        72
    """
    check_integer("n", n, 0)
    for name, value in (("layers", layers), ("dim", dim), ("ffn", ffn), ("ffn_mats", ffn_mats)):
        check_integer(name, value, 1)
    kv = dim if kv_dim is None else check_integer("kv_dim", kv_dim, 1)
    projections = n * (2 * dim * dim + 2 * dim * kv)
    return 2 * layers * (projections + 2 * n * n * dim + ffn_mats * n * dim * ffn)


def concat_flops(
    T: int, M: int, layers: int, dim: int, ffn: int, kv_dim: int | None = None, ffn_mats: int = 3
) -> int:
    """The same where M visual tokens stand before T text tokens: ``decoder_flops(T + M, ...)``, quadratic in M.

    Args:
        T: text tokens, >= 0.
        M: visual tokens, >= 0.
        layers, dim, ffn, kv_dim, ffn_mats: as in :func:`decoder_flops`.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> round(concat_flops(64, 576, 32, 4096, 11008) / 1e12, 2)
        8.5
    """
    check_integer("T", T, 0)
    check_integer("M", M, 0)
    return decoder_flops(T + M, layers, dim, ffn, kv_dim, ffn_mats)


def cross_attention_flops(
    T: int, M: int, layers: int, dim: int, ffn: int, n_mod: int, kv_dim: int | None = None, ffn_mats: int = 3
) -> int:
    """The same with full-width cross-attention to M visual tokens before n_mod of the blocks.

    ``decoder(T) + 2 n_mod (2 T d^2 + 2 M d^2 + 2 T M d)``: queries and output, keys and values, the two products.

    Args:
        T: text tokens, >= 0.
        M: visual tokens, >= 0.
        n_mod: blocks with cross-attention, >= 0.
        layers, dim, ffn, kv_dim, ffn_mats: as in :func:`decoder_flops`.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> cross_attention_flops(1, 1, 1, dim=2, ffn=4, n_mod=1, ffn_mats=2) - decoder_flops(1, 1, 2, 4, ffn_mats=2)
        40
    """
    check_integer("M", M, 0)
    check_integer("n_mod", n_mod, 0)
    text = concat_flops(T, 0, layers, dim, ffn, kv_dim, ffn_mats)
    return text + 2 * n_mod * (2 * T * dim * dim + 2 * M * dim * dim + 2 * T * M * dim)


def lavi_flops(
    T: int,
    M: int,
    layers: int,
    dim: int,
    ffn: int,
    n_mod: int,
    cond_dim: int,
    conditioner: str = "attention",
    *,
    vision_dim: int | None = None,
    kv_dim: int | None = None,
    ffn_mats: int = 3,
    token_hidden: int | None = None,
    channel_hidden: int | None = None,
    kernel_size: int = 7,
) -> int:
    """The same for LaVi: the decoder over T text tokens alone, and a conditioner for each modulated norm. Affine in M.

    Args:
        T: text tokens, >= 0.
        M: visual tokens, >= 0.
        layers, dim, ffn, kv_dim, ffn_mats: as in :func:`decoder_flops`.
        n_mod: modulated norms (two in a block where both are), >= 0.
        cond_dim: r.
        conditioner: "attention" (default), "mlp", "conv" or "pooled".
        vision_dim: dv. None (default): ``dim``.
        token_hidden, channel_hidden: h and w of "mlp". None (default): r and 2 r.
        kernel_size: k of "conv". Default 7.

    Raises:
        ValueError: an argument out of range, an unknown conditioner.

    Example:
        >>> round(lavi_flops(64, 576, 32, 4096, 11008, n_mod=16, cond_dim=1024) / 1e12, 2)
        1.01
    """
    check_integer("M", M, 0)
    check_integer("n_mod", n_mod, 0)
    text = concat_flops(T, 0, layers, dim, ffn, kv_dim, ffn_mats)
    kind = check_choice("conditioner", conditioner, CONDITIONERS)
    r = check_integer("cond_dim", cond_dim, 1)
    dv = dim if vision_dim is None else check_integer("vision_dim", vision_dim, 1)
    h = r if token_hidden is None else check_integer("token_hidden", token_hidden, 1)
    wide = 2 * r if channel_hidden is None else check_integer("channel_hidden", channel_hidden, 1)
    k = check_integer("kernel_size", kernel_size, 1)
    text_and_head = T * dim * r + 2 * T * r * dim
    each = {
        "attention": text_and_head + 2 * M * dv * r + 2 * T * M * r,
        "mlp": text_and_head + M * dv * r + M * h * r + 2 * T * h * r + 2 * T * r * wide,
        "conv": text_and_head + M * dv * r + T * (M + 1) * (k * r + r * r),
        "pooled": dv * r + 2 * r * dim,
    }
    return text + 2 * n_mod * each[kind]
