r"""A graph of the EvoNorm search as an ordinary torch layer: ``y = weight * graph(x) + bias``."""

from __future__ import annotations

from functools import partial
from math import gcd

import torch
from torch import Tensor, nn

from normviz.norms._evonorm_graph import FIRST_NODE, Graph, Node
from normviz.norms._evonorm_language import AGGREGATIONS, buffer_name, is_batch_op
from normviz.norms._evonorm_primitives import PRIMITIVES, moment
from normviz.norms.evonorm import check_images, per_channel, widened
from normviz.validation import check_integer, check_real

__all__ = ["GraphLayer2d", "layer_factory"]


class GraphLayer2d(nn.Module):
    r"""Evaluate a searched graph and close it with a per-channel affine map.

    ``y = weight * g(x; v0, v1) + bias`` on (N, C, H, W). Only live nodes are computed. Every batch aggregation that
    is live owns a buffer (C,) with the running mean (init 0), mean square (init 1) or variance (init 1), used in
    evaluation mode in place of the batch's; in training ``buffer <- (1-m) buffer + m value`` with the variance
    unbiased by n/(n-1), n = N*H*W.

    Args:
        graph: the candidate.
        num_features: C.
        groups: groups of the ``*_whg`` aggregations; 8. Must divide C if one of them is live.
        eps: guard of div, log, sqrt and of the roots of rms and std; 1e-5.
        momentum: weight m of the new value in the running moments; 0.1.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    State: ``v0``, ``v1``, ``weight``, ``bias`` and ``running_<op>_<canonical id>``. float16 and bfloat16 inputs are
    computed in float32 and cast back.

    Raises:
        ValueError: at construction for num_features or groups < 1, eps < 0, momentum outside [0, 1], groups that do
            not divide C while a ``*_whg`` node is live.

    Example:
        >>> import torch
        >>> from normviz.norms import EVONORM_GRAPHS
        >>> layer = GraphLayer2d(EVONORM_GRAPHS["BN-ReLU"], 16)
        >>> layer(torch.randn(8, 16, 4, 4)).min().item()
        0.0

    Reference: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", arXiv 2004.02967, the search
        space.
    """

    v0: nn.Parameter
    v1: nn.Parameter
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        graph: Graph,
        num_features: int,
        groups: int = 8,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.num_features = check_integer("num_features", num_features, 1)
        self.groups = check_integer("groups", groups, 1)
        self.eps = check_real("eps", eps, 0)
        self.momentum = check_real("momentum", momentum, 0, 1)
        self._program: tuple[Node, ...] = graph.canonical().nodes
        if num_features % groups and any(node.op.endswith("_whg") for node in self._program):
            raise ValueError(f"groups must divide num_features = {num_features}, got {groups}.")
        for name, init in {"v0": 0.0, "v1": 1.0, "weight": 1.0, "bias": 0.0}.items():
            self.register_parameter(
                name, nn.Parameter(torch.full((num_features,), init, device=device, dtype=dtype))
            )
        for i, (op, _) in enumerate(self._program, FIRST_NODE):
            if is_batch_op(op):
                init = 0.0 if op == "mean_bwh" else 1.0
                self.register_buffer(
                    buffer_name(i, op), torch.full((num_features,), init, device=device, dtype=dtype)
                )

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: (N, C, H, W), floating.

        Returns:
            Tensor of the same shape and dtype.

        Raises:
            ValueError: ``input`` is not (N, C, H, W), or N*H*W = 1 in training with a live ``std_bwh``.
            TypeError: ``input`` is not floating.
        """
        check_images(input, self.num_features)
        x = widened(input)
        v0, v1 = (per_channel(v).to(x.dtype).expand_as(x) for v in (self.v0, self.v1))
        values = [x, torch.zeros_like(x), v0, v1]  # each (N, C, H, W)
        for i, (op, inputs) in enumerate(self._program, FIRST_NODE):
            arguments = [values[j] for j in inputs]
            if is_batch_op(op):
                value = self._batch_aggregate(i, op, arguments[0])
            else:
                value = PRIMITIVES[op].fn(*arguments, eps=self.eps, groups=self.groups)
            values.append(value)
        return (per_channel(self.weight) * values[-1] + per_channel(self.bias)).to(input.dtype)

    def _batch_aggregate(self, i: int, op: str, a: Tensor) -> Tensor:
        """Batch moment in training (and its running value updated), running moment in evaluation."""
        kind, index = AGGREGATIONS[op]
        running = self.get_buffer(buffer_name(i, op))
        if self.training:
            n = a.shape[0] * a.shape[2] * a.shape[3]
            if kind == "variance" and n == 1:
                raise ValueError(f"a live std_bwh needs N*H*W > 1 in training, got shape {tuple(a.shape)}.")
            m = moment(kind, a, index)  # (1, C, 1, 1)
            with torch.no_grad():
                new = m.detach().flatten() * (n / (n - 1) if kind == "variance" else 1.0)
                running.copy_((1 - self.momentum) * running + self.momentum * new)
        else:
            m = per_channel(running).to(a.dtype)
        if kind != "mean":
            m = (m + self.eps).sqrt()
        return m.expand_as(a)  # (N, C, H, W)

    def extra_repr(self) -> str:
        """Formula and arguments, for ``repr``."""
        formula = self.graph.to_formula()
        return f"{formula}, {self.num_features}, groups={self.groups}, eps={self.eps:g}, momentum={self.momentum:g}"


def _build(graph: Graph, groups: int, eps: float, momentum: float, num_features: int) -> GraphLayer2d:
    return GraphLayer2d(graph, num_features, gcd(groups, num_features), eps, momentum)


def layer_factory(
    graph: Graph, groups: int = 8, eps: float = 1e-5, momentum: float = 0.1
) -> partial[GraphLayer2d]:
    """``factory(channels) -> GraphLayer2d``, the form in which networks take their norm.

    ``groups`` is lowered to its greatest common divisor with the channel count, so a factory fits every width.

    Example:
        >>> from normviz.norms import EVONORM_GRAPHS
        >>> layer_factory(EVONORM_GRAPHS["S0"])(12).groups
        4
    """
    return partial(_build, graph, groups, eps, momentum)
