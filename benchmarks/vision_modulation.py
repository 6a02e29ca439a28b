"""LaVi against visual tokens before the text, over the number of visual tokens; and its norm against nn.LayerNorm.

Forward and backward of a decoder of four blocks of width 128 over 16 words, one picture. Exponents are fitted to the
time from 144 tokens on: below, Python's own time is larger than the arithmetic. The clock is the processor time of one
thread, so that other programs on the machine count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.report import paired_ratio, report
from normviz.adapters import LaViDecoder, ViLN, concat_flops, cross_attention_flops, lavi_flops

TOKENS = (9, 36, 144, 576, 1024)
FITTED = 2
"""Index of the first number of tokens that exponents are fitted to."""
WORDS, WIDTH, BLOCKS, R, EVERY = 16, 128, 4, 64, 2
REPEATS = 3

ARMS: dict[str, dict[str, object]] = {
    "Concat": {"fusion": "concat"},
    "Cross-attention": {"fusion": "cross_attention"},
    "LaVi attention": {},
    "LaVi conv": {"conditioner": "conv"},
    "LaVi MLP": {"conditioner": "mlp"},
}


def operations(arm: str, m: int) -> int:
    """Operations of a forward pass by the formulas."""
    shape = {"layers": BLOCKS, "dim": WIDTH, "ffn": 4 * WIDTH, "ffn_mats": 2}
    if arm == "Concat":
        return concat_flops(WORDS, m, **shape)
    if arm == "Cross-attention":
        return cross_attention_flops(WORDS, m, n_mod=BLOCKS // EVERY, **shape)
    kind = str(ARMS[arm].get("conditioner", "attention"))
    return lavi_flops(WORDS, m, n_mod=2 * BLOCKS // EVERY, cond_dim=R, conditioner=kind, **shape)


def seconds(call: Callable[[], torch.Tensor]) -> float:
    """Processor time of a forward and a backward pass."""
    start = time.thread_time()
    call().square().sum().backward()
    return time.thread_time() - start


def milliseconds(arm: str, m: int) -> float:
    """Least of some repeats."""
    torch.manual_seed(0)
    model = LaViDecoder(
        32,
        WIDTH,
        BLOCKS,
        4,
        modulate_every=EVERY,
        vision_dim=WIDTH,
        cond_dim=R,
        num_visual_tokens=m,
        max_len=WORDS,
        **ARMS[arm],
    )
    tokens, picture = torch.randint(32, (1, WORDS)), torch.randn(1, m, WIDTH)
    seconds(lambda: model(tokens, picture))
    return 1e3 * min(seconds(lambda: model(tokens, picture)) for _ in range(REPEATS))


def norm_ratio(kind: str) -> tuple[float, float, float]:
    """Time of a vision-infused norm over that of nn.LayerNorm, forward and backward."""
    plain = nn.LayerNorm(WIDTH)
    infused = ViLN(nn.LayerNorm(WIDTH), WIDTH, R, conditioner=kind, num_visual_tokens=36)
    t = torch.randn(64, WORDS, WIDTH, requires_grad=True)
    picture = torch.randn(64, 36, WIDTH)
    return paired_ratio(lambda: seconds(lambda: infused(t, picture)), lambda: seconds(lambda: plain(t)))


def main() -> None:
    """Time every arm at every number of tokens; then the norm alone."""
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    base: list[float] = []
    for arm in ARMS:
        times = [milliseconds(arm, m) for m in TOKENS]
        base = base or times
        slope = float(np.polyfit(np.log(TOKENS[FITTED:]), np.log(times[FITTED:]), 1)[0])
        saved = 100 * (1 - operations(arm, TOKENS[-1]) / operations("Concat", TOKENS[-1]))
        rows.append([arm, *times, slope, base[-1] / times[-1], saved])
    columns = (
        "forward and backward (ms)",
        *(f"M = {m}" for m in TOKENS),
        f"exponent from {TOKENS[FITTED]}",
        f"speed-up at {TOKENS[-1]}",
        "operations saved (%)",
    )
    note = "Goal: LaVi has the smaller exponent, and is faster at 1,024 tokens. Processor time of one thread."
    report("vision_modulation", "Visual tokens: LaVi against concatenation", columns, rows, note)
    ratios: list[list[object]] = [
        [kind, *norm_ratio(kind)] for kind in ("pooled", "attention", "conv", "mlp")
    ]
    report(
        "vision_modulation_norm",
        "A vision-infused norm over nn.LayerNorm",
        ("conditioner", "median ratio", "lowest", "highest"),
        ratios,
        "Forward and backward, width 128, 64 texts of 16 words, 36 visual tokens.",
    )


if __name__ == "__main__":
    main()
