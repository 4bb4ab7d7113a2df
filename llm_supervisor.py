"""The supervisor of GuidedSAC: replay → advisor → coder → check → audition → guidance policy.

A training script knows three things about it:

    supervisor = Supervisor(args, ...)                      # once
    guidance = supervisor.consult(step, returns, writer)    # when a guided window is over; None: do not intervene
    a_g = guidance(obs, t)                                  # inside the window; t = step of the current episode

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control", section 3.3 and C.
"""

import base64
import functools
import hashlib
import inspect
import io
import json
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch.utils.tensorboard import SummaryWriter

from policy_sandbox import (
    BoxAction,
    DiscreteAction,
    Observation,
    PolicyError,
    SandboxedPolicy,
    check_platform,
    check_source,
)

PROMPTS = Path(__file__).resolve().parent / "prompts"
ADVISOR_HEADINGS = ("Task definition", "Background", "Chain of thought", "Domain hints")
CODER_HEADINGS = (*ADVISOR_HEADINGS, "Code template")  # the paper's five components (section 3.3)


@dataclass
class SupervisorArgs:
    """The supervisor's part of a script's command line."""

    supervisor: Literal["auto", "llm", "bundled", "none"] = "auto"
    """who supervises: `llm` (an OpenAI-compatible endpoint), `bundled` (offline: the environment's bundled rule),
    `none` (plain SAC); `auto`: `llm` where a key or base URL is set, else `bundled` where the environment has it"""
    guide_policy: str | None = None
    """file with a rule `policy(obs, t)` of your own, instead of a coder's"""
    advisor_always: bool = False
    """the paper's ablation: no judgement (no advisor, no audition), guidance from `guide_start` to `guide_end`"""
    prompt_dir: str | None = None
    """folder of the prompt files; None: `prompts/<env-id>` where it exists, else `prompts/default` (discrete actions:
    `prompts/default-discrete`)"""
    replay_episodes: int = 1
    """greedy episodes of the unguided policy that the advisor sees at a consultation, ≥ 1"""
    replay_max_steps: int = 1_000
    """environment steps of a replay, all its episodes together, ≥ 1"""
    replay_frames: int = 16
    """key frames of a replay: between this many and twice as many are kept, whatever its length; 0 = no pictures"""
    audition_episodes: int = 3
    """pairs of episodes (guided, unguided) in a round of the audition; 0 = no audition"""
    audition_max_steps: int = 1_000
    """environment steps of an audition, both behaviours and all rounds together, ≥ 1"""
    coder_attempts: int = 3
    """answers that the coder may give at a consultation before the window goes unguided, ≥ 1"""
    advisor_model: str = "qwen3-vl-plus"
    """the vision model that judges (paper, C.2)"""
    coder_model: str = "qwen3-max-preview"
    """the model that writes the rule (paper, C.2)"""
    llm_base_url: str | None = None
    """base URL of an OpenAI-compatible endpoint; None: OPENAI_BASE_URL. The key comes from OPENAI_API_KEY only"""
    llm_timeout: float = 120.0
    """deadline of one question to a model, with its retries, in seconds"""
    sandbox: Literal["auto", "strict"] = "auto"
    """where the machine cannot confine a rule's process as docs/sandbox.md describes: `auto` says so once at the start
    and goes on with what there is, `strict` refuses to run"""


class SupervisionError(RuntimeError):
    """A model or its server gave no usable answer; the window goes unguided."""


# ---------------------------------------------------------------------------------------------------------------------
# Replay
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Replay:
    """Greedy episodes of the unguided policy; T = steps of all episodes together."""

    obs: np.ndarray  # (T, *obs), before each action
    actions: np.ndarray  # (T, *action); (T,) int64 where they are discrete
    rewards: np.ndarray  # (T,)
    steps: np.ndarray  # (T,) int64, step within the episode
    returns: list[float]  # undiscounted, one an episode
    lengths: list[int]
    frames: list[np.ndarray]  # (height, width, 3) uint8, of the first episode; none where nothing can be rendered
    frame_steps: list[int]


class KeyFrames:
    """Captures at a stride that doubles whenever 2 · wanted captures are there, so that an episode of any length leaves
    between wanted and 2 · wanted of them, evenly spaced, after about wanted · log₂(length / wanted) captures.

    Args:
        env: an environment that renders to arrays.
        wanted: number of key frames.
    """

    def __init__(self, env: gym.Env, wanted: int):
        self.env, self.wanted, self.stride = env, wanted, 1
        self.physics = hasattr(env.unwrapped, "mujoco_renderer")
        self.captures: list[np.ndarray] = []
        self.steps: list[int] = []

    def offer(self, step: int) -> None:
        """Capture the environment's present state if this step is on the stride."""
        if len(self.captures) == 2 * self.wanted and step % self.stride == 0:
            self.captures, self.steps = self.captures[::2], self.steps[::2]
            self.stride *= 2
        if step % self.stride == 0:
            self.captures.append(self._capture())
            self.steps.append(step)

    def frames(self) -> list[np.ndarray]:
        """The pictures, (height, width, 3) uint8 each. A MuJoCo environment's state is another one afterwards."""
        return [self._draw(capture) for capture in self.captures]

    # MuJoCo: drawing in software costs as much as fifteen steps of physics, copying the state next to nothing, so
    # states are captured and only those that are left at the end are drawn.

    def _capture(self) -> np.ndarray:
        if not self.physics:
            return np.array(self.env.render())  # a copy: the environment may draw in its own array again
        import mujoco

        env, what = self.env.unwrapped, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(env.model, what))
        mujoco.mj_getState(env.model, env.data, state, what)
        return state

    def _draw(self, capture: np.ndarray) -> np.ndarray:
        if not self.physics:
            return capture
        import mujoco

        env = self.env.unwrapped
        mujoco.mj_setState(env.model, env.data, capture, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)
        return np.array(self.env.render())


def record_replay(
    env: gym.Env,
    act: Callable[[np.ndarray, bool], np.ndarray],
    *,
    episodes: int,
    max_steps: int,
    seed: int,
    frames: int = 0,
) -> Replay:
    """Roll the unguided policy out greedily in an environment of its own.

    Args:
        act: maps observations (1, *obs) and `deterministic` to actions (1, *action); discrete ones (1,) int64.
        frames: key frames of the first episode (see `KeyFrames`); 0: none.
    """
    obs_list, actions, rewards, steps, returns, lengths = [], [], [], [], [], []
    key_frames = KeyFrames(env, frames) if frames else None
    pictures: list[np.ndarray] = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        returns.append(0.0)
        done, t = False, 0
        while not done and len(rewards) < max_steps:
            if key_frames and episode == 0:
                key_frames.offer(t)
            action = act(obs[None], True)[0]
            obs_list.append(obs)
            obs, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            rewards.append(float(reward))
            steps.append(t)
            returns[-1] += float(reward)
            done, t = terminated or truncated, t + 1
        lengths.append(t)
        if key_frames and episode == 0:
            pictures = key_frames.frames()
        if len(rewards) >= max_steps:
            break
    return Replay(
        np.array(obs_list), np.array(actions), np.array(rewards), np.array(steps), returns, lengths, pictures,
        key_frames.steps if key_frames else [],
    )  # fmt: skip


# Draws one picture; that a context opens does not yet mean that it can draw.
GL_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


@functools.cache
def _choose_mujoco_gl() -> str | None:
    """Set MUJOCO_GL to the first backend that works here, or return why none does.

    Tried in child processes: a failed OpenGL start can abort the whole process at the next one.
    """
    configured = os.environ.get("MUJOCO_GL")
    for backend in [configured] if configured else ["egl", "osmesa", "glfw"]:
        env = {**os.environ, "MUJOCO_GL": backend}
        if subprocess.run([sys.executable, "-c", GL_PROBE], env=env, capture_output=True).returncode == 0:
            os.environ["MUJOCO_GL"] = backend  # read by the first render(), not at import
            return None
    return f"no OpenGL for MuJoCo (tried {configured or 'egl, osmesa, glfw'})"


def own_opengl_context(env: gym.Env) -> None:
    """Make a MuJoCo environment draw in its own OpenGL context, whichever other one was used last.

    Without this, of two environments that render in one process the first turns black. Others are left as they are.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    draw = renderer.render

    def render(render_mode: str | None) -> Any:
        renderer._get_viewer(render_mode).make_context_current()
        return draw(render_mode)

    renderer.render = render


def open_rendered(env_fn: Callable[[str | None], gym.Env], size: int = 240) -> tuple[gym.Env | None, str]:
    """Make an environment that renders to arrays; where that cannot be, None and the reason in words.

    Pictures of MuJoCo environments are made cheap (size × size pixels, no shadows) and follow the robot.
    """
    env = env_fn(None)
    modes = env.metadata.get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        return None, "the environment has no render mode rgb_array"
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame (toy text, classic control) without a screen
    env = env_fn("rgb_array")
    try:
        renderer = getattr(env.unwrapped, "mujoco_renderer", None)
        if renderer is not None:
            if reason := _choose_mujoco_gl():
                env.close()
                return None, reason
            import mujoco

            renderer.model.vis.quality.shadowsize = renderer.model.vis.quality.offsamples = 0
            renderer.width = renderer.height = size
            camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
            renderer.camera_id = camera if camera >= 0 else renderer.camera_id
            own_opengl_context(env)
        env.reset(seed=0)
        frame = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise ValueError(f"render() returned {type(frame).__name__}, not a picture")
    except Exception as error:  # a third-party renderer may raise anything; training goes on without pictures
        env.close()
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return env, ""


def write_mp4(frames: Sequence[np.ndarray], path: Path, fps: float) -> None:
    """Write frames (height, width, 3) uint8 as H.264 that every player takes (even sizes, yuv420p)."""
    from moviepy import ImageSequenceClip  # 1.5 s of import, only where there is a video

    height, width = (n - n % 2 for n in frames[0].shape[:2])
    clip = ImageSequenceClip([np.ascontiguousarray(frame[:height, :width]) for frame in frames], fps=fps)
    clip.write_videofile(str(path), codec="libx264", audio=False, logger=None, preset="ultrafast", threads=1)


def _pictures(frames: Sequence[np.ndarray], largest: int):
    from PIL import Image

    for frame in frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((largest, largest))
        yield picture


def gif_bytes(frames: Sequence[np.ndarray], fps: float, largest: int = 240) -> bytes:
    """An endless GIF of frames (height, width, 3) uint8, at most `largest` pixels wide and high."""
    from PIL import Image

    first, *others = (p.quantize(64, Image.Quantize.FASTOCTREE) for p in _pictures(frames, largest))
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return buffer.getvalue()


def jpeg_bytes(frame: np.ndarray, largest: int = 512) -> bytes:
    """A JPEG of frame (height, width, 3) uint8, at most `largest` pixels wide and high."""
    buffer = io.BytesIO()
    next(_pictures([frame], largest)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def add_gif(writer: SummaryWriter, tag: str, gif: bytes, step: int) -> None:
    """Put a GIF on TensorBoard's Images page (SummaryWriter.add_video writes nothing with moviepy 2)."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = int.from_bytes(gif[6:8], "little"), int.from_bytes(gif[8:10], "little")  # GIF header
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def save_video(replay: Replay, env: gym.Env, run_dir: str | Path, tag: str, step: int, writer: SummaryWriter) -> None:
    """Leave a replay's pictures, where it has any, in `run_dir/replays/` as mp4 and on TensorBoard as a GIF.

    Args:
        env: the environment of the replay, for its frame rate.
    """
    if not replay.frames:
        return
    path = Path(run_dir) / "replays" / f"step_{step:08d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    stride = replay.frame_steps[1] - replay.frame_steps[0] if len(replay.frames) > 1 else 1
    fps = float(np.clip(env.metadata.get("render_fps", 30) / stride, 5, 30))
    try:
        write_mp4(replay.frames, path, fps)
    except OSError as error:  # a full disk or a broken encoder; moviepy's message is many lines long
        print(f"replay: {path} could not be written: {str(error).splitlines()[0]}", flush=True)
    add_gif(writer, tag, gif_bytes(replay.frames, fps), step)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and answers
# ---------------------------------------------------------------------------------------------------------------------


def default_prompts(action: BoxAction | DiscreteAction) -> Path:
    """The folder of prompts for any environment with such actions: a residual for a Box, else a substitute."""
    return PROMPTS / ("default" if isinstance(action, BoxAction) else "default-discrete")


def load_prompt(path: Path, headings: Sequence[str], values: dict[str, str]) -> str:
    """Read a prompt file, check its headings and fill its {{placeholders}}.

    Raises:
        ValueError: the file is missing or unreadable, lacks one of the headings, or names an unknown placeholder.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt file {path} cannot be read: {error}") from None
    found = re.findall(r"^## +(.+?) *$", text, flags=re.MULTILINE)
    if missing := [h for h in headings if h not in found]:
        raise ValueError(f"prompt file {path} lacks the heading{'s' * (len(missing) > 1)} "
                         f"{', '.join(f'## {h}' for h in missing)}")  # fmt: skip
    if unknown := set(re.findall(r"\{\{(.*?)\}\}", text)) - set(values):
        raise ValueError(f"prompt file {path} has the unknown placeholder {{{{{min(unknown)}}}}}; "
                         f"known are {', '.join(values)}")  # fmt: skip
    return re.sub(r"\{\{(.*?)\}\}", lambda m: values[m[1]], text)


@dataclass
class Advice:
    """The advisor's decision for one window."""

    analysis: str
    intervene: bool
    advice: str = ""
    keep_current_policy: bool = False


def parse_advice(answer: str) -> Advice:
    """Read the advisor's JSON object, alone or inside prose or a fence; SupervisionError where there is none."""
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    decoder, problem = json.JSONDecoder(), "it holds no JSON object"
    for start in (m.start() for m in re.finditer(r"\{", text)):
        try:
            data = decoder.raw_decode(text, start)[0]
        except json.JSONDecodeError:
            continue
        if problem := _advice_problem(data):
            continue
        return Advice(
            str(data.get("analysis", "")), data["intervene"], str(data.get("advice", "")),
            data.get("keep_current_policy", False),
        )  # fmt: skip
    raise SupervisionError(f"the advisor's answer is unusable: {problem}")


def _advice_problem(data: dict) -> str | None:
    if not isinstance(data.get("intervene"), bool):
        return '"intervene" must be true or false'
    if not isinstance(data.get("keep_current_policy", False), bool):
        return '"keep_current_policy" must be true or false'
    return None


def parse_code(answer: str) -> str:
    """The coder's Python: the one fenced block that defines `policy`, or the whole answer where there is no fence."""
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    blocks = re.findall(r"^```[a-zA-Z]*[ \t]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    usable = [block for block in blocks if re.search(r"^def policy\(", block, flags=re.MULTILINE)]
    if len(usable) > 1:
        raise PolicyError("the answer holds more than one code block that defines policy(obs, t); give exactly one")
    if usable:
        return usable[0]
    if blocks:
        raise PolicyError("no code block of the answer defines policy(obs, t)")
    return text


class ChatModel:
    """Questions to an OpenAI-compatible endpoint, with one deadline for each and a log of all.

    Args:
        log_dir: one JSON file an exchange goes there, its images beside it.

    Raises:
        ValueError: neither a key nor a base URL is set.
    """

    def __init__(self, base_url: str | None, timeout: float, log_dir: Path):
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = os.environ.get("OPENAI_API_KEY")
        if not key and not base_url:
            raise ValueError(
                "--supervisor llm needs a key in OPENAI_API_KEY, or the address of a server that wants none in "
                "--llm-base-url or OPENAI_BASE_URL"
            )
        import openai  # 1 s of import, only where a model is asked

        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout)
        self.failures = (openai.OpenAIError, ValueError, AttributeError, TypeError, IndexError)
        self.timeout, self.log_dir = timeout, log_dir

    def ask(self, role: str, model: str, system: str, text: str, step: int, images: Sequence[bytes] = ()) -> str:
        """One question, one answer.

        Args:
            role: "advisor" or "coder", for the log.
            images: JPEGs to show behind the text.

        Raises:
            SupervisionError: no answer within the deadline, a failure of the server, or an empty answer.
        """
        pictures = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images]
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": content if images else text},
        ]
        result: dict[str, Any] = {}

        def call() -> None:
            try:
                response = self.client.chat.completions.create(model=model, messages=messages)
                result["answer"] = response.choices[0].message.content
                result["usage"] = response.usage.model_dump() if response.usage else None
            except self.failures as error:  # incl. what the client does not wrap: an HTML page, a body without choices
                result["error"] = f"{type(error).__name__}: {error}"

        started = time.time()
        thread = threading.Thread(target=call, daemon=True)  # the client's time-out is per read, not for the whole
        thread.start()
        thread.join(self.timeout)
        if thread.is_alive():
            result = {"error": f"no answer within {self.timeout:g} s"}
        if not result.get("error") and not result.get("answer"):
            result["error"] = "an empty answer"
        self._log(role, model, system, text, images, step, result, time.time() - started)
        if "error" in result:
            raise SupervisionError(f"the {role} ({model}): {result['error']}")
        return result["answer"]

    def _log(self, role, model, system, text, images, step, result, seconds) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        name = f"{len(list(self.log_dir.glob('*.json'))):04d}-{role}"
        names = [f"{name}-{i}.jpg" for i in range(len(images))]
        for image_name, image in zip(names, images, strict=True):
            (self.log_dir / image_name).write_bytes(image)
        exchange = {
            "role": role, "model": model, "global_step": step, "seconds": round(seconds, 3), "system": system,
            "system_sha256": hashlib.sha256(system.encode()).hexdigest(), "user": text, "images": names, **result,
        }  # fmt: skip
        part = self.log_dir / f"{name}.part"
        part.write_text(json.dumps(exchange, indent=1, ensure_ascii=False), encoding="utf-8")
        part.replace(self.log_dir / f"{name}.json")  # whole or not at all


# ---------------------------------------------------------------------------------------------------------------------
# Audition
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Audition:
    """Returns of the guided and of the unguided behaviour, pair by pair from equal seeds and over equal horizons."""

    guided: list[float]
    unguided: list[float]
    steps: int  # environment steps that it took

    @property
    def passed(self) -> bool:
        """Whether the guided behaviour did at least as well."""
        return float(np.mean(self.guided)) >= float(np.mean(self.unguided))


def run_audition(
    envs: Sequence[gym.Env],
    act: Callable[[np.ndarray, bool], np.ndarray],
    intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
    policy: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    max_steps: int,
    seed: int,
) -> Audition:
    """Compare the two behaviours as they would act in training (sampled actions), in rounds of len(envs) / 2 pairs.

    All lanes of a round advance together, so that where the budget ends a round early, every return is over the same
    horizon. Rounds go on until the mean paired difference is two standard errors from zero or the budget is spent.

    Args:
        envs: 2K environments; the first K go unguided, the others guided, and pair i starts from one seed.
    """
    pairs = len(envs) // 2
    guided, unguided, steps, last_round = [], [], 0, 0
    while steps + last_round < max_steps:
        seeds = [seed + len(guided) + i for i in range(pairs)] * 2
        obs = [env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)]
        returns, running, t, before = np.zeros(2 * pairs), list(range(2 * pairs)), 0, steps
        while running and steps + len(running) <= max_steps:
            batch = np.stack([obs[i] for i in running])
            actions = act(batch, False)
            rule = np.array([i >= pairs for i in running])
            if rule.any():
                actions[rule] = intervene(actions[rule], policy(batch[rule], np.full(rule.sum(), t)))
            for i, action in zip(running.copy(), actions, strict=True):
                obs[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += float(reward)
                if terminated or truncated:
                    running.remove(i)
            steps += len(actions)
            t += 1
        unguided += returns[:pairs].tolist()
        guided += returns[pairs:].tolist()
        last_round = steps - before
        difference = np.subtract(guided, unguided)
        if len(difference) > 1 and abs(difference.mean()) > 2 * difference.std(ddof=1) / len(difference) ** 0.5:
            break
    return Audition(guided, unguided, steps)


# ---------------------------------------------------------------------------------------------------------------------
# The supervisor
# ---------------------------------------------------------------------------------------------------------------------


def _own_space(env: gym.Env) -> gym.Space:
    """The observation space that a rule is written for: the environment's own, where a script made vectors of it."""
    return env.observation_space if isinstance(env.observation_space, spaces.Box) else env.unwrapped.observation_space


def rule_spaces(env: gym.Env) -> tuple[Observation, BoxAction | DiscreteAction]:
    """What a rule is given and what it must return in this environment.

    Observations are handed over as the environment gives them where its space is a Box, else as integers (N, k) of the
    k components of the environment's own (unwrapped) space.

    Raises:
        ValueError: no rule can be asked for such spaces; it says which can.
    """
    match _own_space(env):
        case spaces.Box(shape=shape):
            observation = Observation("floats", shape)
        case spaces.Discrete():
            observation = Observation("int")
        case spaces.MultiDiscrete(shape=shape):
            observation = Observation("ints", shape)
        case spaces.Tuple(spaces=parts) if all(isinstance(part, spaces.Discrete) for part in parts):
            observation = Observation("tuple", (len(parts),))
        case space:
            raise ValueError(
                f"a rule needs observations of a Box, a Discrete, a MultiDiscrete or a Tuple of Discrete, not {space}"
            )
    match env.action_space:
        case spaces.Box(low=low, high=high):
            return observation, BoxAction(low, high)
        case spaces.Discrete(n=n, start=start):
            return observation, DiscreteAction(int(n), int(start))
        case space:
            raise ValueError(f"a rule needs actions of a Box or a Discrete, not {space}")


DOC_CHARACTERS = 8_000  # of an environment's documentation; Humanoid's has 30,000
RANDOM_STEPS = 200  # of the rollout that measures rewards for the prompts


def _numbers(value: Any) -> str:
    """Numbers as text, to four significant digits; of more than a hundred the first and the last three."""
    if not isinstance(value, np.ndarray):
        return str(value)
    value = value.ravel() if value.size > 100 else value
    return np.array2string(value, threshold=100, max_line_width=10_000, formatter={"float_kind": "{:.4g}".format})


def _bounds(space: gym.Space) -> str:
    """The smallest and the largest element of a space, in words."""
    match space:
        case spaces.Box(low=low, high=high):
            if np.isinf(low).all() and np.isinf(high).all():
                return "every component unbounded"
            if (low == low.flat[0]).all() and (high == high.flat[0]).all():
                return f"every component from {low.flat[0]:.4g} to {high.flat[0]:.4g}"
        case spaces.Tuple(spaces=parts):
            low, high = tuple(int(p.start) for p in parts), tuple(int(p.start + p.n - 1) for p in parts)
        case spaces.MultiDiscrete(start=low, nvec=n) | spaces.Discrete(start=low, n=n):
            high = low + n - 1
    return f"from {_numbers(low)} to {_numbers(high)}"


def _action_literal(bound: np.ndarray) -> str:
    """A bound of a Box of actions as an expression for a rule's source: exact, one number where all are equal."""
    if (bound == bound.flat[0]).all():
        return repr(bound.flat[0])
    text = np.array2string(bound, separator=", ", threshold=bound.size, max_line_width=100, formatter={"all": str})
    return f"np.{bound.dtype}({text})"


def _rollout_facts(env: gym.Env, observation: Observation, seed: int) -> tuple[str, str]:
    """Range of the rewards and first transition of `RANDOM_STEPS` uniformly random steps, in words."""
    actions = deepcopy(env.action_space)  # the environment's own may belong to its class: leave its random numbers be
    actions.seed(seed + 1)

    def own(obs: Any) -> np.ndarray | int | tuple[int, ...]:
        return observation.own(np.asarray(obs).reshape(observation.row_shape))

    rewards, first, (obs, _) = [], "", env.reset(seed=seed)
    for _ in range(RANDOM_STEPS):
        action = actions.sample()
        before, (obs, reward, terminated, truncated, _) = own(obs), env.step(action)
        rewards.append(float(reward))
        first = first or (
            f"observation {_numbers(before)}, action {_numbers(action)}, reward {reward:.4g}, next observation "
            f"{_numbers(own(obs))}, terminated {terminated}, truncated {truncated}"
        )
        if terminated or truncated:
            obs, _ = env.reset()
    return f"{min(rewards):.4g} to {max(rewards):.4g} in {RANDOM_STEPS} steps of a uniformly random policy", first


def _describe_env(env: gym.Env, env_id: str, seed: int = 0) -> dict[str, str]:
    """Values of the placeholders that prompt files may use. Takes `RANDOM_STEPS` steps in the environment."""
    observation, action = rule_spaces(env)
    if isinstance(action, BoxAction):
        returned = f"a NumPy array of shape {action.low.shape}, finite in every component and within the bounds"
        shape, low, high = action.low.shape, _action_literal(action.low), _action_literal(action.high)
    else:
        shape, low, high = (), action.start, action.start + action.n - 1
        returned = f"an int from {low} to {high}"
    given = {
        "floats": f"a float64 NumPy array of shape {observation.shape}",
        "int": "an int",
        "tuple": f"a tuple of {math.prod(observation.shape)} ints",
        "ints": f"an int64 NumPy array of shape {observation.shape}",
    }
    limit = env.spec.max_episode_steps if env.spec else None
    doc = inspect.getdoc(env.unwrapped) or "(the environment has no documentation)"
    if len(doc) > DOC_CHARACTERS:
        doc = f"{doc[:DOC_CHARACTERS]}\n[cut here: {DOC_CHARACTERS:,} of {len(doc):,} characters]"
    reward_range, transition = _rollout_facts(env, observation, seed)
    return {
        "env_id": env_id,
        "env_doc": doc,
        "observation_space": str(_own_space(env)),
        "observation_bounds": _bounds(_own_space(env)),
        "action_space": f"{env.action_space}: {_bounds(env.action_space)}",
        "action_shape": str(shape),
        "action_low": str(low),
        "action_high": str(high),
        "reward_range": reward_range,
        "sample_transition": transition,
        "max_episode_steps": str(limit or "none"),
        "rule_is_given": given[observation.kind],
        "rule_returns": returned,
    }


def _summary(replay: Replay, shown: int = 20) -> str:
    """Returns and lengths of a replay's episodes, of the first few only where there are many."""
    text = f"returns {np.round(replay.returns[:shown], 3).tolist()}, lengths {replay.lengths[:shown]}"
    if len(replay.returns) <= shown:
        return text
    error = np.std(replay.returns, ddof=1) / len(replay.returns) ** 0.5
    return (
        f"mean return {np.mean(replay.returns):.4g} (standard error {error:.2g}) over {len(replay.returns)} episodes; "
        f"the first {shown}: {text}"
    )


def _table(replay: Replay, observation: Observation, rows: int = 24) -> str:
    """Evenly sampled steps of a replay as text, with the environment's own observations."""
    picked = np.unique(np.linspace(0, len(replay.rewards) - 1, rows).astype(int))

    def text(value: np.ndarray | np.integer | int | tuple[int, ...]) -> str:
        if isinstance(value, np.ndarray):
            return np.array2string(value, precision=3, suppress_small=True, max_line_width=10_000)
        return str(value)

    return "\n".join(
        f"t={replay.steps[i]} obs={text(observation.own(replay.obs[i]))} action={text(replay.actions[i])} "
        f"reward={replay.rewards[i]:.3g}"
        for i in picked
    )


class Supervisor:
    """Decides, window by window, whether a rule guides the agent, and provides the rule.

    Args:
        args: a script's arguments (SupervisorArgs and env_id, seed, guide_end, guide_window).
        env_fn: makes an environment like the training one, of the given render mode ("rgb_array" or None). Its
            observations are arrays: a Box's, or the integers (k,) of which a discrete observation consists.
        act: the unguided policy: observations (N, *obs) and `deterministic` to actions (N, *action); discrete ones
            are int64 (N,).
        intervene: combines the learner's actions and the rule's (N, *action), as in training.
        run_dir: the run's folder; `replays/` and `llm/` are made in it.
    """

    def __init__(
        self,
        args: Any,
        *,
        env_fn: Callable[[str | None], gym.Env],
        act: Callable[[np.ndarray, bool], np.ndarray],
        intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
        run_dir: str | Path,
    ):
        self.args, self.env_fn, self.act, self.intervene = args, env_fn, act, intervene
        self.run_dir = Path(run_dir)
        self.prompt_dir = Path(args.prompt_dir) if args.prompt_dir else PROMPTS / args.env_id
        self.steps, self.seconds = 0, 0.0  # environment steps and wall time that supervision took
        self.ended = False
        self.failures = 0  # windows that went unguided because of a failure
        self.policy: SandboxedPolicy | None = None  # the last rule that was accepted
        self.history: list[str] = []  # what was tried, for the advisor
        self.replay_env: gym.Env | None = None
        self.frames = 0  # key frames of a replay; 0 where nothing can be rendered
        self.audition_envs: list[gym.Env] = []

    # -- before training ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Choose who supervises and check all that it needs, so that a mistake is found before the run begins.

        Raises:
            ValueError: a setting is out of range, a key or file is missing or malformed, or a fixed rule (bundled or
                `--guide-policy`) fails its check on states of a random rollout.
        """
        args = self.args
        for name, least in (("replay_episodes", 1), ("replay_max_steps", 1), ("replay_frames", 0), ("guide_window", 1),
                            ("coder_attempts", 1), ("audition_episodes", 0), ("audition_max_steps", 1)):  # fmt: skip
            if getattr(args, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
        if args.audition_max_steps < 2 * args.audition_episodes:
            raise ValueError(
                f"--audition-max-steps must give each of the 2 · {args.audition_episodes} episodes of a round a step, "
                f"not {args.audition_max_steps} to all"
            )
        self.mode, reason = self._choose()
        self.description = f"{self.mode} ({reason})"
        if self.mode == "none":
            return
        check_platform(strict=args.sandbox == "strict")
        self.judged = not args.advisor_always
        env = self.env_fn(None)
        try:
            self.observation, self.action = rule_spaces(env)
            if self.mode == "llm":
                self.chat = ChatModel(args.llm_base_url, args.llm_timeout, self.run_dir / "llm")
                self.load_prompts(env)
            elif self.judged:
                self.bundled = self._read_bundled()
            self.fixed_source = self._read_fixed_source()
            if self.fixed_source is not None:
                self._dry_run_fixed(env)
        finally:
            env.close()

    def load_prompts(self, env: gym.Env) -> None:
        """Read the prompt files and fill them with the environment's facts."""
        self.observation, self.action = rule_spaces(env)
        folder = self.prompt_dir if self.args.prompt_dir or self.prompt_dir.is_dir() else default_prompts(self.action)
        values = _describe_env(env, self.args.env_id, self.args.seed)
        self.steps += RANDOM_STEPS
        self.advisor_prompt = load_prompt(folder / "advisor.md", ADVISOR_HEADINGS, values)
        self.coder_prompt = load_prompt(folder / "coder.md", CODER_HEADINGS, values)

    def _choose(self) -> tuple[str, str]:
        args = self.args
        if args.supervisor != "auto":
            return args.supervisor, "--supervisor"
        if args.llm_base_url or os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
            return "llm", "auto: a key or base URL is set"
        if all((self.prompt_dir / name).is_file() for name in ("bundled_policy.py", "bundled.toml")):
            return "bundled", "auto: no key or base URL is set, and the environment has a bundled rule"
        if args.guide_policy and args.advisor_always:
            return "bundled", "auto: a rule of your own, without judgement"
        raise ValueError(
            f"nobody can supervise {args.env_id}: no key or base URL is set and {self.prompt_dir} has no bundled rule. "
            "Three ways out: set OPENAI_API_KEY (or --llm-base-url); give a rule of your own with "
            "--guide-policy FILE --advisor-always; or train plain SAC with --supervisor none"
        )

    def _read_bundled(self) -> dict[str, Any]:
        path = self.prompt_dir / "bundled.toml"
        kinds = {"intervene_below": (int, float), "analysis": str, "advice": str}
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"the bundled supervisor's file {path} cannot be read: {error}") from None
        for key, kind in kinds.items():
            if not isinstance(data.get(key), kind):
                raise ValueError(f"{path} must set {key} to a {'number' if key == 'intervene_below' else 'string'}")
        return data

    def _read_fixed_source(self) -> str | None:
        path = self.args.guide_policy or (self.prompt_dir / "bundled_policy.py" if self.mode == "bundled" else None)
        if path is None:
            return None
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the guidance policy {path} cannot be read: {error}") from None

    def _dry_run_fixed(self, env: gym.Env) -> None:
        """Try a fixed rule on the states of random episodes."""
        env.action_space.seed(self.args.seed)
        obs_list, steps = [], []
        obs, _ = env.reset(seed=self.args.seed)
        t = 0
        for _ in range(200):
            obs_list.append(obs)
            steps.append(t)
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            t += 1
            if terminated or truncated:
                obs, t = env.reset()[0], 0
        self.steps += len(steps)
        try:
            self._start(self.fixed_source, np.array(obs_list), np.array(steps)).close()
        except PolicyError as error:
            name = self.args.guide_policy or self.prompt_dir / "bundled_policy.py"
            raise ValueError(f"the guidance policy {name} fails: {error}") from None

    def _start(self, source: str, obs: np.ndarray, t: np.ndarray) -> SandboxedPolicy:
        """Check a rule: static check, sandbox, and a dry run on states (T, *obs) at steps (T,)."""
        check_source(source)
        policy = SandboxedPolicy(
            source, observation=self.observation, action=self.action, seed=self.args.seed,
            strict=self.args.sandbox == "strict",
        )  # fmt: skip
        try:
            for i in range(len(t)):  # one by one, as in training, so that the deadline is tested as it will be there
                policy(obs[i : i + 1], t[i : i + 1])
        except PolicyError:
            policy.close()
            raise
        return policy

    # -- in training --------------------------------------------------------------------------------------------------

    def consult(
        self, global_step: int, recent_returns: Sequence[float], writer: SummaryWriter
    ) -> SandboxedPolicy | None:
        """Decide about the next window.

        Uses environments and random numbers of its own: the training's are left as they were.

        Args:
            recent_returns: of the last training episodes, for the advisor.

        Returns:
            The rule that guides the window, or None: do not intervene. No failure of a model, a server or a rule
            leaves this method; it is printed, logged and answered with None.
        """
        if self.mode == "none":
            return None
        started = time.time()
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed + global_step)
            replay = self._record(global_step, writer)
            try:
                policy, verdict = self._decide(global_step, replay, recent_returns, writer)
            except SupervisionError as error:
                self.failures += 1
                policy, verdict = None, f"unguided: {error}"
        self.seconds += time.time() - started
        self.history.append(f"step {global_step}: greedy return {np.mean(replay.returns):.4g}; {verdict}")
        print(f"step {global_step:,}: supervisor: greedy return {np.mean(replay.returns):.4g}; {verdict}", flush=True)
        writer.add_text("supervisor/verdict", verdict, global_step)
        scalars = {
            "charts/guidance_active": float(policy is not None), "charts/supervision_steps": self.steps,
            "supervisor/replay_return": np.mean(replay.returns), "supervisor/replay_length": np.mean(replay.lengths),
            "supervisor/failures": self.failures, "supervisor/seconds": self.seconds,
        }  # fmt: skip
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, global_step)
        return policy

    def report_failure(self, error: PolicyError, global_step: int, writer: SummaryWriter) -> None:
        """Say that the rule failed while training; the rest of the window goes unguided."""
        self.failures += 1
        self.policy = None
        self.history.append(f"step {global_step}: the rule failed: {error}")
        print(f"step {global_step:,}: supervisor: the rule failed, unguided until the next window: {error}", flush=True)
        writer.add_text("supervisor/verdict", f"the rule failed: {error}", global_step)
        writer.add_scalar("charts/guidance_active", 0.0, global_step)
        writer.add_scalar("supervisor/failures", self.failures, global_step)

    def end(self, global_step: int, writer: SummaryWriter) -> None:
        """The guided time is over: say what it took, stop the rule's process and close the environments."""
        if self.mode == "none" or self.ended:
            return
        self.ended = True
        writer.add_scalar("charts/guidance_active", 0.0, global_step)
        print(
            f"step {global_step:,}: supervisor: the guided time is over; supervision took {self.steps:,} environment "
            f"steps and {self.seconds:.1f} s; replays and logs are in {self.run_dir}", flush=True,
        )  # fmt: skip
        if self.policy is not None:
            self.policy.close()
        for env in [self.replay_env, *self.audition_envs]:
            if env is not None:
                env.close()

    def _record(self, global_step: int, writer: SummaryWriter) -> Replay:
        """Replay the unguided policy; leave it as mp4 and on TensorBoard."""
        args = self.args
        if self.replay_env is None:
            self.replay_env = self.env_fn(None)
            if args.replay_frames:
                env, reason = open_rendered(self.env_fn)
                if env is None:
                    print(f"supervisor: replays without pictures: {reason}", flush=True)
                else:
                    self.replay_env.close()
                    self.replay_env, self.frames = env, args.replay_frames
        replay = record_replay(
            self.replay_env, self.act, episodes=args.replay_episodes, max_steps=args.replay_max_steps,
            seed=args.seed + global_step, frames=self.frames,
        )  # fmt: skip
        self.steps += len(replay.rewards)
        save_video(replay, self.replay_env, self.run_dir, "supervisor/replay", global_step, writer)
        return replay

    def _decide(self, global_step, replay, recent_returns, writer) -> tuple[SandboxedPolicy | None, str]:
        advice = self._advise(global_step, replay, recent_returns)
        text = f"**{'intervene' if advice.intervene else 'do not intervene'}**\n\n{advice.analysis}\n\n{advice.advice}"
        writer.add_text("supervisor/advice", text, global_step)
        if not advice.intervene:
            return None, "not intervening"

        kept = self.policy if advice.keep_current_policy else None
        feedback, auditions_failed = "", 0
        for attempt in range(1 if self.fixed_source or kept else self.args.coder_attempts):
            policy = None
            try:
                policy = kept or self._write_policy(global_step, advice, replay, feedback, attempt)
                verdict = self._audition(policy, global_step, writer) if self.judged else "guiding, not judged"
            except PolicyError as error:
                feedback = str(error)
                auditions_failed += isinstance(error, AuditionFailed)
                if policy is not None:
                    policy.close()
                    self.policy = None if policy is self.policy else self.policy
                if auditions_failed == 2:  # told once; bad guidance must not reach training
                    break
                continue
            if self.policy is not None and self.policy is not policy:
                self.policy.close()
            self.policy = policy
            writer.add_text("supervisor/code", f"```python\n{policy.source}\n```", global_step)
            return policy, verdict
        if auditions_failed == 0:
            self.failures += 1
        return None, f"unguided: {feedback}"

    def _advise(self, global_step: int, replay: Replay, recent_returns: Sequence[float]) -> Advice:
        if not self.judged:
            return Advice("No judgement (--advisor-always).", True, keep_current_policy=self.policy is not None)
        if self.mode == "bundled":
            low = float(np.mean(replay.returns)) < self.bundled["intervene_below"]
            because = f"Greedy return {np.mean(replay.returns):.4g}, threshold {self.bundled['intervene_below']:g}."
            if not low:
                return Advice(because, False)
            return Advice(
                f"{because} {self.bundled['analysis']}", True, self.bundled["advice"], self.policy is not None
            )
        text, images = self.advisor_question(global_step, replay, recent_returns)
        answer = self.chat.ask("advisor", self.args.advisor_model, self.advisor_prompt, text, global_step, images)
        advice = parse_advice(answer)
        advice.keep_current_policy &= self.policy is not None
        return advice

    def advisor_question(
        self, global_step: int, replay: Replay, recent_returns: Sequence[float]
    ) -> tuple[str, list[bytes]]:
        """The text and the JPEGs that the advisor is sent."""
        text = (
            f"Training step {global_step}; guidance may go on until step {self.args.guide_end}; your decision holds "
            f"for {self.args.guide_window} steps.\n\nReplay of the current policy, greedy and without guidance: "
            f"{_summary(replay)}.\n{_table(replay, self.observation)}\n\n"
            f"Returns of the last training episodes: {np.round(recent_returns, 3).tolist() or 'none yet'}.\n\n"
            "What was tried before:\n" + ("\n".join(self.history[-8:]) or "nothing yet")
        )
        if self.policy is not None:
            text += f"\n\nThe current guidance policy:\n```python\n{self.policy.source}\n```"
        shown = np.unique(np.linspace(0, len(replay.frames) - 1, 8).astype(int)) if replay.frames else []
        if len(shown):
            text += f"\n\nFrames of the replay at steps {[replay.frame_steps[i] for i in shown]}:"
        return text, [jpeg_bytes(replay.frames[i]) for i in shown]

    def _write_policy(self, global_step, advice, replay, feedback, attempt) -> SandboxedPolicy:
        """One answer of the coder, checked; PolicyError where it is unusable."""
        if self.fixed_source is not None:
            return self._start(self.fixed_source, replay.obs, replay.steps)
        text = self.coder_question(advice.advice, replay)
        if attempt:
            text += f"\n\nYour last answer was refused. Mend it. The reason:\n{feedback}"
        source = parse_code(self.chat.ask("coder", self.args.coder_model, self.coder_prompt, text, global_step))
        return self._start(source, replay.obs, replay.steps)

    def coder_question(self, advice: str, replay: Replay) -> str:
        """The text that the coder is sent first."""
        return f"The advisor says:\n{advice}\n\nStates of the replay:\n{_table(replay, self.observation)}"

    def _audition(self, policy: SandboxedPolicy, global_step: int, writer: SummaryWriter) -> str:
        """Let the rule through only when the guided behaviour does at least as well; AuditionFailed otherwise."""
        if not self.args.audition_episodes:
            return "guiding, without audition"
        while len(self.audition_envs) < 2 * self.args.audition_episodes:
            self.audition_envs.append(self.env_fn(None))
        result = run_audition(
            self.audition_envs, self.act, self.intervene, policy, max_steps=self.args.audition_max_steps,
            seed=self.args.seed + global_step + 1_000,
        )  # fmt: skip
        self.steps += result.steps
        guided, unguided = float(np.mean(result.guided)), float(np.mean(result.unguided))
        writer.add_scalar("supervisor/audition_guided_return", guided, global_step)
        writer.add_scalar("supervisor/audition_unguided_return", unguided, global_step)
        verdict = f"return {guided:.4g} guided, {unguided:.4g} unguided ({len(result.guided)} pairs of episodes)"
        if not result.passed:
            raise AuditionFailed(f"audition failed: {verdict}; the rule makes the behaviour worse")
        return f"guiding, audition passed: {verdict}"


class AuditionFailed(PolicyError):
    """The guided behaviour did worse than the unguided one."""


# ---------------------------------------------------------------------------------------------------------------------
# Command line: the tools for writing prompts (docs/supervisor.md)
# ---------------------------------------------------------------------------------------------------------------------


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
    """folder to write them to; None: `prompts/<env-id>`. Files that are there already are never overwritten"""


@dataclass(kw_only=True)
class Trial(SupervisorArgs, Setting):
    """A run's first consultation, with a learner that has learned nothing."""

    learner: Literal["random", "zero"] = "random"
    """whose replay is shown: uniformly random actions, or always the action zero (of discrete ones the first)"""
    guide_start: int = 0
    """environment step of the consultation"""
    guide_end: int = 10_000
    """environment step at which all guidance is off"""
    guide_window: int = 1_000
    """environment steps for which a decision holds"""


@dataclass(kw_only=True)
class ShowPrompt(Trial):
    """Print what the first consultation of a run would send to a model. Asks nobody and needs no key."""

    role: Literal["advisor", "coder"]
    """who is asked"""
    advice: str = "(the advisor's advice stands here)"
    """the advice that the coder is sent"""


@dataclass(kw_only=True)
class Consult(Trial):
    """Make one full consultation and show advice, code, check and audition. Exit status 1 if nothing usable came."""


Command = NewPrompt | ShowPrompt | Consult


def training_script(setting: Setting) -> SimpleNamespace:
    """The names of the script that trains in this environment, so that its settings and wrappers are in force here."""

    def names(actions: str) -> SimpleNamespace:  # run, not imported: the scripts know this module, it knows none
        return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(f"guided_sac_{actions}.py"))))

    script = names("continuous")
    env = script.make_env(setting.env_id, 0, 0, False, "", script.parse_env_kwargs(setting.env_kwargs))()
    env.close()
    return script if isinstance(env.action_space, spaces.Box) else names("discrete")


def parse_command(argv: Sequence[str]) -> tuple[Command, SimpleNamespace]:
    """Read a command; what it leaves open is as in a training run of its environment.

    Returns:
        The command, and the training script's names with `env_fn`, which makes its environment.

    Raises:
        ValueError: the environment cannot be made or has spaces in which no script trains.
    """
    import tyro

    tools = "The tools for writing prompts (docs/supervisor.md)."
    command = tyro.cli(Command, args=argv, prog="llm_supervisor.py", description=tools)
    script = training_script(command)
    training = {**asdict(script.Args()), **script.ENV_DEFAULTS.get(command.env_id, {}), "env_id": command.env_id}
    default = replace(command, **{f.name: training[f.name] for f in fields(command) if f.name in training})
    command = tyro.cli(type(command), args=argv[1:], default=default, prog="llm_supervisor.py")
    if command.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {command.seed}")
    make_env, env_kwargs = script.make_env, script.parse_env_kwargs(command.env_kwargs)
    script.env_fn = lambda mode: make_env(
        command.env_id, command.seed, 0, False, "", env_kwargs, command.max_episode_steps, mode
    )()
    env = script.env_fn(None)
    env.close()
    script.check_spaces(env)
    return command, script


def new_prompt(command: NewPrompt, script: SimpleNamespace) -> None:
    """Write the default prompts with the environment's facts; what a run's flags may change stays a placeholder."""
    folder = Path(command.prompt_dir) if command.prompt_dir else PROMPTS / command.env_id
    paths = {folder / "advisor.md": ADVISOR_HEADINGS, folder / "coder.md": CODER_HEADINGS}
    if present := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"{' and '.join(present)} would be overwritten: move them, or give another --prompt-dir")
    env = script.env_fn(None)
    default, values = default_prompts(rule_spaces(env)[1]), _describe_env(env, command.env_id, command.seed)
    env.close()
    values = {name: value.replace("{{", "{ {") for name, value in values.items()}  # LaTeX is no placeholder
    values |= {name: f"{{{{{name}}}}}" for name in ("max_episode_steps", "rule_is_given", "rule_returns")}
    texts = {path: load_prompt(default / path.name, headings, values) for path, headings in paths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")


def trial_supervisor(
    kind: type[Supervisor], command: Trial, script: SimpleNamespace, run_dir: str | Path
) -> Supervisor:
    """A run's supervisor before its first consultation."""
    env = script.env_fn(None)
    env.close()
    space = env.action_space  # seeded
    zero = np.clip(0, space.low, space.high) if isinstance(space, spaces.Box) else space.start

    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        return np.array([space.sample() if command.learner == "random" else zero for _ in obs])

    def intervene(actions: np.ndarray, guidance: np.ndarray) -> np.ndarray:
        return script.intervene(actions, guidance, space) if isinstance(space, spaces.Box) else guidance

    return kind(command, env_fn=script.env_fn, act=act, intervene=intervene, run_dir=run_dir)


def first_question(command: ShowPrompt, script: SimpleNamespace) -> tuple[str, str, list[bytes]]:
    """System text, user text and JPEGs of the first question to a role."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        supervisor = trial_supervisor(Supervisor, command, script, folder)
        env = script.env_fn(None)
        supervisor.load_prompts(env)
        env.close()
        with redirect_stdout(sys.stderr):  # what it says is no part of the question
            replay = supervisor._record(command.guide_start, writer)
        supervisor.replay_env.close()
    if command.role == "coder":
        return supervisor.coder_prompt, supervisor.coder_question(command.advice, replay), []
    return supervisor.advisor_prompt, *supervisor.advisor_question(command.guide_start, replay, [])


def show_prompt(command: ShowPrompt, script: SimpleNamespace) -> None:
    """Print a question, with its images by their sizes."""
    from PIL import Image

    system, text, images = first_question(command, script)
    print(f"--- system ---\n{system}\n--- user ---\n{text}")
    for number, image in enumerate(images, 1):
        width, height = Image.open(io.BytesIO(image)).size
        print(f"--- image {number}: JPEG, {width} × {height} pixels, {len(image):,} bytes ---")


class SpeakingSupervisor(Supervisor):
    """A supervisor that shows each step of its consultation."""

    advice: Advice | None = None

    def _advise(self, *args) -> Advice:
        self.advice = super()._advise(*args)
        decision = "intervene" if self.advice.intervene else "do not intervene"
        print(f"--- advisor: {decision} ---\n{self.advice.analysis}\n\n{self.advice.advice}")
        return self.advice

    def _start(self, source: str, obs: np.ndarray, t: np.ndarray) -> SandboxedPolicy:
        if self.advice:  # else it is a fixed rule's trial before the consultation
            print(f"--- code ---\n{source}")
        return super()._start(source, obs, t)

    def _write_policy(self, *args) -> SandboxedPolicy:
        try:
            policy = super()._write_policy(*args)
        except PolicyError as error:
            print(f"--- check: refused ---\n{error}")
            raise
        print("--- check: passed ---")
        return policy

    def _audition(self, *args) -> str:
        try:
            verdict = super()._audition(*args)
        except PolicyError as error:
            print(f"--- audition: refused ---\n{error}")
            raise
        print(f"--- audition ---\n{verdict}")
        return verdict


def consult(command: Consult, script: SimpleNamespace) -> int:
    """One consultation as in training; its exit status."""
    run_dir = f"runs/{command.env_id}__consult__{command.seed}__{int(time.time())}"
    supervisor = trial_supervisor(SpeakingSupervisor, command, script, run_dir)
    supervisor.prepare()
    if supervisor.mode == "none":
        raise ValueError("--supervisor none consults nobody: choose llm or bundled")
    print(f"supervisor: {supervisor.description}")
    with SummaryWriter(run_dir) as writer:
        policy = supervisor.consult(command.guide_start, [], writer)
        supervisor.end(command.guide_start, writer)
    declined = supervisor.advice is not None and not supervisor.advice.intervene
    return 0 if policy is not None or declined else 1


def main(argv: Sequence[str]) -> int:
    """Carry a command out and return its exit status; what bad input raises becomes one line and status 1."""
    try:
        command, script = parse_command(argv)
        match command:
            case NewPrompt():
                new_prompt(command, script)
            case ShowPrompt():
                show_prompt(command, script)
            case Consult():
                return consult(command, script)
    except (ValueError, OSError, ImportError, gym.error.Error) as error:
        message = "; ".join(line.strip() for line in str(error).splitlines())
        print(f"llm_supervisor.py: error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
