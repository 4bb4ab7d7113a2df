"""The command `watch`: the policy of a run, as it is by now, in a window or a video.

It knows no training script; llm_supervisor.py hands down what it needs of one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces

from supervision.answers import parse_code
from supervision.bundled import read_rule
from supervision.chat import recorded
from supervision.pictures import as_picture, frame_rate, gif_bytes, thumbnail
from supervision.prompts import PromptFolder, rule_spaces
from supervision.replay import GL_SECONDS, open_rendered
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.sandbox.policy import SandboxedPolicy

LONGEST = 10_000  # steps of an episode of an environment without time limit
LARGEST_FPS = 30.0  # of a video: of faster environments every k-th picture is drawn
SIZE, GIF_SIZE = 320, 240  # of MuJoCo's pictures and of a GIF's, in pixels
# In a process of its own: where no monitor is found, MuJoCo's window ends the whole process.
GLFW_PROBE = "import glfw; assert glfw.init() and glfw.get_primary_monitor()"


@dataclass(kw_only=True)
class Watch:
    """Play greedy episodes of a run's policy in a window, or into a video, and print their returns."""

    run: tyro.conf.Positional[str]
    """the run's folder `runs/<run>`: its saved model or newest checkpoint, whichever is newer; or a checkpoint in it"""
    episodes: int = 3
    """episodes to play, ≥ 1"""
    seed: int = 1
    """seed of the first episode, ≥ 0; the next has the next one"""
    video: str | None = None
    """an mp4 or a small GIF to write instead of opening a window; what is there is overwritten"""
    guided: bool = False
    """play with the run's last rule, combined with the policy's actions as in training"""


@dataclass
class Run:
    """What a run left behind."""

    folder: Path
    settings: dict[str, Any]  # of the script, by name
    script: str  # its file's name
    env_kwargs_given: bool
    weights: Path  # the checkpoint or model that is played
    checkpoint: Path | None  # the newest one, or the one that was named


def find_run(path: str) -> Run:
    """The run of a folder, of a checkpoint or of a saved model; ValueError where there is none, or nothing to play."""
    given = Path(path)
    folder = given if given.is_dir() else given.parent.parent if given.suffix == ".pt" else given.parent
    if not given.exists():
        raise ValueError(f"there is no run {path}")
    try:
        kept = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        settings, script, source = kept["args"], kept["script"], kept["sources"]["env_kwargs"]
        json.loads(settings["env_kwargs"]), settings["env_id"], settings["max_episode_steps"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no run's folder and no checkpoint of one: {reason}") from None
    checkpoints, models = sorted((folder / "checkpoints").glob("step_*.pt")), sorted(folder.glob("*.cleanrl_model"))
    if given.is_file():
        weights, checkpoint = given, given if given.suffix == ".pt" else (checkpoints or [None])[-1]
    elif found := [*checkpoints[-1:], *models]:
        weights, checkpoint = max(found, key=lambda file: file.stat().st_mtime), (checkpoints or [None])[-1]
    else:
        raise ValueError(f"{folder} has neither a saved model (--save-model) nor a checkpoint (--checkpoint-frequency)")
    return Run(folder, settings, script, source == "command line", weights, checkpoint)


def load(path: Path) -> Any:
    """A file of torch's with plain data alone; ValueError where it is none. Of a replay buffer nothing is read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file may make torch raise anything
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {reason}") from None


def greedy_policy(run: Run, script: SimpleNamespace, env: gym.Env) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """The policy, observations (*obs) to actions (*action), and what it was made of, in words.

    Raises:
        ValueError: the file is damaged, or of other networks.
    """
    actor = isinstance(env.action_space, spaces.Box) or not run.settings.get("exact_improvement", True)
    state = load(run.weights)
    try:
        network = (script.Actor if actor else script.DiscreteSoftQNetwork)(gym.vector.SyncVectorEnv([lambda: env]))
        of_checkpoint = isinstance(state, dict)
        network.load_state_dict(state["parts"]["actor" if actor else "qf"] if of_checkpoint else state[0])
        what = f"checkpoint of step {state['global_step']:,}" if of_checkpoint else "saved model"
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{run.weights} does not hold the policy of {run.script}: {reason}") from None
    dtype = torch.float32 if isinstance(env.observation_space, spaces.Box) else torch.int64

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        return network.get_greedy_action(torch.as_tensor(obs[None], dtype=dtype)).numpy()[0]

    return act, what


def last_rule(run: Run) -> tuple[str, str]:
    """The source of the rule that guided the run last, and where it is from; ValueError where there is none."""
    settings = run.settings
    if "supervisor" not in settings:
        raise ValueError(f"--guided: {run.script} guides nobody")
    if run.checkpoint:
        rule = load(run.checkpoint)["parts"].get("supervisor", {}).get("rule")
        if rule:
            return rule["source"], str(run.checkpoint)
    for path in reversed(recorded(run.folder / "llm")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["role"] == "coder" and (record["verdict"] or "").startswith("guiding"):
            try:
                return parse_code(record["answer"]), str(path)
            except PolicyError as error:
                raise ValueError(f"the rule of {path} fails: {error}") from None
    if settings["guide_policy"]:
        return read_rule(Path(settings["guide_policy"])), settings["guide_policy"]
    folder = PromptFolder(settings["env_id"], settings["prompt_dir"], run.env_kwargs_given)
    if settings["supervisor"] in ("auto", "bundled") and folder.has_rule:
        path = folder.path / "bundled_policy.py"
        return read_rule(path), str(path)
    raise ValueError(f"--guided: {run.folder} has no rule: none is in its checkpoint, its record or its settings")


def guided(
    act: Callable[[np.ndarray], np.ndarray], rule: SandboxedPolicy, run: Run, script: SimpleNamespace, space: gym.Space
) -> Callable[[np.ndarray, int], np.ndarray]:
    """The policy with the rule's help; takes the step of the episode too."""

    def act_guided(obs: np.ndarray, t: int) -> np.ndarray:
        action, guidance = act(obs)[None], rule(obs[None], np.array([t]))
        if isinstance(space, spaces.Box):
            return script.intervene(action, guidance, space)[0]
        return script.intervene(action, guidance, run.settings["guide_probability"])[0][0]

    return act_guided


class Video:
    """An mp4, or a small GIF. It is made picture by picture, so that episodes of any length fit the memory.

    Args:
        env: renders to arrays.
    """

    def __init__(self, path: str, env: gym.Env):
        self.path, self.env, self.gif = path, env, path.endswith(".gif")
        fps, most = frame_rate(env), LARGEST_FPS / 2 if self.gif else LARGEST_FPS
        self.stride = max(1, round(fps / most))
        self.fps = fps / self.stride
        env.reset(seed=0)  # what was never reset cannot be drawn
        self.height, self.width = (n - n % 2 for n in as_picture(env.render()).shape[:2])  # H.264 wants even sizes
        self.pictures: list[np.ndarray] = []  # of a GIF
        if not self.gif:
            from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # a second of import

            self.writer = FFMPEG_VideoWriter(path, (self.width, self.height), self.fps, preset="ultrafast", threads=1)

    def offer(self, t: int) -> None:
        """Draw the environment at this step of its episode, if its turn has come."""
        if t % self.stride:
            return
        picture = np.ascontiguousarray(as_picture(self.env.render())[: self.height, : self.width])
        if self.gif:
            self.pictures.append(thumbnail(picture, GIF_SIZE))
        else:
            self.writer.write_frame(picture)

    def close(self) -> None:
        """Finish the file."""
        if self.gif:
            Path(self.path).write_bytes(gif_bytes(self.pictures, self.fps, GIF_SIZE))
        else:
            self.writer.close()


def open_window(env_fn: Callable[[str | None], gym.Env]) -> tuple[gym.Env | None, str]:
    """Make an environment that draws itself in a window; where that cannot be, None and the reason in words."""
    env = env_fn(None)
    modes = env.metadata.get("render_modes", [])
    env.close()
    if "human" not in modes:
        return None, "the environment has no render mode human"
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screens):
        return None, "there is no display"
    if hasattr(env.unwrapped, "mujoco_renderer"):
        try:
            subprocess.run([sys.executable, "-c", GLFW_PROBE], capture_output=True, timeout=GL_SECONDS, check=True)
        except subprocess.SubprocessError:  # it fails, or a display does not answer
            return None, "no window can be opened on the display"
    env = env_fn("human")
    try:
        env.reset(seed=0)
    except Exception as error:  # a renderer may raise anything
        env.close()
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return env, ""


def open_env(env_fn: Callable[[str | None], gym.Env], video: str | None) -> gym.Env:
    """The environment with what shows it; without a display, where no video is asked for, one that nobody sees.

    Raises:
        ValueError: a video is asked for and nothing can be rendered.
    """
    if video:
        if not video.endswith((".mp4", ".gif")):
            raise ValueError(f"--video {video}: it becomes an mp4 or a GIF, so its name must end in .mp4 or .gif")
        env, reason = open_rendered(env_fn, SIZE)
        if env is None:
            raise ValueError(f"--video {video}: nothing can be rendered: {reason}")
        Path(video).parent.mkdir(parents=True, exist_ok=True)
        return env
    env, reason = open_window(env_fn)
    if env is None:
        print(f"returns only, no window: {reason}; --video FILE.mp4 makes a video", flush=True)
        return env_fn(None)
    return env


def episode(env: gym.Env, act: Callable[[np.ndarray, int], np.ndarray], seed: int, video: Video | None) -> list[float]:
    """The rewards of an episode."""
    obs, _ = env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        if video:
            video.offer(len(rewards))
        obs, reward, terminated, truncated, _ = env.step(act(obs, len(rewards)))
        rewards.append(float(reward))
        ended = terminated or truncated or (env.spec.max_episode_steps is None and len(rewards) >= LONGEST)
    return rewards


def play(
    command: Watch, env: gym.Env, act: Callable[[np.ndarray, int], np.ndarray], video: Video | None
) -> tuple[list[float], list[int]]:
    """Returns and lengths of the episodes, told one by one; Ctrl-C ends them."""
    returns, lengths = [], []
    try:
        for i in range(command.episodes):
            rewards = episode(env, act, command.seed + i, video)
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            print(f"episode {i + 1}: return {returns[-1]:.2f}, {lengths[-1]:,} steps", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    return returns, lengths


def watch(command: Watch, script_named: Callable[[str], SimpleNamespace]) -> int:
    """Play; the exit status.

    Args:
        script_named: gives the names of a training script by its file's name.

    Raises:
        ValueError: there is nothing to play, no rule or a failing one, or nothing can be rendered.
    """
    if command.episodes < 1 or command.seed < 0:
        raise ValueError(f"--episodes must be at least 1, --seed at least 0, not {command.episodes} and {command.seed}")
    run = find_run(command.run)
    source, origin = last_rule(run) if command.guided else ("", "")
    script, args = script_named(run.script), run.settings

    def env_fn(mode: str | None) -> gym.Env:
        env_kwargs, limit = json.loads(args["env_kwargs"]), args["max_episode_steps"]
        return script.make_env(args["env_id"], command.seed, 0, False, "", env_kwargs, limit, mode)()

    with ExitStack() as stack:
        env = open_env(env_fn, command.video)
        stack.callback(env.close)
        policy, what = greedy_policy(run, script, env)
        act: Callable[[np.ndarray, int], np.ndarray] = lambda obs, t: policy(obs)  # noqa: E731
        print(f"{run.folder}: {what}, {args['env_id']}, greedy", flush=True)
        try:
            if command.guided:
                observation, action = rule_spaces(env)
                strict = args["sandbox"] == "strict"
                rule = SandboxedPolicy(source, observation=observation, action=action, seed=command.seed, strict=strict)
                stack.callback(rule.close)
                act = guided(policy, rule, run, script, env.action_space)
                torch.manual_seed(command.seed)  # a discrete rule takes an action's place with a probability
                print(f"guided by the rule of {origin}", flush=True)
            video = stack.enter_context(closing(Video(command.video, env))) if command.video else None
            returns, lengths = play(command, env, act, video)
        except (PolicyError, SandboxError) as error:
            raise ValueError(f"the rule of {origin} fails: {error}") from None
    if returns:
        print(f"mean: return {np.mean(returns):.2f}, {np.mean(lengths):,.1f} steps")
    if command.video:
        print(f"video: {command.video}")
    return 0
