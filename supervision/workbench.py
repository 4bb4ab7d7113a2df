"""The commands new-prompt, show-prompt and consult, for writing prompts (docs/new_environment.md), and watch.

They know neither the training scripts nor the supervisor; llm_supervisor.py hands both down.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch.utils.tensorboard import SummaryWriter

from supervision.arguments import SupervisorArgs
from supervision.chat import Question
from supervision.prompts import (
    ADVISOR_HEADINGS,
    CODER_HEADINGS,
    default_prompts,
    describe_env,
    load_prompt,
    new_prompt_folder,
    rule_spaces,
)
from supervision.texts import for_console, visible

PROGRAM = "llm_supervisor.py"
REHEARSED_STEPS = 1_000  # that the learner takes alone before the consultation
TRIED_STEPS = 10_000  # at most, in which a rule's trial is looked at for the first time


@dataclass(kw_only=True)
class Setting:
    """An environment as training makes it: the training script's settings are the defaults."""

    env_id: str
    """the environment's Gymnasium id"""
    env_kwargs: str = "{}"
    """keyword arguments of the environment's constructor, as a JSON object"""
    max_episode_steps: int | None = None
    """time limit of an episode in steps; None: the environment's own"""
    seed: int = 1
    """seed of everything that is random, ≥ 0"""


@dataclass(kw_only=True)
class NewPrompt(Setting):
    """Write advisor.md and coder.md for an environment, filled with its facts and ready to be edited."""

    prompt_dir: str | None = None
    """folder to write them to; None: `prompts/<env-id>`, which is for the default `--env-kwargs` only. Files that are
    there already are never overwritten"""


@dataclass(kw_only=True)
class Trial(SupervisorArgs, Setting):
    """A run's first consultation, with a learner that has learned nothing."""

    learner: Literal["random", "zero"] = "random"
    """whose replay is shown: uniformly random actions, or always the action zero (of discrete ones the first)"""


@dataclass(kw_only=True)
class ShowPrompt(Trial):
    """Print what the first consultation of a run would send to a model. Asks nobody and needs no key."""

    role: Literal["advisor", "coder"]
    """who is asked"""
    advice: str = "(the advisor's advice stands here)"
    """the advice that the coder is sent"""


@dataclass(kw_only=True)
class Consult(Trial):
    """Make one full consultation and show advice, code, check and trial. Exit status 1 if nothing usable came."""


Command = NewPrompt | ShowPrompt | Consult


@dataclass
class Training:
    """How the training script of an environment makes it and guides in it, and who supervises there."""

    env_fn: Callable[[str | None], gym.Env]
    """makes the environment with a render mode"""
    intervene: Callable[..., np.ndarray]
    """the script's own"""
    space: gym.Space
    """its actions, seeded"""
    supervisor: Callable[..., Any]
    """makes a Supervisor"""
    env_kwargs_given: bool
    """whether `--env-kwargs` differs from the environment's default"""


def command_type() -> Any:
    """What the command line may be: `Command`, or `Watch`, whose module imports what no training script needs."""
    from supervision.watch import Watch

    return Command | Watch


def run_command(
    argv: Sequence[str], training_script: Callable[[str], SimpleNamespace], supervisor: Callable[..., Any]
) -> int:
    """Read a command and do what it says; its exit status. The arguments are those of `read_command`."""
    import tyro

    from supervision.watch import Watch, watch

    tools = "The tools for writing prompts (docs/new_environment.md) and for watching a run (docs/supervisor.md)."
    command = tyro.cli(command_type(), args=argv, prog=PROGRAM, description=tools)
    if isinstance(command, Watch):
        return watch(command, training_script)
    return carry_out(*read_command(argv, training_script, supervisor))


def read_command(
    argv: Sequence[str], training_script: Callable[[str], SimpleNamespace], supervisor: Callable[..., Any]
) -> tuple[Command, Training]:
    """Read a command; what it leaves open is as in a training run of its environment.

    Args:
        training_script: gives the names of a training script by its file's name.
        supervisor: makes a Supervisor.

    Raises:
        ValueError: the environment cannot be made or has spaces in which no script trains.
    """
    import tyro

    command = tyro.cli(Command, args=argv, prog=PROGRAM)
    script = training_script("guided_sac_continuous.py")
    env = script.make_env(command.env_id, 0, 0, False, "", script.parse_env_kwargs(command.env_kwargs))()
    env.close()
    if not isinstance(env.action_space, spaces.Box):
        script = training_script("guided_sac_discrete.py")
    defaults = {**asdict(script.Args()), **script.ENV_DEFAULTS.get(command.env_id, {}), "env_id": command.env_id}
    default = replace(command, **{f.name: defaults[f.name] for f in fields(command) if f.name in defaults})
    command = tyro.cli(type(command), args=argv[1:], default=default, prog=PROGRAM)
    if command.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {command.seed}")
    env_kwargs = script.parse_env_kwargs(command.env_kwargs)

    def env_fn(mode: str | None) -> gym.Env:
        limit = command.max_episode_steps
        return script.make_env(command.env_id, command.seed, 0, False, "", env_kwargs, limit, mode)()

    env = env_fn(None)
    env.close()
    script.check_spaces(env)
    given = command.env_kwargs != default.env_kwargs
    return command, Training(env_fn, script.intervene, env.action_space, supervisor, given)


def carry_out(command: Command, training: Training) -> int:
    """Do what a command says; its exit status."""
    match command:
        case NewPrompt():
            new_prompt(command, training)
        case ShowPrompt():
            show_prompt(first_question(command, training))
        case Consult():
            return consult(command, training)
    return 0


def new_prompt(command: NewPrompt, training: Training) -> None:
    """Write the default prompts with the environment's facts; what a run's flags may change stays a placeholder."""
    folder = Path(command.prompt_dir) if command.prompt_dir else new_prompt_folder(command.env_id)
    if training.env_kwargs_given and not command.prompt_dir:
        raise ValueError(f"{folder} is for the default --env-kwargs of the environment: give another --prompt-dir")
    paths = {folder / "advisor.md": ADVISOR_HEADINGS, folder / "coder.md": CODER_HEADINGS}
    if present := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"{' and '.join(present)} would be overwritten: move them, or give another --prompt-dir")
    env = training.env_fn(None)
    default, values = default_prompts(rule_spaces(env)[1]), describe_env(env, command.env_id)
    env.close()
    values = {name: value.replace("{{", "{ {") for name, value in values.items()}  # LaTeX is no placeholder
    values |= {name: f"{{{{{name}}}}}" for name in ("max_episode_steps", "rule_is_given", "rule_returns")}
    texts = {path: load_prompt(default / path.name, headings, values) for path, headings in paths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")


class Rehearsal:
    """Training's loop with a learner that learns nothing: what a supervisor sees, and what its rule does."""

    def __init__(self, command: Trial, training: Training, run_dir: str | Path, **options: Any):
        self.envs = gym.vector.SyncVectorEnv(
            [lambda: training.env_fn(None)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        )
        self.command, self.training = command, training
        self.space = training.space  # seeded
        self.zero = np.clip(0, self.space.low, self.space.high) if isinstance(self.space, spaces.Box) else (
            self.space.start)  # fmt: skip
        args = SimpleNamespace(**vars(command), learning_starts=0, total_timesteps=command.guide_end)
        self.supervisor = training.supervisor(
            args, self.envs, env_fn=training.env_fn, run_dir=run_dir, env_kwargs_given=training.env_kwargs_given,
            **options,
        )  # fmt: skip
        self.step, self.episodes = command.guide_start, 0

    def begin(self) -> None:
        """Reset the environment."""
        self.obs, _ = self.envs.reset(seed=self.command.seed)
        self.t = np.zeros(1, dtype=np.int64)
        self.supervisor.guidance.open()

    def act(self, guidance: Any, writer: SummaryWriter) -> None:
        """One step, guided where `guidance` (None: nowhere) says so."""
        actions = np.array([self.space.sample() if self.command.learner == "random" else self.zero])
        if guidance is not None:
            given, mask = guidance(self.obs, self.t)
            if mask.any():
                actions = self._guided(actions, given)
        next_obs, rewards, terminations, truncations, infos = self.envs.step(actions)
        done = bool(terminations[0] or truncations[0])
        last_obs = infos["final_obs"][0][None] if done else next_obs
        self.step += 1
        self.supervisor.observe(
            self.step, self.obs, self.t, actions, rewards, last_obs, terminations, truncations, writer
        )
        self.obs, self.t, self.episodes = next_obs, (self.t + 1) * (not done), self.episodes + done

    def _guided(self, actions: np.ndarray, given: np.ndarray) -> np.ndarray:
        return self.training.intervene(actions, given, self.space) if isinstance(self.space, spaces.Box) else given

    def watch_the_learner(self, writer: SummaryWriter) -> None:
        """Three unguided episodes, as far as they fit into `REHEARSED_STEPS`, and at least a tenth of a window."""
        self.begin()
        enough, most = (self.step + n for n in (self.command.guide_window // 10, REHEARSED_STEPS))
        while self.step < enough or (self.episodes < 3 and self.step < most):
            self.act(None, writer)

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()


def first_question(command: ShowPrompt, training: Training) -> Question:
    """The first question to a role in a run."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        with redirect_stdout(sys.stderr):  # what it says is no part of the question
            rehearsal = Rehearsal(command, training, folder)
            supervisor = rehearsal.supervisor
            supervisor.prepare_to_ask()
            if supervisor.folder.passed_over:
                print(f"supervisor: {supervisor.folder.taken}")
            rehearsal.watch_the_learner(writer)
            rehearsal.close()
        question = supervisor.first_question(rehearsal.step, command.role, command.advice)
    if command.advisor_vision == "off":
        question.pictures = []
    return question


def show_prompt(question: Question) -> None:
    """Print the messages of a question, with its pictures by their sizes."""
    from PIL import Image

    for message in question.request(schema=False, pictures=True)["messages"]:
        content = message["content"]
        print(f"--- {message['role']} ---\n{visible(content if isinstance(content, str) else content[0]['text'])}")
    for number, (_, jpeg) in enumerate(question.pictures, 1):
        width, height = Image.open(io.BytesIO(jpeg)).size
        print(f"--- image {number}: JPEG, {width} × {height} pixels, {len(jpeg):,} bytes ---")


def consult(command: Consult, training: Training) -> int:
    """One consultation as in training; its exit status."""
    if command.llm_async:
        raise ValueError("--llm-async is for training: here is nothing to go on with while a model thinks")
    run_dir = f"runs/{command.env_id}__consult__{command.seed}__{int(time.time())}"

    def tell(heading: str, text: str) -> None:
        print(f"--- {heading} ---\n{for_console(text, lines=True)}")

    rehearsal = Rehearsal(command, training, run_dir, tell=tell)
    supervisor = rehearsal.supervisor
    supervisor.prepare()
    if supervisor.mode == "none":
        raise ValueError("--supervisor none consults nobody: choose llm or bundled")
    print(f"supervisor: {supervisor.description}")
    with SummaryWriter(run_dir) as writer:
        rehearsal.watch_the_learner(writer)
        guidance = supervisor.consult(rehearsal.step, writer)
        consultations = supervisor.consultations
        for _ in range(TRIED_STEPS if guidance is not None and guidance.pairs else 0):
            rehearsal.act(guidance, writer)
            if consultations.verdict is not None or supervisor.guiding is None:
                break
        if consultations.verdict is not None and consultations.verdict.passed:
            print(f"supervisor: the first look at the trial: {consultations.verdict}")
        good = supervisor.guiding is not None
        supervisor.end(rehearsal.step, writer)
    rehearsal.close()
    advice = consultations.advice
    return 0 if good or (advice is not None and not advice.intervene) else 1
