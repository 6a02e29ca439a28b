r"""Several concepts' adapters into one model: summed, averaged, or fused on recorded inputs.

Po, Yang, Aberman, Wetzstein 2024 (Orthogonal Adaptation), CVPR 2024, arXiv 2312.02432. With D_i = s_i A_i B_i^T:

    sum               theta + sum_i lambda_i D_i                 the paper's; lambda_i = 1 by default
    fedavg            theta + sum_i w_i D_i / sum_i w_i          w_i = 1 by default
    gradient_fusion   least squares on the concepts' inputs      Mix-of-Show, :mod:`normviz.adapters.gradient_fusion`

The paper's value of lambda is not confirmed. Residuals of orthogonal frames are made to be summed: averaging leaves 1/N
of each. Only weights are merged; token embeddings stand side by side, and biases are not tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from normviz.adapters._values import check_floating, check_matrix
from normviz.adapters.crosstalk import check_weights, float64_of
from normviz.adapters.gradient_fusion import SOLVERS, fused_delta
from normviz.adapters.orthogonal_frames import SHARED_FRAMES
from normviz.validation import check_choice, check_integer

__all__ = ["MERGES", "AdapterState", "merge_adapters"]

MERGES = ("sum", "fedavg", "gradient_fusion")
"""How adapters become one model."""

AdapterState = Mapping[str, Mapping[str, Any]]
"""Layer name -> lora_up [out, r], basis [in, r] and, where it is known, scaling, method, seed, concept, columns."""


def merge_adapters(
    base_state: Mapping[str, Any],
    adapters: Sequence[AdapterState],
    method: str = "sum",
    weights: Sequence[float] | Tensor | None = None,
    inputs: Sequence[Mapping[str, Tensor]] | None = None,
    solver: str = "lbfgs",
    iters: int = 50,
    allow_same: bool = False,
) -> dict[str, Any]:
    r"""The state of one model that carries all concepts.

    Po et al. 2024, arXiv 2312.02432: ``theta + sum_i lambda_i Delta theta_i`` per adapted layer, and its baselines.

    Args:
        base_state: state_dict of the model without adapters, with an entry "<layer>.weight" for each adapted layer.
        adapters: one state per concept, see :func:`~normviz.adapters.adapter_state`. A layer needs only lora_up and
            basis: scaling is 1 if absent, and an ordinary LoRA has its trained down-projection, transposed, as basis.
            Ranks may differ.
        method: "sum" (default), "fedavg" or "gradient_fusion".
        weights: N finite numbers: lambda_i of "sum" (default 1), w_i of "fedavg" (default 1/N; divided by their sum).
            "gradient_fusion" fits lambda_i D_i (default 1).
        inputs: for "gradient_fusion": per concept the recorded inputs X_i [n_i, in] of every adapted layer.
        solver: of "gradient_fusion": "lbfgs" (default, as in the public code) or "closed_form", its limit.
        iters: of "lbfgs", >= 1. Default 50 (the public script's value for the U-Net).
        allow_same: merge concepts with identical frames too. Default False.

    Returns:
        base_state's entries, copied; the weights of adapted layers computed in float64 and cast to their dtype.

    Raises:
        ValueError: adapters is empty; unknown method or solver; iters out of range. Naming the layer: adapters with
            different layers, a layer that base_state lacks, a missing factor, shapes that do not fit. Naming seed:
            frames from different shared matrices. Naming the frame: two concepts with the same method, seed, concept
            and rank. Naming weights: a wrong number of them, one not finite, a sum of 0 for "fedavg". Naming inputs:
            absent, a wrong number of them, a layer missing, another shape, not finite.
        TypeError: factors or inputs are not floating.

    Example:
        >>> base = {"k.weight": torch.zeros(1, 2)}
        >>> first = {"k": {"lora_up": torch.tensor([[2.0]]), "basis": torch.tensor([[1.0], [0.0]])}}
        >>> second = {"k": {"lora_up": torch.tensor([[3.0]]), "basis": torch.tensor([[0.0], [1.0]])}}
        >>> merge_adapters(base, [first, second])["k.weight"]
        tensor([[2., 3.]])
    """
    check_choice("method", method, MERGES)
    check_choice("solver", solver, SOLVERS)
    iters = check_integer("iters", iters, 1)
    layers = _check_layers(base_state, adapters)
    scales = _scales(method, weights, len(adapters))
    for layer in layers:
        _check_frames(layer, [adapter[layer] for adapter in adapters], allow_same)
    recorded = (
        _check_inputs(base_state, layers, len(adapters), inputs) if method == "gradient_fusion" else None
    )

    merged = {name: _copy(value) for name, value in base_state.items()}
    for layer in layers:
        name = _weight_name(layer)
        weight = base_state[name].detach()
        theta = float64_of(weight)
        deltas = [
            scale * _delta(adapter[layer], theta) for scale, adapter in zip(scales, adapters, strict=True)
        ]
        if recorded is None:
            change = torch.stack(deltas).sum(0)
        else:
            change = fused_delta(deltas, [x[layer].to(theta.device) for x in recorded], solver, iters)
        merged[name] = (theta + change.view_as(theta)).to(weight)
    return merged


def _weight_name(layer: str) -> str:
    """The weight's key; a model that is itself the layer has the name ''."""
    return f"{layer}.weight" if layer else "weight"


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _delta(entry: Mapping[str, Any], theta: Tensor) -> Tensor:
    """s A B^T [out, in] in float64 on theta's device."""
    A, B = (float64_of(entry[name].detach()).to(theta.device) for name in ("lora_up", "basis"))
    return float(entry.get("scaling", 1.0)) * (A @ B.mT)


def _scales(method: str, weights: Sequence[float] | Tensor | None, count: int) -> list[float]:
    scales = check_weights(weights, count, 1.0)
    if method != "fedavg":
        return scales
    total = sum(scales)
    if total == 0:
        raise ValueError(f"weights must not sum to 0 for method 'fedavg', got {scales}.")
    return [scale / total for scale in scales]


def _check_layers(base_state: Mapping[str, Any], adapters: Sequence[AdapterState]) -> list[str]:
    """The adapted layers, whose shapes fit each other and the base."""
    if isinstance(adapters, Mapping) or len(adapters) == 0:
        raise ValueError("adapters must be a sequence of at least one adapter state.")
    layers = list(adapters[0])
    if not layers:
        raise ValueError("adapters[0] holds no layer.")
    for i, adapter in enumerate(adapters):
        unshared = sorted(set(adapter) ^ set(layers))
        if unshared:
            raise ValueError(f"layer {unshared[0]!r} is in only one of adapters[0] and adapters[{i}].")
    for layer in layers:
        weight = base_state.get(_weight_name(layer))
        if not isinstance(weight, Tensor):
            raise ValueError(f"layer {layer!r} is absent from base_state: no entry {_weight_name(layer)!r}.")
        check_floating(f"base_state[{_weight_name(layer)!r}]", weight)
        if weight.ndim not in (2, 4) or weight.shape[2:].numel() != 1:
            raise ValueError(
                f"layer {layer!r}: the weight must be [out, in] or [out, in, 1, 1], got {tuple(weight.shape)}."
            )
        for i, adapter in enumerate(adapters):
            _check_factors(layer, i, adapter[layer], weight)
    return layers


def _check_factors(layer: str, i: int, entry: Mapping[str, Any], weight: Tensor) -> None:
    for name, size in zip(("lora_up", "basis"), weight.shape[:2], strict=True):
        label = f"layer {layer!r} of adapters[{i}]: {name}"
        if not isinstance(entry.get(name), Tensor):
            raise ValueError(f"{label} is missing.")
        check_matrix(label, entry[name], rows=size)
    ranks = entry["lora_up"].shape[1], entry["basis"].shape[1]
    if ranks[0] != ranks[1]:
        raise ValueError(
            f"layer {layer!r} of adapters[{i}]: lora_up and basis must have one rank, got {ranks[0]} and {ranks[1]}."
        )


def _check_frames(layer: str, entries: Sequence[Mapping[str, Any]], allow_same: bool) -> None:
    """One shared matrix for all, and no frame twice, as far as the entries say where their frames come from."""
    for (i, first), (j, second) in combinations(enumerate(entries), 2):
        seeds = [
            entry["seed"]
            for entry in (first, second)
            if entry.get("method") in SHARED_FRAMES and entry.get("seed") is not None
        ]
        if len(set(seeds)) > 1:
            raise ValueError(
                f"seed must be the same in all adapters that share an orthogonal matrix, got {seeds} in layer "
                f"{layer!r} of adapters[{i}] and adapters[{j}]."
            )
        origins = [
            (*(entry.get(name) for name in ("method", "seed", "concept")), entry["basis"].shape[1])
            for entry in (first, second)
        ]
        if not allow_same and None not in origins[0] and origins[0] == origins[1]:
            raise ValueError(
                f"adapters[{i}] and adapters[{j}] have the same frame: interference is certain (layer {layer!r}, "
                f"concept={first['concept']}). allow_same=True merges them nevertheless."
            )


def _check_inputs(
    base_state: Mapping[str, Any],
    layers: Sequence[str],
    count: int,
    inputs: Sequence[Mapping[str, Tensor]] | None,
) -> Sequence[Mapping[str, Tensor]]:
    if inputs is None or len(inputs) != count:
        given = "None" if inputs is None else f"{len(inputs)}"
        raise ValueError(
            f"inputs must hold the recorded inputs of each of {count} adapters for method 'gradient_fusion', got "
            f"{given}."
        )
    for i, recorded in enumerate(inputs):
        for layer in layers:
            if layer not in recorded:
                raise ValueError(f"inputs[{i}] lacks the layer {layer!r}.")
            check_matrix(
                f"inputs[{i}][{layer!r}]", recorded[layer], columns=base_state[_weight_name(layer)].shape[1]
            )
            if not recorded[layer].isfinite().all():
                raise ValueError(f"inputs[{i}][{layer!r}] must be finite.")
    return inputs
