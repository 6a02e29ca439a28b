r"""LaVi: a language model sees an image through the gains and biases of its norms.

Yue, Guo, Tang, Zhao, Zhu, Huang, Liu 2025, "LaVi: Efficient Large Vision-Language Models via Internal Feature
Modulation", arXiv 2506.16691. No official code is public. The text keeps its length: no visual token enters
self-attention. Instead the norms of some blocks get, for every text token, a change of gain and bias that depends on
what that token reads from the image. With changes of zero the language model is the original one. The cost of an image
is linear in its number of visual tokens, where placing these tokens before the text costs the square.

    the norm                                   ViLN, vision_context
    what reads the image                       AttentionConditioner, MLPConditioner, ConvConditioner
    control without choice by token            PooledConditioner
    for an existing network                    inject_lavi, freeze_host
    a small decoder with rivals of LaVi        LaViDecoder, LaViCache
    cost                                       decoder_flops, concat_flops, lavi_flops, cross_attention_flops

The modulation of gain and bias by token, the three conditioners and their ablation are the paper's. The inside of the
conditioners, their widths, the zero start and the choice of layers could not be read and are reconstructed; each file
says which.
"""

from normviz.adapters.host_freezing import freeze_host
from normviz.adapters.lavi_decoder import LaViCache, LaViDecoder
from normviz.adapters.lavi_flops import concat_flops, cross_attention_flops, decoder_flops, lavi_flops
from normviz.adapters.lavi_injection import inject_lavi
from normviz.adapters.vision_conditioners import (
    AttentionConditioner,
    ConvConditioner,
    MLPConditioner,
    PooledConditioner,
)
from normviz.adapters.vision_infused_norm import ViLN, vision_context

__all__ = [
    "AttentionConditioner",
    "ConvConditioner",
    "LaViCache",
    "LaViDecoder",
    "MLPConditioner",
    "PooledConditioner",
    "ViLN",
    "concat_flops",
    "cross_attention_flops",
    "decoder_flops",
    "freeze_host",
    "inject_lavi",
    "lavi_flops",
    "vision_context",
]
