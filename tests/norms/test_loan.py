"""LOAN and its network against NumPy loops, and the properties that the paper's design rests on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms import LOAN, DayOfYearEncoding, LOANFireNet, leap_day_of_year
from tests.norms import loan_formulas as formulas


def arrays(module: nn.Module) -> formulas.Weights:
    return {name: p.detach().double().numpy() for name, p in module.state_dict().items()}


def loan(seed: int = 0, std: float = 0.3, **options) -> LOAN:
    """A LOAN in float64 whose modulation is far from none, biases too."""
    torch.manual_seed(seed)
    layer = LOAN(4, 3, **options).double()
    for p in layer.parameters():
        nn.init.normal_(p, 0, std)
    return layer


def maps(seed: int = 1, n: int = 3, days: int = 2, size: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    x = 2 + 3 * torch.randn(n, 4, days, size, size, dtype=torch.float64)
    return x, 1 + 2 * torch.randn(n, 3, size, size, dtype=torch.float64)


# --------------------------------------------------------------------------------- against the NumPy loops


@pytest.mark.parametrize(("kernel_size", "norm"), [(3, True), (1, True), (5, False)])
def test_twenty_training_steps_equal_numpy_with_running_statistics(kernel_size, norm) -> None:
    layer = loan(kernel_size=kernel_size, norm=norm)
    reference = formulas.Layer(arrays(layer), norm)
    for step in range(20):
        x, cond = maps(step)
        np.testing.assert_allclose(
            layer(x, cond).detach(), reference(x.numpy(), cond.numpy()), rtol=1e-10, atol=1e-10
        )
    norms = [(layer.norm_cond, reference.norm_cond)] + ([(layer.norm_x, reference.norm_x)] if norm else [])
    for ours, theirs in norms:
        np.testing.assert_allclose(ours.running_mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(ours.running_var, theirs.var, rtol=1e-12)
        assert ours.num_batches_tracked == theirs.batches == 20
    x, cond = maps(99)
    out = layer.eval()(x, cond).detach()
    np.testing.assert_allclose(
        out, reference(x.numpy(), cond.numpy(), training=False), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("fusion", ["loan", "late", "early"])
@pytest.mark.parametrize(("days", "size"), [(8, (14, 15)), (10, (18, 14))])
def test_network_equals_numpy(fusion, days, size) -> None:
    torch.manual_seed(0)
    net = LOANFireNet(2, 1, 3, 3, widths=(2, 3, 4), hidden=(6, 5), dropout=0.0, fusion=fusion).double()
    for p in net.parameters():
        nn.init.normal_(p, 0.1, 0.4)
    dynamic = torch.randn(3, 2, days, *size, dtype=torch.float64)
    static = torch.randn(3, 1, *size, dtype=torch.float64)
    landcover = torch.rand(3, 3, *size, dtype=torch.float64)
    weights = arrays(net)
    out = net(dynamic, static, landcover, torch.tensor([1, 200, 366])).detach()
    expected = formulas.network(
        weights, fusion, dynamic.numpy(), static.numpy(), landcover.numpy(), [1, 200, 366]
    )
    # The table of days is stored in float32.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


# ------------------------------------------------------------------------------- the checks of the layer


def test_1_without_projections_it_is_the_norm_or_nothing() -> None:
    x, cond = maps()
    for norm in (True, False):
        layer = loan(norm=norm)
        for p in layer.parameters():
            nn.init.zeros_(p)
        if norm:
            expected = F.batch_norm(x, None, None, training=True)
            torch.testing.assert_close(layer(x, cond), expected, rtol=0, atol=1e-12)
            single = layer.float()(x.float(), cond.float())
            torch.testing.assert_close(single, expected.float(), rtol=0, atol=2e-6)
        else:
            assert torch.equal(layer(x, cond), x)


def test_2_modulation_is_constant_along_time() -> None:
    layer = loan().eval()
    x, cond = maps(days=4)
    gamma, beta = layer.modulation(cond)
    assert gamma.shape == beta.shape == (3, 4, 5, 5)
    factor = 1 + gamma[:, :, None]
    undone = (layer(x, cond) - beta[:, :, None]) / factor
    wide = (factor.abs() > 0.1).expand_as(x)
    torch.testing.assert_close(undone[wide], layer.norm_x(x)[wide], rtol=1e-9, atol=1e-9)


def test_3_scale_of_cond_does_not_matter_in_training_its_sign_does() -> None:
    layer = loan(std=0.1).float()
    x, cond = (m.float() for m in maps())
    out = layer(x, cond)
    a = torch.tensor([0.5, 2.0, 7.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(layer(x, a * cond + 3), out, rtol=0, atol=1e-4)
    assert (layer(x, -a * cond + 3) - out).abs().max() > 0.1


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_4_one_pixel_of_cond_reaches_its_neighbourhood_in_eval_and_all_samples_in_training(
    kernel_size,
) -> None:
    layer = loan(kernel_size=kernel_size)
    x, cond = maps(size=9)
    changed = cond.clone()
    changed[1, :, 4, 4] += 5
    reach = torch.zeros(9, 9, dtype=torch.bool)
    half = kernel_size // 2
    reach[4 - half : 5 + half, 4 - half : 5 + half] = True

    layer.eval()
    moved = ((layer(x, changed) - layer(x, cond)).abs() > 1e-12).any(2).any(1)  # (N, H, W)
    assert torch.equal(moved[1], reach)
    assert not moved[[0, 2]].any()
    layer.train()
    moved = ((layer(x, changed) - layer(x, cond)).abs() > 1e-12).any(2).any(1)
    # Where the ReLU leaves no channel of cond in the whole neighbourhood, nothing can change.
    assert moved.double().mean((1, 2)).min() > (0.7 if kernel_size == 1 else 0.98)


@pytest.mark.parametrize("norm", [True, False])
def test_5_gradcheck_and_gradients_into_the_static_branch(norm) -> None:
    layer = loan(norm=norm, track_running_stats=False)
    x, cond = (m.requires_grad_() for m in maps(n=2, size=3))
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: Tensor, cond: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, cond))

    weights = [p.detach().requires_grad_() for p in layer.parameters()]
    assert names == ["conv_gamma.weight", "conv_gamma.bias", "conv_beta.weight", "conv_beta.bias"]
    assert torch.autograd.gradcheck(forward, (x, cond, *weights))
    (gradient,) = torch.autograd.grad(layer(x, cond).pow(3).sum(), cond)
    assert gradient.abs().max() > 1e-3


def test_9_without_norm_x_has_no_statistics_and_cond_has() -> None:
    buffers = {name for name, _ in LOAN(4, 3, norm=False).named_buffers()}
    assert buffers == {f"norm_cond.{b}" for b in ("running_mean", "running_var", "num_batches_tracked")}
    assert LOAN(4, 3, norm=False).norm_x is None


# ------------------------------------------------------------------------------------ the layer's edges


def test_state_is_that_of_four_submodules() -> None:
    layer = LOAN(4, 3, kernel_size=5)
    assert [name for name, _ in layer.named_children()] == ["norm_x", "norm_cond", "conv_gamma", "conv_beta"]
    assert sum(p.numel() for p in layer.parameters()) == 2 * (3 * 4 * 25 + 4)
    assert len(layer.state_dict()) == 4 + 6
    assert len(LOAN(4, 3, track_running_stats=False).state_dict()) == 4


def test_starts_near_its_norm() -> None:
    torch.manual_seed(0)
    layer = LOAN(32, 32)
    for conv in (layer.conv_gamma, layer.conv_beta):
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert abs(float(conv.weight.detach().mean())) < 1e-3
        assert not conv.bias.any()
    x, cond = torch.randn(4, 32, 2, 6, 6), torch.randn(4, 32, 6, 6)
    gap = (layer(x, cond) - F.batch_norm(x, None, None, training=True)).abs()
    assert 1e-3 < gap.mean() < 0.5
    assert torch.equal(LOAN(4, 3, init_std=0.0).conv_beta.weight, torch.zeros(4, 3, 3, 3))


def test_map_without_time_is_one_day() -> None:
    layer = loan()
    x, cond = maps(days=1)
    torch.testing.assert_close(layer(x[:, :, 0], cond), layer(x, cond)[:, :, 0], rtol=1e-12, atol=1e-12)
    assert layer.norm_cond.num_batches_tracked == 2, "once per forward"


def test_eps_and_momentum_serve_both_norms() -> None:
    layer = loan(eps=0.5, momentum=1.0)
    x, cond = maps()
    layer(x, cond)
    for norm, values in ((layer.norm_x, x), (layer.norm_cond, cond)):
        dims = [d for d in range(values.ndim) if d != 1]
        torch.testing.assert_close(norm.running_var, values.var(dims), rtol=1e-12, atol=0)
        assert (norm.eps, norm.momentum) == (0.5, 1.0)
    assert "eps=0.5, momentum=1.0" in repr(layer)


def test_batch_statistics_in_eval_without_running_ones() -> None:
    layer = loan(track_running_stats=False)
    x, cond = maps()
    torch.testing.assert_close(layer.eval()(x, cond), layer.train()(x, cond), rtol=0, atol=0)


def test_constant_channel_of_cond_contributes_nothing() -> None:
    layer = loan()
    x, cond = maps()
    cond[:, 1] = 7.25
    out = layer(x, cond)
    with torch.no_grad():
        layer.conv_gamma.weight[:, 1] = 100.0
        layer.conv_beta.weight[:, 1] = -100.0
    assert out.isfinite().all()
    torch.testing.assert_close(layer(x, cond), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [True, False])
def test_one_value_per_channel_is_refused_in_training_and_leaves_the_state(norm) -> None:
    layer = loan(norm=norm)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 4, 5, 1, 1).double(), torch.randn(1, 3, 1, 1).double())
    assert all(
        torch.equal(value, before[name]) for name, value in layer.state_dict().items() if "mean" in name
    )
    x, cond = maps(n=1)
    assert layer(x, cond).isfinite().all()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("x", "cond"),
    [
        ((2, 4, 3, 5, 5), (2, 3, 5, 6)),
        ((2, 4, 3, 5, 5), (1, 3, 5, 5)),
        ((2, 4, 3, 5, 5), (2, 4, 5, 5)),
        ((2, 3, 3, 5, 5), (2, 3, 5, 5)),
        ((2, 4, 5), (2, 3, 5, 5)),
        ((2, 4, 3, 5, 5), (2, 3, 1, 5, 5)),
    ],
)
def test_other_shapes_are_refused_with_both_in_full(norm, x, cond) -> None:
    with pytest.raises(ValueError, match=r"x must have shape.*cond") as error:
        LOAN(4, 3, norm=norm)(torch.zeros(x), torch.zeros(cond))
    assert str(x) in str(error.value)
    assert str(cond) in str(error.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm_type": "layer"}, "norm_type"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"init_std": -1}, "init_std"),
    ],
)
def test_bad_arguments_of_the_layer(options, name) -> None:
    with pytest.raises(ValueError, match=name):
        LOAN(4, 3, **options)


# --------------------------------------------------------------------------------------------- the network


def small(fusion: str = "loan", **options) -> LOANFireNet:
    torch.manual_seed(0)
    return LOANFireNet(2, 1, 2, **{"widths": (2, 3, 4), "hidden": (6,), "fusion": fusion, **options})


def cube(days: int = 8, size: int = 14, n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 2, days, size, size), torch.randn(n, 1, size, size), torch.rand(n, 2, size, size)


DAYS = torch.tensor([5, 300])


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_6_default_network_has_the_official_size_and_gives_log_probabilities() -> None:
    net = LOANFireNet()
    assert count(net) == 413_762
    assert count(LOANFireNet(time_encoding=False)) == 413_506
    torch.manual_seed(0)
    out = net(
        torch.randn(2, 10, 10, 25, 25), torch.randn(2, 5, 25, 25), torch.rand(2, 10, 25, 25), DAYS
    ).detach()
    assert out.shape == (2, 2)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(2), rtol=0, atol=1e-6)


def closed_form_count(
    fusion: str, vd: int, vm: int, w: tuple[int, ...], hidden: tuple[int, ...], k: int
) -> int:
    a, b, c = w
    first = vd + (vm if fusion == "early" else 0)
    dynamic = (27 * first + 1) * a + (27 * a + 1) * b + (8 * b + 1) * c
    static = (9 * vm + 1) * a + (9 * a + 1) * b + (4 * b + 1) * c + 2 * a
    loans = sum(2 * (9 * n * n + n) for n in (a, b))
    parts = {"loan": dynamic + static + loans, "late": dynamic + static + 2 * a, "early": dynamic + 2 * a}
    outer = [2 * c + (0 if fusion == "early" else c), *hidden, k]
    return parts[fusion] + 2 * c + sum((i + 1) * o for i, o in pairwise(outer))


@pytest.mark.parametrize("fusion", ["loan", "late", "early"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 6, 3)])
def test_6_widths_and_hidden_scale_as_given(fusion, hidden) -> None:
    net = LOANFireNet(4, 2, 6, 3, widths=(5, 6, 7), hidden=hidden, fusion=fusion)
    assert count(net) == closed_form_count(fusion, 4, 8, (5, 6, 7), hidden, 3)
    assert [linear.out_features for linear in net.head] == [*hidden, 3]


def test_8_state_dict_holds_table_gain_and_statistics_and_reloads_bit_for_bit() -> None:
    net, other = small(), small()
    for p in other.parameters():
        nn.init.normal_(p)
    inputs = (*cube(), DAYS)
    net(*inputs)
    state = net.state_dict()
    assert {"time.pe", "time.scale"} <= state.keys()
    for norm in ("loan1.norm_x", "loan1.norm_cond", "loan2.norm_cond", "static_norm"):
        assert {f"{norm}.running_mean", f"{norm}.running_var", f"{norm}.num_batches_tracked"} <= state.keys()
    other.load_state_dict(state)
    assert torch.equal(net.eval()(*inputs), other.eval()(*inputs))


def test_submodules_of_the_fusions() -> None:
    names = ("static_convs", "loan1", "loan2", "dynamic_norm", "static_norm")
    present = {f: {n for n in names if getattr(small(f), n) is not None} for f in ("loan", "late", "early")}
    assert present == {
        "loan": {"static_convs", "loan1", "loan2", "static_norm"},
        "late": {"static_convs", "dynamic_norm", "static_norm"},
        "early": {"dynamic_norm"},
    }
    net = small()
    assert (net.loan1.norm_x is None, net.loan2.norm_x is None) == (False, True)
    assert net.time.d_model == 8
    assert small(time_encoding=False).time is None


def test_loan_and_late_start_from_the_same_convolutions_and_head() -> None:
    loan_state, late_state = small("loan").state_dict(), small("late").state_dict()
    shared = [name for name in loan_state if name.split(".")[0] in ("dynamic_convs", "static_convs", "head")]
    assert len(shared) == 16
    assert all(torch.equal(loan_state[name], late_state[name]) for name in shared)


def test_static_maps_reach_the_dynamic_branch_only_by_loan() -> None:
    dynamic, static, landcover = cube()
    for fusion, meets in (("loan", True), ("late", False)):
        net = small(fusion, time_encoding=False).eval()
        seen: list[Tensor] = []
        net.dynamic_convs[2].register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        net(dynamic, static, landcover)
        net(dynamic, static + torch.randn_like(static), landcover)
        assert torch.equal(seen[0], seen[1]) != meets, fusion


def test_dropout_follows_all_hidden_layers_but_the_last(monkeypatch) -> None:
    for hidden, drops in (((), 0), ((6,), 0), ((6, 5, 4), 2)):
        net = small(hidden=hidden, dropout=0.25)
        calls: list[tuple[float, bool]] = []

        def dropout(x: Tensor, p: float, training: bool, calls=calls) -> Tensor:
            calls.append((p, training))
            return x

        with monkeypatch.context() as patch:
            patch.setattr(F, "dropout", dropout)
            net(*cube(), DAYS)
            net.eval()(*cube(), DAYS)
        assert calls == [(0.25, True)] * drops + [(0.25, False)] * drops


def test_day_moves_the_prediction_only_with_time_encoding() -> None:
    net, timeless = small().eval(), small(time_encoding=False).eval()
    assert (net(*cube(), DAYS) - net(*cube(), DAYS + 30)).abs().max() > 1e-4
    assert torch.equal(timeless(*cube(), torch.zeros(7)), timeless(*cube()))
    with pytest.raises(ValueError, match="day must be given"):
        net(*cube())
    with pytest.raises(ValueError, match=r"day must have shape \(2,\)"):
        net(*cube(), torch.tensor([1]))
    with pytest.raises(TypeError, match="day"):
        net(*cube(), [1, 2])


def test_smallest_input_passes_and_smaller_ones_are_refused() -> None:
    for fusion in ("loan", "late", "early"):
        assert small(fusion)(*cube(8, 14), DAYS).isfinite().all()
    for days, size in ((7, 14), (8, 13)):
        with pytest.raises(ValueError, match="dynamic must have D >= 8 and H, W >= 14"):
            small()(*cube(days, size), DAYS)


@pytest.mark.parametrize("name", ["dynamic", "static", "landcover"])
@pytest.mark.parametrize("change", ["channels", "samples", "size"])
def test_inputs_of_other_shapes_are_refused_by_name(name, change) -> None:
    inputs = dict(zip(("dynamic", "static", "landcover"), cube(size=15), strict=True))
    cut: dict[str, Callable[[Tensor], Tensor]] = {
        "channels": lambda x: torch.cat([x, x], 1),
        "samples": lambda x: x[:1],
        "size": lambda x: x[..., :-1],
    }
    inputs[name] = cut[change](inputs[name])
    # Of N, H, W the dynamic cube is the measure, so the static map is the one that is named beside it.
    named = "static" if name == "dynamic" and change != "channels" else name
    with pytest.raises(ValueError, match=f"^{named} must have shape"):
        small()(**inputs, day=DAYS[: len(inputs["dynamic"])])


def test_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="fusion must be one of"):
        LOANFireNet(fusion="middle")


def test_bfloat16_autocast_stays_near() -> None:
    net = small().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(*cube(), DAYS)
    torch.testing.assert_close(half.float(), net(*cube(), DAYS), rtol=0, atol=0.1)


# ---------------------------------------------------------------------------------------------- the days


def test_7_day_code_has_base_ten_and_raw_column_indices() -> None:
    pe = DayOfYearEncoding().pe
    assert pe.shape == (366, 256)
    assert torch.equal(pe[0], torch.tensor([0.0, 1.0]).repeat(128))
    assert float(pe[10, 2]) == pytest.approx(np.sin(10 / 10 ** (4 / 256)), abs=1e-6)
    assert float(pe[10, 3]) == pytest.approx(np.cos(10 / 10 ** (6 / 256)), abs=1e-6)
    assert pe.abs().max() <= 1
    expected = np.stack([formulas.day_code(day, 256) for day in range(1, 367)])
    np.testing.assert_allclose(pe, expected, rtol=0, atol=1e-7)


def test_7_day_code_is_not_cyclic_and_all_days_differ() -> None:
    pe = DayOfYearEncoding().pe.double()
    distance = torch.cdist(pe, pe)
    assert float(distance[0, 365]) == pytest.approx(15.49, abs=0.005)
    assert float(distance[0, 1]) == pytest.approx(3.70, abs=0.005)
    assert float(distance.fill_diagonal_(100).min()) == pytest.approx(3.015, abs=0.0005)


def test_8_code_starts_as_the_table_and_learns_a_gain() -> None:
    code = DayOfYearEncoding(6, n_days=12, base=3.0)
    day = torch.tensor([1, 12, 7], dtype=torch.int16)
    assert torch.equal(code(day), code.pe[[0, 11, 6]])
    nn.init.constant_(code.scale, 0.5)
    torch.testing.assert_close(code(day), 1.5 * code.pe[[0, 11, 6]])
    plain = DayOfYearEncoding(6, learn_scale=False)
    assert plain.scale is None
    assert list(plain.state_dict()) == ["pe"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_days_of_any_integer_type(dtype) -> None:
    code = DayOfYearEncoding(4)
    assert torch.equal(code(torch.tensor([1, 100], dtype=dtype)), code.pe[[0, 99]])


@pytest.mark.parametrize("day", [0, 367, -1])
def test_day_outside_the_year_is_refused_and_never_wraps(day) -> None:
    code = DayOfYearEncoding(4)
    with pytest.raises(ValueError, match=r"day must be in \[1, 366\]"):
        code(torch.tensor([3, day]))
    hidden = torch.func.vmap(code)(torch.tensor([[3, day]]))[0]
    assert hidden[0].isfinite().all()
    assert hidden[1].isnan().all()


@pytest.mark.parametrize("day", [torch.tensor([1.0]), torch.tensor([True]), 3])
def test_day_that_is_no_integer_tensor_is_a_type_error(day) -> None:
    with pytest.raises(TypeError, match="day"):
        DayOfYearEncoding(4)(day)


@pytest.mark.parametrize(("options", "name"), [({"d_model": 5}, "d_model"), ({"base": 0}, "base")])
def test_bad_arguments_of_the_code(options, name) -> None:
    with pytest.raises(ValueError, match=name):
        DayOfYearEncoding(**options)


def test_10_days_are_those_of_a_leap_year() -> None:
    assert (leap_day_of_year(3, 1), leap_day_of_year(12, 31)) == (61, 366)
    starts = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335]
    assert [leap_day_of_year(month, 1) for month in range(1, 13)] == [start + 1 for start in starts]
    assert leap_day_of_year(2, 29) == 60


@pytest.mark.parametrize(
    ("month", "day", "name"), [(0, 1, "month"), (13, 1, "month"), (2, 30, "day"), (4, 31, "day")]
)
def test_dates_that_do_not_exist_are_refused(month, day, name) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        leap_day_of_year(month, day)
