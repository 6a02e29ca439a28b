from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normviz
from normviz.experiments.watch import Watch, watch
from normviz.frame import FrameLog
from normviz.norms import PowerNorm


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(8, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 2),
    )


def batch(step: int, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(size, 6, generator=generator), torch.randn(size, 2, generator=generator)


def loss_of(model: nn.Module, step: int) -> Tensor:
    x, y = batch(step)
    return (model(x) - y).square().mean()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, watching: Watch | None = None
) -> list[float]:
    losses = []
    for step in range(steps):
        loss = loss_of(model, step)
        loss.backward()
        if watching is not None:
            watching.loss(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_is_exported_lazily() -> None:
    assert normviz.watch is watch


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_training_is_the_same_bit_for_bit(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    def trained(watched: bool) -> tuple[dict[str, Tensor], Tensor, list[float]]:
        model = network()
        opt = optimizer(model.parameters(), lr=0.02)
        torch.manual_seed(7)  # dropout draws from the global generator
        watching = watch(model, opt, histogram_every=3, spectrum_every=2) if watched else None
        losses = train(model, opt, 12, watching)
        if watching is not None:
            assert {"loss", "grad_norm", "gap/var", "update/rms"} <= set(watching.log.scalar_names)
            watching.close()
        return model.state_dict(), torch.get_rng_state(), losses

    (plain, plain_rng, plain_losses), (seen, seen_rng, seen_losses) = trained(False), trained(True)
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert torch.equal(plain_rng, seen_rng)
    assert plain_losses == seen_losses


def test_values_are_those_computed_by_hand() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    expected: dict[str, list[float]] = {"loss": [], "grad_norm": [], "gap/mean": [], "gap/var": []}
    with watch(model, optimizer) as watching:
        for step in range(4):
            x, _ = batch(step)
            norm = model[1]
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                into = model[0](x).numpy().astype(np.float64)
            expected["gap/mean"].append(float(np.abs(into.mean(0) - norm.running_mean.numpy()).mean()))
            expected["gap/var"].append(float(np.abs(into.var(0) - norm.running_var.numpy()).mean()))
            loss = loss_of(model, step)
            loss.backward()
            expected["loss"].append(float(loss.detach()))
            squares = [
                p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None
            ]
            expected["grad_norm"].append(math.sqrt(math.fsum(squares)))
            watching.loss(loss)
            optimizer.step()
            optimizer.zero_grad()
    table = watching.to_dataframe()
    assert table["step"].tolist() == [0, 1, 2, 3]
    assert table["arm"].unique().tolist() == ["model"]
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=2e-5, err_msg=name)


def test_cadences_and_steps() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer, every=2, histogram_every=5, spectrum_every=4) as watching:
        train(model, optimizer, 11)
    assert watching.step == 11
    assert watching.log.scalars("grad_norm")["step"].tolist() == [0, 2, 4, 6, 8, 10]
    assert [a.step for a in watching.log.array_history("activations")] == [0, 5, 10]
    assert watching.log.scalars("update/rms")["step"].tolist() == [0, 4, 8]
    assert [f.step for f in watching.log.frames] == [0, 2, 4, 5, 6, 8, 10], "no frame without a value"


def test_histograms_are_of_the_chosen_layers_in_order_of_calls() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = nn.LayerNorm(4), nn.LayerNorm(4)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.late(5000 * self.early(x) ** 3))

    torch.manual_seed(0)
    model = Crossed()
    with torch.no_grad():
        model.early.weight.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer) as watching:
        model(torch.randn(64, 4)).sum().backward()
        optimizer.step()
    assert watching.layers == ["early", "late"]
    spread = watching.log.arrays("activation_std")[0].value
    np.testing.assert_allclose(spread, [0.1, 1.0], rtol=1e-3)
    rows = watching.log.arrays("activations")[0].value
    np.testing.assert_allclose(rows.sum(1) * 8 / 48, 1.0, rtol=1e-5)
    ridge = watching.figures()["activations"]
    assert ridge.data is not None
    assert ridge.data["layer"].unique().tolist() == ["early", "late"]


def test_default_layers_norms_then_activations_then_weights() -> None:
    def layers(model: nn.Module, **options: object) -> list[str]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, **options) as watching:  # type: ignore[arg-type]
            model(torch.randn(5, 6)).sum().backward()
            optimizer.step()
        return watching.layers

    assert layers(network()) == ["1", "5"]
    assert layers(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))) == ["1"]
    assert layers(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 1))) == ["0", "1"]
    assert layers(nn.Sequential(PowerNorm(6, batch_first=True), nn.Linear(6, 1))) == ["0"], (
        "not what is inside"
    )
    assert layers(nn.Linear(6, 1)) == ["Linear"], "the model itself"
    assert layers(network(), select=lambda name, _: name in ("0", "6")) == ["0", "6"]


def test_gradient_accumulation_is_one_step() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer) as watching:
        for step in range(3):
            losses = []
            for part in range(4):
                loss = loss_of(model, 10 * step + part) / 4
                loss.backward()
                watching.loss(loss)
                losses.append(float(loss.detach()))
            total = math.sqrt(
                sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
            )
            optimizer.step()
            optimizer.zero_grad()
            frame = watching.log.frames[-1]
            assert frame.step == step
            assert frame.values["loss"] == pytest.approx(np.mean(losses))
            assert frame.values["grad_norm"] == pytest.approx(total, rel=1e-5)
    assert len(watching.log) == 3
    assert len(watching.log.arrays("gap_by_layer/var")[0].value) == 1, (
        "one forward pass is measured, not four"
    )


def test_evaluation_is_ignored() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watching = watch(model, optimizer)
    model.eval()
    loss_of(model, 0)
    model.train()
    with torch.no_grad():
        model(100 + batch(0)[0])
    before = hooks_of(model)
    assert before == 1, "only the watch's own hook: nothing was armed"
    train(model, optimizer, 1)
    assert watching.layers == ["1", "5"]
    assert watching.log.scalars("gap/mean")["value"].iloc[0] < 50
    assert len(watching.log) == 1


def test_loss_after_the_step_belongs_to_that_step() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer) as watching:
        losses = []
        for step in range(3):
            loss = loss_of(model, step)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watching.loss(loss.item())
            losses.append(loss.item())
    table = watching.to_dataframe()
    assert table["step"].tolist() == [0, 1, 2]
    assert table["loss"].tolist() == losses
    assert not table["grad_norm"].isna().any()


def test_closures() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    with watch(model, optimizer) as watching:
        for _ in range(2):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, 0)
                loss.backward()
                watching.loss(loss)
                return loss

            optimizer.step(closure)
            optimizer.zero_grad()
    table = watching.to_dataframe()
    assert table["step"].tolist() == [0, 1]
    assert (table["grad_norm"] > 0).all()
    assert table["loss"].notna().all()


def test_forward_that_fails_leaves_nothing_behind() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watching = watch(model, optimizer)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(4, 5))
    train(model, optimizer, 1)
    assert hooks_of(model) == 1
    assert watching.log.arrays("activations")[0].value.shape == (2, 48)
    watching.close()
    assert hooks_of(model) == 0


def test_close_takes_all_hooks_off() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer, spectrum_every=1) as watching:
        train(model, optimizer, 2, watching)
    watching.close()
    assert hooks_of(model) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, 2)
    assert (watching.step, len(watching.log)) == (2, 2)
    assert "loss" in watching.figures()


def test_copies_and_pickles_are_not_watched() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watching = watch(model, optimizer)
    loss_of(model, 0).backward()
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in (copied, pickled):
        loss_of(other, 1)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    optimizer.step()
    assert len(watching.log) == 1
    assert watching.log.arrays("activations")[0].value.shape == (2, 48)


def test_two_models_in_one_figure() -> None:
    log = FrameLog()
    for arm, seed in (("first", 0), ("second", 1)):
        model = network(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer, arm=arm, log=log) as watching:
            train(model, optimizer, 12, watching)
    figures = watching.figures()
    assert list(figures) == ["loss", "gradients", "fluctuation", "mean_fluctuation", "activations"]
    for figure in figures.values():
        assert figure.data is not None
        assert figure.data["arm"].unique().tolist() == ["first", "second"]
        assert "first" in figure.alt
    earlier = watching.figures(step=5)["activations"]
    assert earlier.moment == "step 0"
    assert figures["activations"].moment == "step 10"


def test_spectrum_of_the_updates() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, spectrum_every=1) as watching:
        model(torch.randn(8, 5)).square().mean().backward()
        gradients = [p.grad.numpy().astype(np.float64) for p in (model[0].weight, model[2].weight)]
        optimizer.step()
    assert watching.matrices == ["0.weight", "2.weight"]
    ranks = []
    for g in gradients:
        s = np.linalg.svd(g, compute_uv=False)
        p = s[s > 0] ** 2 / (s**2).sum()
        ranks.append(math.exp(-(p * np.log(p)).sum()))
    measured = watching.log.arrays("update_by_layer/effective_rank")[0].value
    np.testing.assert_allclose(measured, ranks, rtol=1e-4)
    assert watching.log.scalars("update/effective_rank")["value"].iloc[0] == pytest.approx(
        np.mean(ranks), rel=1e-4
    )
    assert watching.log.scalars("update/cosine_to_gradient")["value"].iloc[0] == pytest.approx(1.0, abs=1e-5)
    assert {"update_rank", "update_rank_by_layer"} <= set(watching.figures())


def test_divergence_is_an_event_once() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer) as watching:
        for _ in range(3):
            loss_of(model, 0).backward()
            watching.loss(math.nan)
            optimizer.step()
    assert [event.text for event in watching.log.events] == ["diverged at step 0: the training loss is nan"]


def test_compiled_model_is_watched_by_the_optimizer_only() -> None:
    for wrapped in (False, True):
        torch.compiler.reset()
        model = network()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler warns about is not under test
            compiled = torch.compile(model, backend="aot_eager")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            with watch(compiled if wrapped else model, optimizer) as watching:  # type: ignore[arg-type]
                losses = train(compiled, optimizer, 3, watching)  # type: ignore[arg-type]
        table = watching.to_dataframe()
        assert table["loss"].tolist() == pytest.approx(losses)
        assert (table["grad_norm"] > 0).all()
        assert watching.layers == []


def test_nothing_measured_yet() -> None:
    model = network()
    watching = watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert watching.figures() == {}
    assert watching.to_dataframe().empty
    assert "0 steps" in repr(watching)


def test_bad_arguments() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        watch(3, optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer must be"):
        watch(model, model)  # type: ignore[arg-type]
    for name, value in (("every", 0), ("every", 1.5), ("histogram_every", -1), ("spectrum_every", -1)):
        with pytest.raises(ValueError, match=f"{name} must be an integer >= "):
            watch(model, optimizer, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="arm must be a non-empty name, got ''"):
        watch(model, optimizer, arm="")
    with pytest.raises(ValueError, match="select must choose at least one module"):
        watch(model, optimizer, select=lambda name, module: False)
    biases = torch.optim.SGD([model[0].bias], lr=0.1)
    with pytest.raises(ValueError, match="spectrum_every needs a weight matrix"):
        watch(model, biases, spectrum_every=1)
    assert hooks_of(model) == 0, "a refused watch leaves no hook"
    assert not biases._optimizer_step_pre_hooks
    watching = watch(model, optimizer)
    with pytest.raises(ValueError, match="value must be one number"):
        watching.loss(torch.zeros(2))
    with pytest.raises(ValueError, match="step must be an integer >= 0, got -1"):
        watching.figures(-1)


def test_an_optimizer_of_another_model_is_said() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="steps no parameter of the model Linear") as said:
        watch(model, torch.optim.SGD(other.parameters(), lr=0.1)).close()
    assert said[0].filename == __file__
