"""Settings of a run: the command line over an environment's defaults over the general ones, ranges, errors."""

import ast
import inspect
import io
import itertools
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import gymnasium as gym
import numpy as np
import tyro

from guided_utils import interrupts
from guided_utils.checkpoint import FREE, Resumed, find_run, leave_nothing
from guided_utils.optimisation import check_compiler

AT_LEAST_ONE = (
    "num_envs", "buffer_size", "batch_size", "total_timesteps", "max_episode_steps", "eval_episodes",
    "policy_frequency", "target_network_frequency",
)  # fmt: skip
AT_LEAST_ZERO = (
    "learning_starts", "eval_frequency", "checkpoint_frequency", "policy_lr", "q_lr", "alpha_lr", "alpha",
    "guide_conservatism", "intrinsic_coef", "bonus_lr", "replay_frequency", "eval_sampled_episodes",
)  # fmt: skip
RANGES = {  # of all scripts' flags, both ends included unless infinite
    **dict.fromkeys(AT_LEAST_ONE, (1, np.inf)),
    **dict.fromkeys(AT_LEAST_ZERO, (0, np.inf)),
    **dict.fromkeys(("gamma", "tau", "target_entropy_scale", "guide_probability", "beta"), (0, 1)),
    "ridge": (1e-6, np.inf),
    "seed": (0, 2**32 - 1),
}

A = TypeVar("A")


@dataclass
class ExperimentArgs:
    """experiment"""

    exp_name: str = "experiment"
    """the name of this experiment"""
    seed: int = 1
    """seed of the experiment, ≥ 0"""
    torch_deterministic: bool = True
    """let cuDNN use deterministic algorithms only (sets `torch.backends.cudnn.deterministic`)"""
    cuda: bool = True
    """use a GPU where there is one"""
    track: bool = False
    """track the run with Weights & Biases (needs `pip install wandb`)"""
    wandb_project_name: str = "guided-sac"
    """the wandb project's name"""
    wandb_entity: str | None = None
    """the entity (team) of the wandb project"""
    capture_video: bool = False
    """record training episodes of the first environment to `videos/{run_name}`"""
    save_model: bool = False
    """save the networks to `runs/{run_name}/{exp_name}.cleanrl_model`"""
    eval_frequency: int | None = None
    """environment steps between greedy evaluations of the unguided policy; 0 = off; None: every twentieth of a run
    of 20,000 steps or more, where the environment has a time limit"""
    eval_episodes: int = 10
    """greedy episodes of an evaluation, ≥ 1"""
    eval_sampled_episodes: int = 0
    """episodes of an evaluation with sampled actions beside the greedy ones, from the same starts, ≥ 0; needs
    `eval_frequency`"""
    checkpoint_frequency: int = 100_000
    """environment steps between two checkpoints in `runs/{run_name}/checkpoints`, ≥ 0; 0 = only at a signal"""
    checkpoint_keep: int | Literal["all"] = 1
    """how many checkpoints are kept, the newest, ≥ 1; or all"""
    resume: str | None = None
    """a run's folder `runs/{run_name}`, or a checkpoint in it: go on there with its settings, for longer with another
    total_timesteps; with most other changed settings a new run forks from it (docs/resume.md)"""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what bad input raises into one line on standard error and exit status 1."""
    try:
        yield
    except (ValueError, OSError, ImportError, gym.error.Error) as error:
        interrupts.put_back()
        leave_nothing()
        text = "; ".join(line.strip() for line in str(error).splitlines())
        message = "".join(c if c.isprintable() else "?" for c in text)  # a foreign package's words may steer a terminal
        raise SystemExit(f"{os.path.basename(sys.argv[0])}: error: {message}") from None


def parse_args(
    Args: type[A], env_defaults: dict[str, dict[str, Any]], paper_settings: dict[str, Any] | None = None
) -> tuple[A, dict[str, str], Resumed | None]:
    """Read the command line over the environment's defaults over the general ones; with `--resume` over a run's own.

    Args:
        Args: a script's dataclass of flags.
        env_defaults: settings by environment id.
        paper_settings: what the flag `paper` puts in force, in a script that has it.

    A guided script's run is named after who supervises it, unless the command line has a name for it.

    Returns:
        The settings; for each field where it came from: "command line" (where that changes it), "environment", "paper"
        or "default"; and the run that goes on, if one does.

    Raises:
        ValueError: a number is out of its range, flags contradict each other or `--paper`, `--compile` finds no
            compiler, or a run cannot go on.
    """
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # ours, and an environment's words, may be in any script, a terminal's may not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    flags = [flag for flag in sys.argv[1:] if flag not in ("-h", "--help")]  # help is to show that environment's values
    first = _command_line(Args, Args(), flags)
    resumed = find_run(first.resume) if first.resume else None
    if resumed:
        base, before = _settings_of(Args, resumed), resumed.settings["sources"]
    else:
        base = replace(Args(), env_id=first.env_id, **env_defaults.get(first.env_id, {}))
        before = dict.fromkeys(env_defaults.get(first.env_id, {}), "environment")
    args = _command_line(Args, base, sys.argv[1:])
    sources = {}
    for f in fields(Args):
        value = getattr(args, f.name)
        if value != getattr(base, f.name) or (f.name == "env_id" and value != Args().env_id):
            sources[f.name] = "command line"
        else:
            sources[f.name] = before.get(f.name, "default")
    if paper_settings and args.paper and not (resumed and base.paper):
        asked = _command_line(Args, replace(args, **paper_settings), sys.argv[1:])  # what differs was asked for
        for name, value in paper_settings.items():
            if getattr(asked, name) != value:
                raise ValueError(f"--paper means --{name.replace('_', '-')} {value}: give one or the other")
            setattr(args, name, value)
            sources[name] = "paper"
    if resumed:
        _compare(args, base, resumed)
    if any(re.match("--exp[-_]name(=|$)", flag) for flag in sys.argv[1:]):
        sources["exp_name"] = "command line"  # also where it is what it would be anyway
    new = resumed is None or resumed.changed
    if new and sources["exp_name"] == "default" and hasattr(args, "arm"):
        args.exp_name = f"{Args().exp_name}_{args.arm(sources['env_kwargs'] == 'command line')}"
    _check(args)
    return args, sources, resumed


def _settings_of(Args: type[A], resumed: Resumed) -> A:
    """The settings of a run that goes on; ValueError where it is another script's or another version's."""
    script = os.path.basename(sys.argv[0])
    if resumed.settings["script"] != script:
        raise ValueError(f"{resumed.run_name} is a run of {resumed.settings['script']}, not of {script}")
    saved = resumed.settings["args"]
    if unknown := set(saved) - {f.name for f in fields(Args)}:
        raise ValueError(f"{resumed.run_name} was made by another version: it has the setting {min(unknown)}")
    return Args(**saved)


def _compare(args: Any, base: Any, resumed: Resumed) -> None:
    """Note what makes a fork of a run that goes on; ValueError where it is behind its end, or a fork at it."""
    differs = {f.name: (getattr(args, f.name), getattr(base, f.name)) for f in fields(args)}
    resumed.changed = {k: v for k, v in differs.items() if v[0] != v[1] and k not in FREE}
    if "env_id" in resumed.changed:
        raise ValueError(f"{resumed.run_name} is a run in {base.env_id}: it cannot go on in {args.env_id}")
    beyond = resumed.step - args.total_timesteps
    if beyond >= (0 if resumed.changed else args.num_envs):  # a run that goes on is finished where its last step ended
        raise ValueError(
            f"{resumed.run_name} is at step {resumed.step:,} of {args.total_timesteps:,}: a larger --total-timesteps "
            "lets it go on"
        )


def _command_line(Args: type[A], default: A, flags: list[str]) -> A:
    """The flags over a default, with `--help` in groups: a script's own flags, then those of each class behind it."""
    docs, types, kinds = _docstrings(Args), {f.name: f.type for f in fields(Args)}, Args.__mro__[:-1]
    home = {name: kind for kind in kinds for name in vars(kind).get("__annotations__", {})}  # who declares it first
    groups = []
    for title, kind in zip(("environment_and_algorithm", "experiment", "supervision"), kinds, strict=False):
        members = [
            (name, Annotated[types[name], tyro.conf.arg(help=docs[name])], field(default=getattr(default, name)))
            for name in home
            if home[name] is kind
        ]
        group = make_dataclass(title, members)
        groups.append((title, group, field(default_factory=group)))
    read = tyro.cli(  # tyro makes a group of each nested dataclass
        make_dataclass("Flags", groups), args=flags, prog=os.path.basename(sys.argv[0]), description="",
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    return Args(**{name: value for group in vars(read).values() for name, value in vars(group).items()})


def _docstrings(Args: type) -> dict[str, str]:
    """The text under each field of a dataclass and of those that it inherits from."""
    docs = {}
    for base in reversed(Args.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[statement.target.id] = " ".join(following.value.value.split())
    return docs


def _check(args: Any) -> None:
    """Raise ValueError for a number out of its range, flags that contradict each other, or a missing compiler."""
    for name, (low, high) in RANGES.items():
        value = getattr(args, name, None)
        if value is not None and not (low <= value <= high and value < np.inf):
            raise ValueError(
                f"--{name.replace('_', '-')} must lie in [{low}, {high}{']' if high < np.inf else ')'}, not {value}"
            )
    if args.autotune and args.alpha == 0:
        raise ValueError("--alpha is the initial temperature that --autotune scales: it must be above 0")
    if getattr(args, "exact_improvement", False) and args.alpha == 0:
        raise ValueError("--alpha is the temperature of the exact improvement: it must be above 0")
    if args.tau == 0:
        raise ValueError("--tau 0 would leave the target networks as they begin: it must be above 0")
    if getattr(args, "compile", False):
        check_compiler()
    if args.checkpoint_keep != "all" and args.checkpoint_keep < 1:
        raise ValueError(f"--checkpoint-keep must be at least 1, or all, not {args.checkpoint_keep}")
    if args.eval_sampled_episodes and args.eval_frequency == 0:
        raise ValueError("--eval-sampled-episodes needs evaluations: give --eval-frequency")
    if args.buffer_size < args.num_envs:
        raise ValueError(f"--buffer-size must hold a step of all {args.num_envs} environments, not {args.buffer_size}")


def parse_env_kwargs(text: str) -> dict[str, Any]:
    """`--env-kwargs` as a dictionary; ValueError when it is not a JSON object."""
    try:
        env_kwargs = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs must be a JSON object such as '{{\"frame_skip\": 5}}': {error}") from None
    if not isinstance(env_kwargs, dict):
        raise ValueError(f"--env-kwargs must be a JSON object, not {text}")
    return env_kwargs
