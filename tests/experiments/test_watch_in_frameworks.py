"""The watch and the optimizers in the loops of Accelerate and Lightning, where these are installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normviz.experiments.watch import Watch, watch
from normviz.optim import create_optimizer

NAMES = ("Muon", "NorMuon", "Conda", "FiraAdamW", "SinkGD", "SWAN")
pytestmark = pytest.mark.filterwarnings("default")  # the frameworks' own


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def batches() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(64) % 3), batch_size=16)


def trained_by_hand(name: str, accumulated: int) -> dict[str, Tensor]:
    """Weights after one pass over the data in a loop of plain PyTorch."""
    model = network()
    optimizer = create_optimizer(name, model)
    for i, (x, y) in enumerate(batches()):
        (nn.functional.cross_entropy(model(x), y) / accumulated).backward()
        if (i + 1) % accumulated == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


class Wrapper:
    """As both frameworks wrap an optimizer: no hooks of its own, the optimizer inside."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_wrapped_optimizer_is_watched_inside_its_wrapper() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, Wrapper(optimizer)) as watching:  # type: ignore[arg-type]
        model(torch.ones(4, 8)).sum().backward()
        optimizer.step()
    assert watching.step == 1
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got Wrapper"):
        watch(model, Wrapper(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_accelerate(name: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    plain = network()
    model, optimizer, loader = accelerator.prepare(plain, create_optimizer(name, plain), batches())
    with watch(model, optimizer) as watching:
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                watching.loss(loss)
                optimizer.step()
                optimizer.zero_grad()
    assert watching.step == 2
    assert len(watching.log.scalars("loss")) == 2
    torch.testing.assert_close(plain.state_dict(), trained_by_hand(name, 2))


@pytest.mark.parametrize("name", NAMES)
def test_lightning(name: str) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        watching: Watch

        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def on_train_start(self) -> None:
            self.watching = watch(self.network, self.optimizers())

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            self.watching.loss(loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return create_optimizer(name, self.network)

    silent: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    module = Module()
    lightning.Trainer(max_epochs=1, accelerator="cpu", **silent).fit(module, batches())
    assert module.watching.step == 4
    assert len(module.watching.log.scalars("loss")) == 4
    torch.testing.assert_close(module.network.state_dict(), trained_by_hand(name, 1))
