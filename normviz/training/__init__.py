"""The training loop that every supervised and language-model experiment shares."""

from normviz.training.device import available_devices, resolve_device
from normviz.training.loop import Batches, BeforeStep, Evaluate, evaluation_loss, train
from normviz.training.members import Arm, Batch, Loss, Member, Stack, build_member

__all__ = [
    "Arm",
    "Batch",
    "Batches",
    "BeforeStep",
    "Evaluate",
    "Loss",
    "Member",
    "Stack",
    "available_devices",
    "build_member",
    "evaluation_loss",
    "resolve_device",
    "train",
]
