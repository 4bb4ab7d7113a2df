"""What a run says: its settings at the start, its progress, and the log that TensorBoard reads."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter


def open_log(args: Any, sources: dict[str, str], run_name: str, device: torch.device) -> SummaryWriter:
    """Start the run's log (with `--track` Weights & Biases too) and print its settings by where they came from.

    Raises:
        ImportError: `--track` without the package wandb.
        OSError: the folder cannot be made.
    """
    if args.track:
        import wandb  # only where it is asked for

        wandb.init(
            project=args.wandb_project_name, entity=args.wandb_entity, sync_tensorboard=True, config=vars(args),
            name=run_name, save_code=True,
        )  # fmt: skip
    writer = SummaryWriter(f"runs/{run_name}")
    settings = {**vars(args), "torch_num_threads": torch.get_num_threads(), "device": str(device)}
    rows = "\n".join(f"|{k}|{v}|{sources.get(k, 'machine')}|" for k, v in settings.items())
    writer.add_text("hyperparameters", f"|param|value|source|\n|-|-|-|\n{rows}")
    for source in sorted(set(sources.values())):
        print(f"{source:>12}: " + " ".join(f"{k}={v}" for k, v in settings.items() if sources.get(k) == source))
    print(f"{'machine':>12}: {device} with {torch.get_num_threads()} threads, logging to runs/{run_name}", flush=True)
    return writer


class Progress:
    """A line of progress every few seconds, with the rate and the time left once there is a rate to speak of.

    Args:
        total_timesteps: environment steps of the run.
    """

    SECONDS = 5.0  # between two lines
    LINES = 7  # over which the rate is taken: half a minute

    def __init__(self, total_timesteps: int):
        self.total_timesteps = total_timesteps
        self.started = time.monotonic()
        self.apart = 0.0  # seconds that were no training
        self.marks = deque([(0.0, 0)], maxlen=self.LINES)  # (seconds of training, global step) of the last lines

    @property
    def seconds(self) -> float:
        """Wall time of training so far."""
        return time.monotonic() - self.started - self.apart

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in it, such as waiting for a model, is no training time."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.apart += time.monotonic() - begun

    def steps_per_second(self, global_step: int) -> int:
        """Of the whole run so far."""
        return int(global_step / max(self.seconds, 1e-9))

    def report(self, global_step: int, recent_returns: Sequence[float]) -> None:
        """Print a line if it is time for one, and at the last step."""
        last = global_step >= self.total_timesteps
        before, step_before = self.marks[-1]
        if self.seconds - before < self.SECONDS and not last:
            return
        line = f"step {global_step:,}/{self.total_timesteps:,}"
        since, step_since = self.marks[0]
        rate = (global_step - step_since) / max(self.seconds - since, 1e-9)
        if global_step - step_before >= 10:  # of fewer steps than these there is nothing to tell
            line += f"  {rate:,.0f} steps/s" if rate >= 10 else f"  {rate:.1f} steps/s"
            if not last:
                line += f"  {timedelta(seconds=int((self.total_timesteps - global_step) / rate))} left"
        mean = f"{np.mean(recent_returns):.1f}" if recent_returns else "-"
        print(f"{line}  return {mean}", flush=True)
        self.marks.append((self.seconds, global_step))
