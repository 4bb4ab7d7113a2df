"""Whether a run's memory is there, before the run begins."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = {  # of a group's memory: where it is mounted, its limit, what is used, what of that the kernel can drop
    "": (CGROUPS, "memory.max", "memory.current", "inactive_file"),
    "memory": (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def check_memory(transitions: Sequence[torch.Tensor], args: Any, device: torch.device) -> None:
    """Raise ValueError unless the replay buffer and a batch of it fit the device.

    What a run of `total_timesteps` never fills costs nothing on a CPU, so long as it can be reserved.

    Args:
        transitions: the buffer's columns (buffer_size, …), the observations first, on the device "meta", which takes
            no memory.
        args: a script's settings: buffer_size, batch_size and total_timesteps.
    """
    row = sum(math.prod(column.shape[1:]) * column.itemsize for column in transitions)  # bytes
    numbers = sum(math.prod(column.shape[1:]) for column in transitions)  # of a row; a batch has four bytes for each
    whole, batch, there = args.buffer_size * row, args.batch_size * numbers * 4, available(device)
    filled = whole if device.type == "cuda" else min(args.buffer_size, args.total_timesteps) * row
    if batch > there / 2:
        raise ValueError(f"a batch of {args.batch_size:,} transitions takes {batch / 1e9:,.1f} GB of memory, and "
                         f"{there / 1e9:,.1f} GB are there: give a smaller --batch-size")  # fmt: skip
    if filled + batch <= there and _can_be_reserved(transitions, device):
        return
    fits = max(1, int(float(f"{0.8 * (there - batch) / row:.1e}")))
    reason = f"{there / 1e9:,.1f} GB are there"
    if filled + batch <= there:
        reason = f"the system does not reserve that much ({reason})"
    shape = tuple(transitions[0].shape[1:])
    images = f"; observations of shape {shape} are images, of which there is no convolutional network here"
    raise ValueError(
        f"the replay buffer of {args.buffer_size:,} transitions takes {whole / 1e9:,.1f} GB of memory, and {reason}: "
        f"give a smaller --buffer-size, such as {fits}{images if len(shape) > 1 else ''}"
    )


def _can_be_reserved(transitions: Sequence[torch.Tensor], device: torch.device) -> bool:
    """Whether all columns can be had at once; a CPU's memory is not touched by that."""
    try:
        _ = [torch.empty_like(column, device=device) for column in transitions]
    except RuntimeError:
        return False
    return True


def available(device: torch.device) -> float:
    """Bytes of memory that a process may still take; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    left = _of_cgroups()
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return min(left, float(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024)
    with suppress(OSError, ValueError):  # no Linux: all that is built in
        return min(left, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return left


def _of_cgroups() -> float:
    """Bytes that the limits of a container or a batch system leave; infinite where there are none."""
    left = np.inf
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for name in set(controllers.split(",")) & set(CONTROLLERS):
                root, limit, used, droppable = CONTROLLERS[name]
                own = root / path.strip("/")
                for folder in (own, *own.parents):
                    if folder.is_relative_to(root):
                        left = min(left, _left_in(folder, limit, used, droppable))
    return left


def _left_in(folder: Path, limit: str, used: str, droppable: str) -> float:
    """Bytes that one group has left; infinite where it has no limit, or is not seen from within a container."""
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if most == "max" or float(most) > 2**60:  # how the older version says that there is none
            return np.inf
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return float(most) - float((folder / used).read_text(encoding="ascii")) + float(stat.get(droppable, 0))
    except (OSError, ValueError):
        return np.inf
