"""Which device a run uses."""

from __future__ import annotations

import torch

__all__ = ["available_devices", "device_names", "resolve_device"]


def available_devices() -> list[str]:
    """Names of the devices that are there, best first: each CUDA device, then MPS, then the CPU."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """The device for a name: ``"auto"`` is CUDA if there, else MPS, else the CPU.

    Raises:
        ValueError: the name is unknown or the device is not there; the message lists what is.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in available:
        raise ValueError(f"device must be 'auto' or one of {', '.join(available)}, got {name!r}.")
    return torch.device(wanted)


def device_names() -> dict[str, str]:
    """What each device that can be asked for is, for the reader: ``{"auto": "CPU", "cpu": "CPU"}`` without a GPU."""
    names = {"cpu": "CPU"}
    for device in available_devices():
        kind = torch.device(device).type
        names.setdefault(kind, torch.cuda.get_device_name(device) if kind == "cuda" else "Apple GPU")
    return {"auto": names[resolve_device("auto").type], **names}
