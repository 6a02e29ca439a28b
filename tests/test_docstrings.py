"""Every public class says for itself which paper it follows, or that it follows none."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest
from torch import nn
from torch.optim.optimizer import Optimizer

ROOMS = (
    "adapters",
    "adaptive",
    "attention",
    "decoding",
    "federated",
    "norms",
    "optim",
    "probes",
    "residual",
    "schedules",
    "weighting",
)
ARXIV = re.compile(r"arXiv[:\s]+(\d\d)(0[1-9]|1[0-2])\.\d{4,5}")
NO_PAPER = re.compile(r"^Reference: none\b.*\bno paper\b", re.MULTILINE)
FORMULA = re.compile(r"[\w)}] (=|<-) \S")
MODULE = re.compile(r":mod:`([\w.]+)`")


def public_classes() -> list[type]:
    found: dict[str, type] = {}
    for room in ROOMS:
        package = import_module(f"normviz.{room}")
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value):
                found[f"{room}.{name}"] = value
    return list(found.values())


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_class_names_its_paper(cls: type) -> None:
    text = inspect.cleandoc(vars(cls)["__doc__"] or "")
    assert ARXIV.search(text) or NO_PAPER.search(text)


@pytest.mark.parametrize(
    "cls",
    [cls for cls in public_classes() if issubclass(cls, nn.Module | Optimizer)],
    ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}",
)
def test_layers_and_optimizers_have_their_equations(cls: type) -> None:
    text = inspect.cleandoc(vars(cls)["__doc__"] or "")
    elsewhere = [cls.__module__, *MODULE.findall(text)]
    texts = [text, *(inspect.getdoc(import_module(name)) or "" for name in elsewhere)]
    assert any(FORMULA.search(text) for text in texts) or NO_PAPER.search(text)
