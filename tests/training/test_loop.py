"""The training loop: same batches and start for all arms, divergence, both backends equal, a bare loop's numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.data import load_digits
from normviz.frame import Frame, FrameLog
from normviz.models import MLP
from normviz.norms import make_norm
from normviz.probes import ActivationHistogram, GradientNorm, StatisticsGap
from normviz.training import (
    Arm,
    Batch,
    Member,
    Stack,
    build_member,
    device_names,
    evaluation_loss,
    resolve_device,
    train,
)

CPU = torch.device("cpu")
DIGITS = load_digits("flat")
BATCHES = DIGITS.train_batches(16)


def loss(call: object, batch: Batch) -> Tensor:
    x, y = batch
    return cross_entropy(call(x), y)  # type: ignore[operator]


def arm(name: str, norm: str = "layer", lr: float = 0.05, **options: object) -> Arm:
    factory = None if norm == "none" else partial(make_norm, norm, **options)
    model = partial(MLP, 64, (24, 24), 10, norm=factory)
    return Arm(name, model, partial(torch.optim.SGD, lr=lr, momentum=0.9), loss)


def losses(frames: list[Frame]) -> dict[tuple[str, int], list[float]]:
    found: dict[tuple[str, int], list[float]] = {}
    for frame in frames:
        if "loss" in frame.values:
            found.setdefault((frame.arm, frame.seed), []).append(float(frame.values["loss"]))
    return found


def run(*arms: Arm, seeds: int = 2, steps: int = 12, **options: object) -> list[Frame]:
    return list(train(arms, range(seeds), batches=BATCHES, steps=steps, device=CPU, **options))  # type: ignore[arg-type]


def test_equals_a_hand_written_loop() -> None:
    measured = losses(run(arm("A"), seeds=1))["A", 0]
    torch.manual_seed(0)
    model = MLP(64, (24, 24), 10, norm=partial(make_norm, "layer"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    expected = []
    for step in range(12):
        x, y = BATCHES(0, step)
        value = cross_entropy(model(x), y)
        expected.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert measured == expected


def test_first_frames_come_before_any_step_and_every_step_has_a_frame() -> None:
    frames = run(arm("A"), arm("B", "none"), steps=3)
    assert [(f.step, f.arm, f.seed) for f in frames[:4]] == [
        (0, "A", 0),
        (0, "A", 1),
        (0, "B", 0),
        (0, "B", 1),
    ]
    assert all(len(v) == 3 for v in losses(frames).values())
    steps = [f.step for f in frames if f.arm == "A" and f.seed == 0 and "loss" in f.values]
    assert steps == [0, 1, 2]


def test_arms_are_interleaved() -> None:
    order = [(f.step, f.seed, f.arm) for f in run(arm("A"), arm("B", "none"), steps=2) if "loss" in f.values]
    assert order == sorted(order)


def test_arms_that_differ_in_norm_alone_start_from_equal_weights() -> None:
    plain, normed = (build_member(arm("x", n), 3, CPU).model for n in ("none", "layer"))
    weights = {k: v for k, v in normed.state_dict().items() if "norm" not in k}
    assert weights.keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in weights.items())


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(arm("A"), steps=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("layer", {}),
        ("power", {"warmup_iters": 3}),
        ("power_v", {}),
        ("batch", {}),
        ("unified", {"warmup_iters": 4}),
    ],
)
def test_together_equals_one_after_another(norm: str, options: dict[str, object]) -> None:
    probes = [StatisticsGap(), GradientNorm(), ActivationHistogram(lambda n, _: n.endswith("norm"), every=4)]
    alone, together = (
        FrameLog(run(arm("A", norm, **options), seeds=3, steps=10, probes=probes, together=t))
        for t in (False, True)
    )
    assert alone.scalar_names == together.scalar_names
    for name in alone.scalar_names:
        a, b = (log.scalars(name)["value"].to_numpy() for log in (alone, together))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
    assert set(alone.array_names) == set(together.array_names)


def test_diverged_member_stops_and_the_others_go_on() -> None:
    frames = run(arm("wild", "none", lr=1e30), arm("tame"), seeds=1, steps=15)
    wild, tame = losses(frames)["wild", 0], losses(frames)["tame", 0]
    assert wild[-1] == float("inf")
    assert len(wild) < len(tame) == 15
    events = [f.event for f in frames if f.event]
    assert len(events) == 1
    assert events[0].startswith(f"diverged at step {len(wild) - 1}: the training loss is ")


def test_evaluation_leaves_mode_and_statistics() -> None:
    member = build_member(arm("A", "batch"), 0, CPU)
    state = {k: v.clone() for k, v in member.model.state_dict().items()}
    held_out = [BATCHES(9, 0), BATCHES(9, 1)]
    trained, used = (evaluation_loss(member, held_out, training_mode=m) for m in (True, False))
    assert trained != used
    assert member.model.training
    assert all(torch.equal(v, state[k]) for k, v in member.model.state_dict().items())
    member.model.eval()
    expected = np.mean([cross_entropy(member.model(x), y).item() for x, y in held_out])
    assert used == pytest.approx(expected, rel=1e-6)


def test_evaluation_at_start_interval_and_end() -> None:
    frames = run(arm("A"), seeds=1, steps=7, evaluate=lambda m: {"e": 1.0}, eval_every=3)
    assert [f.step for f in frames if "e" in f.values] == [0, 3, 6, 7]


@pytest.mark.parametrize("together", [False, True])
def test_before_step_may_change_the_member_and_adds_to_its_frame(together: bool) -> None:
    def freeze(member: Member, step: int) -> dict[str, float]:
        if step == 2:
            member.optimizer.param_groups[0]["lr"] = 0.0
        return {"seen": float(step)}

    seen: list[float] = []

    def weight(member: Member) -> dict[str, float]:
        seen.append(float(member.model.get_parameter("head.weight").detach().square().sum()))
        return {}

    frames = run(
        arm("A"), seeds=1, steps=5, before_step=freeze, evaluate=weight, eval_every=1, together=together
    )
    assert [f.values["seen"] for f in frames if "seen" in f.values] == [0, 1, 2, 3, 4]
    assert all("loss" in f.values for f in frames if "seen" in f.values)
    assert len(set(seen[:3])) == 3, "the rate is set to zero before step 2"
    assert len(set(seen[2:])) == 1


def test_before_step_is_not_called_for_a_diverged_member() -> None:
    called: list[tuple[str, int]] = []

    def count(member: Member, step: int) -> dict[str, float]:
        called.append((member.arm.name, step))
        return {}

    frames = run(
        arm("wild", "none", lr=1e30),
        arm("tame"),
        seeds=1,
        steps=15,
        before_step=count,
    )
    last = max(f.step for f in frames if f.arm == "wild")
    assert max(step for name, step in called if name == "wild") == last < 14
    assert max(step for name, step in called if name == "tame") == 14


@pytest.mark.parametrize("together", [False, True])
def test_an_update_that_finds_a_weight_not_finite_ends_its_member_alone(together: bool) -> None:
    def complain(optimizer: torch.optim.Optimizer, *args: object) -> None:
        raise FloatingPointError("head.weight is not finite.")

    base = arm("A")
    bad = Arm(
        "bad",
        base.model,
        base.optimizer,
        loss,
        prepare=lambda member: member.optimizer.register_step_post_hook(complain),
    )
    frames = run(bad, arm("tame"), seeds=1, steps=4, together=together)
    assert losses(frames)["bad", 0] == [float("inf")]
    assert len(losses(frames)["tame", 0]) == 4
    assert [f.event for f in frames if f.event] == ["diverged at step 0: head.weight is not finite."]


def test_prepare_gets_the_finished_member_once() -> None:
    prepared: list[Member] = []

    def replace(member: Member) -> None:
        prepared.append(member)
        member.optimizer = torch.optim.SGD(member.model.parameters(), lr=0.0)

    base = arm("A")
    still = Arm("A", base.model, base.optimizer, loss, prepare=replace)
    ended: list[Member] = []
    run(still, seeds=2, steps=3, on_end=ended.extend)
    assert prepared == ended
    fresh = build_member(base, 0, CPU).model.state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in ended[0].model.state_dict().items())


def test_on_end_gets_the_trained_members() -> None:
    members: list[Member] = []
    run(arm("A"), seeds=2, steps=2, on_end=members.extend)
    assert [m.seed for m in members] == [0, 1]


def test_schedule_is_stepped() -> None:
    halved = Arm(
        "A",
        partial(MLP, 64, (8,), 10),
        partial(torch.optim.SGD, lr=1.0),
        loss,
        schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    member = build_member(halved, 0, CPU)
    loss(member.model, BATCHES(0, 0)).backward()
    member.update()
    assert member.optimizer.param_groups[0]["lr"] == 0.5


def test_own_batches_of_an_arm() -> None:
    small = Arm(
        "A",
        partial(MLP, 64, (8,), 10),
        partial(torch.optim.SGD, lr=0.1),
        loss,
        batches=DIGITS.train_batches(2),
    )
    seen: list[int] = []

    def spy(call: object, batch: Batch) -> Tensor:
        seen.append(len(batch[0]))
        return loss(call, batch)

    run(Arm("A", small.model, small.optimizer, spy, batches=small.batches), seeds=1, steps=2)
    assert seen == [2, 2]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="arms must be"):
        run(arm("A"), arm("A"))
    with pytest.raises(ValueError, match="arms must be"):
        run()
    with pytest.raises(ValueError, match="seeds must"):
        run(arm("A"), seeds=0)
    with pytest.raises(ValueError, match="members must be"):
        Stack([])
    with pytest.raises(ValueError, match=r"device must be 'auto' or one of .*cpu"):
        resolve_device("tpu")


def test_device_auto_is_there() -> None:
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")
    assert nn.Linear(1, 1).to(resolve_device("cpu")).weight.device == CPU


def test_devices_have_names_for_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    names = device_names()
    assert names["cpu"] == "CPU"
    assert names["auto"] == names[resolve_device("auto").type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_names() == {"auto": "GPU cuda:0", "cpu": "CPU", "cuda": "GPU cuda:0"}


def test_dropout_draws_depend_on_seed_and_step_alone_and_leave_the_global_state() -> None:
    def dropped(name: str) -> Arm:
        model = partial(MLP, 64, (24, 24), 10, dropout=0.5)
        return Arm(name, model, partial(torch.optim.SGD, lr=0.05), loss)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    alone = losses(run(dropped("A")))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    together = losses(run(arm("other"), dropped("A"), dropped("twin")))
    for seed in range(2):
        assert alone["A", seed] == together["A", seed] == together["twin", seed]
    assert alone["A", 0] != alone["A", 1]
