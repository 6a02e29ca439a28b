"""The training loop that every supervised and language-model experiment shares."""

from normviz.training.device import available_devices, device_names, resolve_device
from normviz.training.interleave import Diverged, Trainee, interleave
from normviz.training.loop import Batches, BeforeStep, Evaluate, evaluation_loss, train
from normviz.training.members import Arm, Batch, Loss, Member, Stack, build_member
from normviz.training.seeding import seeded

__all__ = [
    "Arm",
    "Batch",
    "Batches",
    "BeforeStep",
    "Diverged",
    "Evaluate",
    "Loss",
    "Member",
    "Stack",
    "Trainee",
    "available_devices",
    "build_member",
    "device_names",
    "evaluation_loss",
    "interleave",
    "resolve_device",
    "seeded",
    "train",
]
