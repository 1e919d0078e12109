"""What a run was trained with and on: told beside its result, since it changes the last digits of
it, and no part of its identity."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

TORCH = "torch"
PROCESSOR = "processor"


def machine(device: str) -> dict[str, str]:
    """Version of torch, and the type of the processor that `device` computes with."""
    return {TORCH: torch.__version__, PROCESSOR: _processor(torch.device(device))}


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # platform.processor() is empty on most Linux systems
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
