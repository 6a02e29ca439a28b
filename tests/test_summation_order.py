"""The plugin that sums in another order: other last bits, the same numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import torch, torch.nn.functional as F
g = torch.Generator().manual_seed(0)
x, y = torch.randn(2, 300, 300, generator=g).unbind()
a, b = torch.randn(2, 4, 40, 40, generator=g).unbind()
bias = torch.randn(300, generator=g)

def results():
    return {
        "mm": x @ y, "addmm": F.linear(x, y, bias), "bmm": a @ b, "baddbmm": torch.baddbmm(a, a, b, alpha=0.5),
        "dot": x[0] @ y[0], "sum": x.sum(1), "sum of all": x.sum(), "mean": x.mean((0, 1), keepdim=True),
        "norm": torch.linalg.vector_norm(x, dim=1), "softmax": x.softmax(1), "log_softmax": x.log_softmax(0),
        "scalar": x[0, 0].softmax(0), "integers": (x > 0).sum(),
    }

plain = results()
import tests.summation_order
for name, value in results().items():
    torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-4)
    assert value.dtype == plain[name].dtype and value.shape == plain[name].shape, name
    print(name, int(not torch.equal(value, plain[name])))
"""


def test_other_bits_and_the_same_numbers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    differs = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {name for name, other in differs.items() if other == "1"} >= {"mm", "addmm", "bmm", "sum"}
    assert differs["integers"] == differs["scalar"] == "0"
