"""Checkpoints: a run's whole state in one file, written whole or not at all and read without running code.

Docs: docs/resume.md
"""

import hashlib
import json
import logging
import os
import platform
import random
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim

from guided_utils.evaluation import save_model
from guided_utils.interrupts import Interrupts
from guided_utils.log import RunLog

FORMAT = 1
SETTINGS = "settings.json"
DONE = "done"  # in it, of a run that came to its end without a checkpoint: at which step
# what may differ when a run goes on: none of it changes what is computed up to a step
FREE = ("resume", "total_timesteps", "checkpoint_frequency", "checkpoint_keep", "save_model", "llm_base_url")
PACKAGES = ("torch", "gymnasium", "mujoco", "numpy")

torch.serialization.set_crc32_options(False)  # takes four times as long as writing; the file system has its own


@dataclass
class Resumed:
    """A run that goes on, or from which another one forks."""

    run_name: str
    settings: dict[str, Any]  # as SETTINGS holds them
    state: dict[str, Any] | None  # of the checkpoint, None before the first; once it is in force its step alone
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # settings now and then, where it is a fork

    @property
    def step(self) -> int:
        return self.state["global_step"] if self.state else 0


def find_run(path: str) -> Resumed:
    """The run of a folder `runs/<run>`, at its newest checkpoint, or at a checkpoint file.

    Raises:
        ValueError: there is no run, its checkpoint cannot be read, or it is done and left none.
    """
    given = Path(path)
    folder = given if given.is_dir() else given.parent.parent
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--resume {path} is no run's folder and no checkpoint of one: {error}") from None
    if settings.get("format", 0) != FORMAT:
        raise ValueError(f"--resume {path}: its format is {settings.get('format')}, this version reads {FORMAT}")
    files = checkpoints_of(folder)[-1:] if given.is_dir() else [given]
    if not files and DONE in settings:
        raise ValueError(
            f"--resume {path}: the run is done and left no checkpoint to go on from (see --checkpoint-frequency); "
            "begin a new one, without --resume"
        )
    return Resumed(folder.resolve().name, settings, read_checkpoint(files[0]) if files else None)


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    return sorted((folder / "checkpoints").glob("step_*.pt"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, plain data alone; ValueError where it is none, cut off, or of another version."""
    try:
        # mapped: not in memory beside the buffer that it fills; the file may be removed meanwhile
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file may make torch raise anything
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"the checkpoint {path} cannot be read: {type(error).__name__}: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        version = state.get("format") if isinstance(state, dict) else None
        raise ValueError(f"the checkpoint {path} is of format {version}, this version reads {FORMAT}")
    return state


def claim_run(name: str, args: Any, sources: dict[str, str], resumed: Resumed | None) -> str:
    """Make the folder `runs/<name>` for this run alone, with its settings in it, and return its name.

    A run that goes on keeps its own. Where two runs of one name start at once the second is called <name>_2. A slash,
    which the ids of many packages have, becomes an underscore.

    Raises:
        ValueError: the run that goes on does not lie in ./runs, or all names are taken.
        OSError: the folder cannot be made.
    """
    if resumed and not resumed.changed:
        if not Path("runs", resumed.run_name, SETTINGS).is_file():
            raise ValueError(f"start it from the folder that holds runs/{resumed.run_name}: it goes on there")
        return resumed.run_name
    name = name.replace("/", "_")
    os.makedirs("runs", exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".new_", dir="runs"))  # a folder without settings is never seen
    part.chmod(0o777 & ~_umask())
    (part / SETTINGS).write_text(json.dumps(settings_of(args, sources, resumed), indent=1), encoding="utf-8")
    for number in range(1, 10_000):
        folder = Path("runs", name if number == 1 else f"{name}_{number}")
        with suppress(OSError):  # it is there: a folder with something in it is not replaced
            os.rename(part, folder)
            _claimed.append(folder)
            return folder.name
    raise ValueError(f"runs/{name} and 9,998 more are taken")


_claimed: list[Path] = []  # folders of runs that have not begun yet


def keep_folder() -> None:
    """The run has begun: its folder stays, whatever comes."""
    _claimed.clear()


def leave_nothing() -> None:
    """Remove the folder of a run that ends before it began, and `runs` if nothing else is in it."""
    while _claimed:
        folder = _claimed.pop()
        with suppress(OSError):
            (folder / SETTINGS).unlink()
            folder.rmdir()  # not where something else is in it
            folder.parent.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def code_hash(script: str) -> str:
    """Of a script and of all that it may run of this project."""
    root = Path(__file__).resolve().parent.parent
    files = [Path(script), root / "llm_supervisor.py"]
    files += sorted([*(root / "guided_utils").rglob("*.py"), *(root / "supervision").rglob("*.py")])
    digest = hashlib.sha256()
    for path in files:
        with suppress(OSError):  # a baseline may lie apart from the helper
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, Any]:
    """What a run's last bits may depend on beside its settings."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    processor = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    return {"versions": versions, "processor": processor, "threads": torch.get_num_threads()}


def settings_of(args: Any, sources: dict[str, str], resumed: Resumed | None) -> dict[str, Any]:
    """What lies in a run's folder from the first moment, and lets it be started again."""
    parent = {"run": resumed.run_name, "step": resumed.step} if resumed and resumed.changed else None
    saved = vars(args) | {"resume": None}
    if "llm_base_url" in saved:
        saved["llm_base_url"] = None  # a secret may be in it; `open_log` notes what of it may be shown
    return {
        "format": FORMAT, "script": Path(sys.argv[0]).name, "args": saved, "sources": sources,
        "parent": parent, "code": code_hash(sys.argv[0]), **machine(),
    }  # fmt: skip


def note_settings(run_name: str, **known: Any) -> None:
    """Add to the settings in a run's folder what is known later."""
    path = Path("runs", run_name, SETTINGS)
    settings = json.loads(path.read_text(encoding="utf-8")) | known
    _replace(path, lambda file: file.write(json.dumps(settings, indent=1).encode()))


def _replace(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file whole or not at all, and on the disk; OSError leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The value as data that `torch.load(weights_only=True)` reads; `restored` turns it back."""
    match value:
        case np.ndarray():
            return {"ndarray": torch.from_numpy(np.ascontiguousarray(value)), "shape": list(value.shape)}
        case np.generic():
            return value.item()
        case deque():
            return {"deque": plain(list(value)), "maxlen": value.maxlen}
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(plain(item) for item in value)
    return value


def restored(value: Any) -> Any:
    """What `plain` was given; tensors and arrays are copies."""
    match value:
        case torch.Tensor():
            return value.clone()
        case {"ndarray": tensor, "shape": shape}:
            return tensor.numpy().reshape(shape).copy()
        case {"deque": items, "maxlen": maxlen}:
            return deque(restored(items), maxlen=maxlen)
        case dict():
            return {key: restored(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(restored(item) for item in value)
    return value


def random_states() -> dict[str, Any]:
    """Of all global generators."""
    states = {"torch": torch.get_rng_state(), "numpy": list(np.random.get_state()), "python": random.getstate()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put them back."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(tuple(states["numpy"]))
    random.setstate(states["python"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def state_of(part: Any) -> Any:
    """The state of a tensor, a replay buffer, a vector environment, or of a network or what else has `state_dict`."""
    if isinstance(part, torch.Tensor):
        return part.detach()
    if isinstance(part, gym.vector.SyncVectorEnv):
        spaces = part.action_space.np_random.bit_generator.state
        return {"episodes": [env.state_dict() for env in part.envs], "action_space": spaces}
    if hasattr(part, "transitions"):
        # a view of the filled rows through NumPy: of a tensor's slice torch.save would write the whole storage
        filled = [column[: len(part)] for column in part.transitions[:-1]]
        columns = [torch.from_numpy(c.numpy()) if c.device.type == "cpu" else c.cpu() for c in filled]
        return {"columns": columns, "added": part.added, "size": part.size}
    return part.state_dict()


def load_state(part: Any, state: Any) -> None:
    """Bring a part into a saved state (a vector environment: `play_episodes`).

    Raises:
        ValueError: a replay buffer of another size.
    """
    with torch.no_grad():
        if isinstance(part, torch.Tensor):
            part.copy_(state)
        elif hasattr(part, "transitions"):
            if state["size"] != part.size:
                raise ValueError(f"a replay buffer of {part.size:,} rows cannot take one of {state['size']:,}")
            for column, saved in zip(part.transitions[:-1], state["columns"], strict=True):  # less the rows' numbers
                column[: len(saved)] = saved
            part.added = state["added"]
        elif isinstance(part, optim.Optimizer):  # learning rates are settings, not state
            part.load_state_dict({"state": state["state"], "param_groups": part.state_dict()["param_groups"]})
        else:
            part.load_state_dict(state)


def play_episodes(
    envs: gym.vector.SyncVectorEnv, state: dict[str, Any], obs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the environments to where they were when obs (N, *obs) was observed, by playing their episodes again.

    Returns:
        obs, and where (N,) an environment did not come back to its observation, so that a new episode begins there.
    """
    obs, fresh = obs.copy(), np.zeros(envs.num_envs, dtype=bool)
    envs.action_space.np_random.bit_generator.state = state["action_space"]
    for i, (env, episode) in enumerate(zip(envs.envs, state["episodes"], strict=True)):
        try:
            same = np.array_equal(np.asarray(env.play(episode), dtype=obs.dtype), obs[i])
        except Exception as error:  # an environment that does not come back may refuse an action
            print(f"environment {i}: {type(error).__name__}: {error}")
            same = False
        if not same:
            fresh[i], obs[i] = True, env.reset()[0]
            print(f"environment {i} does not come back to its observation (hidden randomness): a new episode begins")
    return obs, fresh


class Checkpoints:
    """Writes a run's checkpoints, and brings a run to a saved one.

    Args:
        args: a script's settings.
        run_name: the run's folder is `runs/<run_name>`.
        parts: what has a state, by name (see `state_of`); "envs" are the training environments.
        modules: the networks of `--save-model`, the policy's first.
    """

    def __init__(self, args: Any, run_name: str, parts: dict[str, Any], modules: Sequence[nn.Module]):
        self.args, self.run_name, self.parts, self.modules = args, run_name, parts, modules
        self.folder = Path("runs", run_name, "checkpoints")
        self.last = -1  # step of the last one
        self.stale: list[Path] = []  # of a run that goes on from an older one: the newer ones, until its first
        self.report = logging.getLogger("guided_sac.unwritten")

    def restore(self, resumed: Resumed) -> tuple[Any, ...]:
        """Bring all parts and generators to the checkpoint; returns the loop's variables as `save` was given them.

        Of the checkpoint's content nothing is kept.

        Raises:
            ValueError: it does not fit these settings.
        """
        state, obs = resumed.state, restored(resumed.state["loop"])[0]
        try:
            for name, part in self.parts.items():
                if name in state["parts"] and name != "envs":
                    saved = state["parts"][name]  # of a buffer not copied before it is copied into its place
                    load_state(part, saved if hasattr(part, "transitions") else restored(saved))
            name = "envs"
            obs, fresh = play_episodes(self.parts["envs"], restored(state["parts"]["envs"]), obs)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            changed = ", ".join(f"--{name.replace('_', '-')}" for name in resumed.changed) or "this version"
            raise ValueError(f"the checkpoint does not fit {changed}: {name}: {reason}") from None
        if "seed" not in resumed.changed:
            set_random_states(restored(state["random"]))  # last: playing and loading may have drawn from them
        self.last = resumed.step
        if not resumed.changed:
            self.stale = [path for path in checkpoints_of(self.folder.parent) if path.name > self._path(self.last).name]
        resumed.state = {"global_step": self.last}
        return (obs, fresh, *restored(state["loop"])[1:])

    def _path(self, global_step: int) -> Path:
        return self.folder / f"step_{global_step:09d}.pt"

    def save_if_due(self, global_step: int, loop: Callable[[], tuple[Any, ...]], writer: RunLog) -> None:
        """Save every `--checkpoint-frequency` steps."""
        due = self.args.checkpoint_frequency and global_step % self.args.checkpoint_frequency < self.args.num_envs
        if due and global_step > max(0, self.last):
            self.save(global_step, loop(), writer)

    def save(self, global_step: int, loop: tuple[Any, ...], writer: RunLog) -> None:
        """Write a checkpoint and remove those beyond `checkpoint_keep`; where it cannot be written, say so and go on.

        Args:
            loop: the loop's variables, the observations (N, *obs) first.
        """
        self.check_finite(global_step, writer)
        writer.sync()  # first, so that the log of a run that goes on has no gap
        path = self._path(global_step)
        state = {
            "format": FORMAT, "global_step": global_step, "loop": plain(loop), "random": plain(random_states()),
            "parts": {name: plain(state_of(part)) for name, part in self.parts.items()},
        }  # fmt: skip
        try:
            _replace(path, lambda file: torch.save(state, file))
            self.last = global_step
            for newer in self.stale:
                if newer != path:
                    newer.unlink(missing_ok=True)
            self.stale.clear()
            keep = len(checkpoints_of(self.folder.parent)) if self.args.checkpoint_keep == "all" else (
                int(self.args.checkpoint_keep))  # fmt: skip
            for old in checkpoints_of(self.folder.parent)[:-keep]:
                old.unlink()
            self.report.info("a checkpoint")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            self.report.error("a checkpoint", str(error).splitlines()[0])
        self._save_model()

    def check_finite(self, global_step: int, writer: RunLog) -> None:
        """End the run with one line where a network holds a number that is none; the last checkpoint stays."""
        for name, part in self.parts.items():
            if isinstance(part, nn.Module):
                for key, tensor in part.state_dict().items():
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        writer.fail(f"step {global_step:,}: {key} of {name} is not finite: the networks have diverged")

    def finish(
        self, global_step: int, loop: Callable[[], tuple[Any, ...]], interrupts: Interrupts, writer: RunLog
    ) -> None:
        """At the end of the loop: a last checkpoint, if one was due in the run or it was interrupted; the model.

        Where the last step is done no signal has interrupted the run, nor does one from here on.
        """
        if global_step >= self.args.total_timesteps:
            interrupts.last_step_done()
        frequency, interrupted = self.args.checkpoint_frequency, interrupts.received is not None
        if interrupted or (frequency and global_step >= frequency and global_step > self.last):
            self.save(global_step, loop(), writer)
        else:
            self.check_finite(global_step, writer)
            self._save_model()
        if not interrupted and global_step <= self.args.learning_starts:
            print(f"nothing was learned: the run ended at step {global_step:,}, before --learning-starts "
                  f"{self.args.learning_starts:,}")  # fmt: skip

    def _save_model(self) -> None:
        if self.args.save_model:
            try:
                save_model(self.modules, f"runs/{self.run_name}/{self.args.exp_name}.cleanrl_model")
                self.report.info("the model")
            except (OSError, RuntimeError) as error:
                self.report.error("the model", str(error).splitlines()[0])
