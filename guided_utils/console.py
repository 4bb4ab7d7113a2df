"""What a run says: its settings at the start, its progress, and the log that TensorBoard reads."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.tensorboard.writer
from torch.utils.tensorboard.summary import hparams

from guided_utils.checkpoint import DONE, Resumed, checkpoints_of, code_hash, keep_folder, machine, note_settings
from guided_utils.interrupts import Interrupts
from guided_utils.log import RunLog, TrackedLog
from guided_utils.optimisation import speed_in_bf16


def open_log(
    args: Any, sources: dict[str, str], run_name: str, device: torch.device, resumed: Resumed | None = None
) -> RunLog:
    """Start the run's log (with `--track` Weights & Biases too), leave and print its settings by where they came from.

    Raises:
        ImportError: `--track` without the package wandb.
        OSError: the folder cannot be written.
    """
    goes_on = resumed is not None and not resumed.changed
    if args.track:
        import wandb  # only where it is asked for

        known = resumed.settings.get("wandb_id") if goes_on else None
        wandb.init(
            project=args.wandb_project_name, entity=args.wandb_entity, sync_tensorboard=True, config=vars(args),
            name=run_name, save_code=True, id=known, resume="allow" if known else None,
        )  # fmt: skip
        note_settings(run_name, wandb_id=wandb.run.id)
        # wandb has put a class of its own in the place of this one: making one tells it which folder to follow
        torch.utils.tensorboard.writer.EventFileWriter(f"runs/{run_name}").close()
    # by now a server's secrets are masked and the evaluations' spacing is known; a run that goes on may have a new end
    note_settings(run_name, args=vars(args) | {"resume": None}, sources=sources)
    # of a run that goes on, what was logged behind its checkpoint is logged again
    first = (resumed.step + bool(resumed.state)) if goes_on else None
    writer = (TrackedLog if args.track else RunLog)(f"runs/{run_name}", purge_step=first)
    settings = {**vars(args), "torch_num_threads": torch.get_num_threads(), "device": str(device)}
    if not goes_on:
        rows = "\n".join(f"|{k}|{v}|{sources.get(k, 'machine')}|" for k, v in settings.items())
        writer.add_text("hyperparameters", f"|param|value|source|\n|-|-|-|\n{rows}")
        _set_tables(writer, settings)
    for source in sorted(set(sources.values())):
        print(f"{source:>12}: " + " ".join(f"{k}={v}" for k, v in settings.items() if sources.get(k) == source))
    print(f"{'machine':>12}: {device} with {torch.get_num_threads()} threads, logging to runs/{run_name}", flush=True)
    if getattr(args, "precision", "fp32") == "bf16":
        factor = speed_in_bf16(args.batch_size, device)
        line = f"{'precision':>12}: products in bfloat16 run at {factor:.1f} × the speed of float32 here"
        slower = "; with the conversions between them, --precision fp32 is the faster choice"
        print(line + slower * (factor < 1.2), flush=True)
    if resumed:
        _say_what_goes_on(resumed, args.total_timesteps)
    keep_folder()
    return writer


TENSORBOARD = "tensorboard --logdir runs --samples_per_plugin images=1000,text=10000"  # its "all", 0, shows none
CHARTS = {  # TensorBoard's tab "custom scalars": chart and tags by group
    "learning": {"return": ["charts/episodic_return", "eval/episodic_return", "charts/guidance_active"]},
    "guidance": {
        "return of an episode": ["supervisor/guided_return", "supervisor/unguided_return"],
        "return over equal steps": ["supervisor/trial_guided_return", "supervisor/trial_unguided_return"],
    },
}


def _set_tables(writer: RunLog, settings: dict[str, Any]) -> None:
    """Leave the layout of TensorBoard's "custom scalars" and, for its "HPARAMS", the settings and what they brought."""
    writer.add_custom_scalars({
        group: {title: ["Multiline", tags] for title, tags in charts.items()} for group, charts in CHARTS.items()
    })  # fmt: skip
    known = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
    # the last points of these tags stand beside the settings
    for summary in hparams(known, dict.fromkeys(("eval/episodic_return", "charts/episodic_return"), 0))[:2]:
        writer.file_writer.add_summary(summary)


def _say_what_goes_on(resumed: Resumed, total_timesteps: int) -> None:
    """Say where a run begins, and what makes it another one than before."""
    text = f"{'a fork of' if resumed.changed else 'goes on:'} {resumed.run_name} at step {resumed.step:,}"
    if resumed.step >= total_timesteps:
        text = f"{resumed.run_name} is at its end, step {resumed.step:,}; a larger --total-timesteps lets it go on"
    print(f"{'resume':>12}: {text}", flush=True)
    for name, (now, then) in resumed.changed.items():
        print(f"{'':>12}  {name}={now} (was {then})")
    if resumed.settings["args"].get("llm_async"):
        print(
            f"{'':>12}  --llm-async: when an answer arrives decides when a window begins, it goes on, but not exactly"
        )
    here = machine() | {"code": code_hash(sys.argv[0])}
    for name, value in here.items():
        if value != resumed.settings.get(name):
            print(f"{'':>12}  another {name} than before: the last bits may differ", flush=True)


def end_run(run_name: str, global_step: int, interrupts: Interrupts, writer: RunLog) -> None:
    """Close the log and say where it is, how the run goes on if it was interrupted, and what could not be written.

    TensorBoard shows 10 pictures and 100 texts of a tag, drawn at random, unless `--samples_per_plugin` asks for more.

    SystemExit with 128 + the signal where the run was interrupted, with 1 where something is missing.
    """
    writer.close()
    interrupts.put_back()
    print(f"logs are in runs/{run_name}; see them with: {TENSORBOARD}")
    for what, reason in writer.unwritten.missing.items():
        print(f"missing: {what} could not be written: {reason}", flush=True)
    if interrupts.received:
        script = os.path.relpath(sys.argv[0]) if os.path.exists(sys.argv[0]) else sys.argv[0]
        print(
            f"interrupted at step {global_step:,}; go on with: python {script} --resume runs/{run_name}",
            flush=True,
        )
        raise SystemExit(128 + interrupts.received)
    if writer.unwritten.missing:
        raise SystemExit(1)
    if not checkpoints_of(Path("runs", run_name)):
        with suppress(OSError):  # all that it leaves is there
            note_settings(run_name, **{DONE: global_step})


class Progress:
    """A line of progress every few seconds, with the rate and the time left once there is a rate to speak of.

    Args:
        total_timesteps: environment steps of the run.
        global_step: where it begins.
    """

    SECONDS = 5.0  # between two lines
    LINES = 7  # over which the rate is taken: half a minute

    def __init__(self, total_timesteps: int, global_step: int = 0):
        self.total_timesteps, self.first = total_timesteps, global_step
        self.started = time.monotonic()
        self.apart = 0.0  # seconds that were no training
        self.marks = deque([(0.0, global_step)], maxlen=self.LINES)  # (seconds, global step) of the last lines

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
        """Since the run began, or went on."""
        return int((global_step - self.first) / max(self.seconds, 1e-9))

    def report(
        self, global_step: int, recent_returns: Sequence[float], who_acted: Callable[[], str] = lambda: ""
    ) -> None:
        """Print a line if it is time for one, and at the last step.

        Args:
            recent_returns: of the last training episodes.
            who_acted: in them, in words; "" where it was the learner alone.
        """
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
        mean, who = f"{np.mean(recent_returns):.1f}" if recent_returns else "-", who_acted()
        print(f"{line}  return {mean}{who and f' ({who})'}", flush=True)
        self.marks.append((self.seconds, global_step))
