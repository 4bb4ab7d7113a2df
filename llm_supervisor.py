"""The supervisor of GuidedSAC: replay → advisor → coder → check → audition → guidance policy.

A training script knows three things about it:

    supervisor = Supervisor(args, ...)                      # once
    guidance = supervisor.consult(step, returns, writer)    # when a guided window is over; None: do not intervene
    a_g = guidance(obs, t)                                  # inside the window; t = step of the current episode

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control", section 3.3 and C.
"""

import base64
import difflib
import functools
import hashlib
import inspect
import io
import itertools
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
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import urlsplit

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

    supervisor: Literal["auto", "llm", "replay", "bundled", "none"] = "auto"
    """who supervises: `llm` (an OpenAI-compatible endpoint), `replay` (the recorded answers of `llm_log`), `bundled`
    (offline: the environment's bundled rule), `none` (plain SAC); `auto`: `llm` where a key or base URL is set, else
    `bundled` where the environment has it"""
    guide_policy: str | None = None
    """file with a rule `policy(obs, t)` of your own, instead of a coder's"""
    advisor_always: bool = False
    """the paper's ablation: no judgement (no advisor, no audition), guidance from `guide_start` to `guide_end`"""
    prompt_dir: str | None = None
    """folder of the prompt files and the bundled rule; None: `prompts/<env-id>` where it exists and `--env-kwargs` is
    the environment's default, which it describes, else `prompts/default` (discrete actions: `prompts/default-discrete`)
    """
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
    """deadline of one question to a model, with its retries, in seconds, > 0"""
    llm_async: bool = False
    """train on unguided while a model thinks, and begin the window when its answer is there; such a run cannot be
    repeated exactly"""
    llm_max_calls: int | None = None
    """questions to models in a run, ≥ 1; when they are spent, the run goes on unguided. None: no limit"""
    llm_max_tokens: int | None = None
    """tokens of a run, of questions and answers together, ≥ 1; checked before each question. None: no limit"""
    llm_log: str | None = None
    """with `--supervisor replay`: the folder `runs/<run>/llm` whose exchanges are repeated"""
    advisor_vision: Literal["auto", "on", "off"] = "auto"
    """pictures for the advisor: `on`, `off` (states only), or `auto`: until the server refuses them"""
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
GL_SECONDS = 60.0  # a driver or a display that does not answer must not hold the run


@functools.cache
def _choose_mujoco_gl() -> str | None:
    """Set MUJOCO_GL to the first backend that works here, or return why none does.

    Tried in child processes: a failed OpenGL start can abort the whole process at the next one.
    """
    configured = os.environ.get("MUJOCO_GL")
    keyless = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    for backend in [configured] if configured else ["egl", "osmesa", "glfw"]:
        env = {**keyless, "MUJOCO_GL": backend}
        with suppress(subprocess.SubprocessError):  # it fails, or a driver or a display does not answer
            subprocess.run(
                [sys.executable, "-c", GL_PROBE], env=env, capture_output=True, timeout=GL_SECONDS, check=True
            )
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


ADVICE_TYPES = {"analysis": "string", "intervene": "boolean", "advice": "string", "keep_current_policy": "boolean"}
ADVICE_SCHEMA = {
    "type": "object", "properties": {key: {"type": kind} for key, kind in ADVICE_TYPES.items()},
    "required": list(ADVICE_TYPES), "additionalProperties": False,
}  # fmt: skip
MAX_ANSWER_CHARS = 400_000  # of an answer, thoughts included; a longer one is refused
MAX_OBJECTS = 200  # of an answer that are tried as the advisor's: each trial may read the answer to its end
MAX_QUOTED_CHARS = 20_000  # of an unusable answer that its author is shown again


def without_thoughts(answer: str) -> str:
    """What a model says behind its think-block, whose opening tag may stand in the prompt; "" where it never ends."""
    return re.split(r"<think(?:ing)?>", re.split(r"</think(?:ing)?>", answer)[-1])[0]


def parse_advice(answer: str, has_rule: bool) -> Advice:
    """Read the advisor's JSON object, alone or inside prose or a fence.

    Args:
        has_rule: whether there is a rule that could be kept.

    Raises:
        SupervisionError: there is none, or none that says what it must.
    """
    text, decoder, problem = without_thoughts(answer), json.JSONDecoder(), ""
    for match in itertools.islice(re.finditer(r'\{\s*"', text), MAX_OBJECTS):
        try:
            data = decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):  # no JSON; a number of thousands of digits; nested too deeply
            continue
        found = _advice_problem(data, has_rule)
        if not found:
            return Advice(**{"analysis": "", **{key: data[key] for key in ADVICE_TYPES if key in data}})
        problem = problem or found
    raise SupervisionError(f"the advisor's answer is unusable: {problem or 'it holds no complete JSON object'}")


def _advice_problem(data: dict, has_rule: bool) -> str:
    """What ADVICE_SCHEMA has against an object, less what small models leave out and nobody misses.

    That is the analysis, whether to keep the rule (no), and the advice where no coder will read it. Keys beside those
    of the schema are passed over.
    """
    needed = {"intervene"}
    if data.get("intervene") is True and not (has_rule and data.get("keep_current_policy") is True):
        needed.add("advice")
    problems = []
    for key, kind in ADVICE_TYPES.items():
        if key in needed and key not in data:
            problems.append(f'"{key}" is missing')
        elif key in data and not isinstance(data[key], str if kind == "string" else bool):
            problems.append(f'"{key}" must be {"a string" if kind == "string" else "true or false"}')
        elif key in needed and kind == "string" and not data[key].strip():
            problems.append(f'"{key}" must not be empty: a rule is to be written from it')
    return "; ".join(problems)


def parse_code(answer: str) -> str:
    """The coder's Python: the one fenced block that defines `policy`, or the whole answer where there is no fence."""
    text = without_thoughts(answer)
    blocks = re.findall(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    usable = [block for block in blocks if re.search(r"^def +policy *\(", block, flags=re.MULTILINE)]
    if len(usable) > 1:
        raise PolicyError("the answer holds more than one code block that defines policy(obs, t); give exactly one")
    if usable:
        return usable[0]
    if blocks:
        raise PolicyError("no code block of the answer defines policy(obs, t)")
    return text


def _gist(text: str, width: int = 200) -> str:
    """A text on one line of at most `width` printable characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


# ---------------------------------------------------------------------------------------------------------------------
# Questions to models
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Question:
    """A conversation whose next turn is a model's."""

    role: Literal["advisor", "coder"]
    model: str
    step: int  # global step of the consultation
    prompt_sha256: str  # of the prompt file
    messages: list[dict[str, str]]  # text turns: system, user, then assistant and user in turn
    pictures: list[tuple[int, bytes]] = field(default_factory=list)  # (step of the replay, JPEG), for the first turn

    def answered(self, answer: str, reply: str) -> "Question":
        """The conversation after an answer that was not usable and our reply to it."""
        said = without_thoughts(answer).strip()[:MAX_QUOTED_CHARS] or "(nothing)"  # servers refuse empty turns
        turns = [{"role": "assistant", "content": said}, {"role": "user", "content": reply}]
        return replace(self, messages=self.messages + turns)

    def request(self, schema: bool, pictures: bool) -> dict[str, Any]:
        """The arguments of a chat completion, with or without what not every server takes."""
        messages: list[dict[str, Any]] = list(self.messages)
        if pictures and self.pictures:
            text = f"{messages[1]['content']}\n\nFrames of the replay at steps {[step for step, _ in self.pictures]}:"
            urls = [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" for _, jpeg in self.pictures]
            messages[1] = {"role": "user", "content": [{"type": "text", "text": text}]
                           + [{"type": "image_url", "image_url": {"url": url}} for url in urls]}  # fmt: skip
        request = {"model": self.model, "messages": messages}
        if schema and self.role == "advisor":
            named = {"name": "advice", "strict": True, "schema": ADVICE_SCHEMA}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        return request

    def estimated_usage(self, answer: str, pictures: bool) -> dict[str, Any]:
        """Tokens of the question and of an answer, at four characters each, and 300 for a picture of 512 pixels."""
        asked = sum(len(turn["content"]) for turn in self.messages) // 4 + 300 * pictures * len(self.pictures)
        said = len(answer) // 4
        return {
            "prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said, "estimated": True,
        }  # fmt: skip

    def transcript(self) -> list[str]:
        """The text of the question, line by line; pictures differ from machine to machine and are left out."""
        turns = "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in self.messages)
        return f"{self.role} at step {self.step}\n{turns}".split("\n")


@dataclass
class Result:
    """What became of a question: an answer or an error."""

    answer: str | None = None
    error: str | None = None
    usage: dict[str, Any] | None = None  # prompt_tokens, completion_tokens, and whether they are our estimate
    refused: list[str] = field(default_factory=list)  # "schema", "pictures": what the server would not have
    calls: int = 1  # 0 for a question that was not asked
    seconds: float = 0.0
    final: bool = False  # whether no further question will be asked in the run


class Exchange:
    """A question on its way to a model; it is over when there is a result or the deadline has passed."""

    def __init__(self, question: Question, timeout: float):
        self.question, self.timeout = question, timeout
        self.started = time.monotonic()
        self.done = threading.Event()
        self.result = Result()

    def resolve(self, result: Result) -> None:
        """Bring the result."""
        self.result = result
        self.done.set()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.done.is_set() or time.monotonic() - self.started > self.timeout

    def wait(self) -> None:
        """Block until it is over."""
        self.done.wait(self.started + self.timeout - time.monotonic())


@dataclass
class Cost:
    """What the questions to one role took so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False  # whether a server did not count its tokens, so that ours are in the sums
    seconds: float = 0.0

    def __str__(self) -> str:
        about = "about " if self.estimated else ""
        return (f"{self.calls} calls, {about}{self.prompt_tokens:,} + {self.completion_tokens:,} tokens, "
                f"{self.seconds / max(self.calls, 1):.1f} s a call")  # fmt: skip


LATE, REFUSED, IN_AUDITION = "took longer than", "refused: ", "in the audition: "  # words of verdicts


class Chat:
    """The questions of a run: what they cost, and one JSON file an exchange, its pictures beside it.

    Args:
        log_dir: the folder of these files.
    """

    timeout = math.inf

    def __init__(self, log_dir: Path, asynchronous: bool = False):
        self.log_dir, self.asynchronous = log_dir, asynchronous
        self.costs = {"advisor": Cost(), "coder": Cost()}
        self.closed = ""  # why no further question is asked
        self.path, self.record = log_dir, {}  # of the last exchange

    def ask(self, question: Question) -> Exchange:
        """Send a question on its way."""
        exchange = Exchange(question, self.timeout)
        self._send(exchange)
        return exchange

    def open(self) -> None:
        """Make ready before training."""

    def _send(self, exchange: Exchange) -> None:
        """See to it that the exchange is resolved, now or from another thread."""
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """The costs so far, for TensorBoard."""
        return {
            f"llm/{role}_{name}": value
            for role, cost in self.costs.items()
            for name, value in (
                ("calls", cost.calls), ("prompt_tokens", cost.prompt_tokens),
                ("completion_tokens", cost.completion_tokens), ("seconds", cost.seconds / max(cost.calls, 1)),
            )
        }  # fmt: skip

    def finish(self, exchange: Exchange) -> str:
        """Book and log an exchange that is over (or given up), and return its answer.

        Raises:
            SupervisionError: there is none: a failure of the server, a passed deadline, a spent budget.
        """
        question = exchange.question
        if exchange.done.is_set():
            result = exchange.result
        else:  # what was asked is paid for also where the answer comes too late
            result = Result(
                error=self._silence(exchange), seconds=time.monotonic() - exchange.started,
                usage=question.estimated_usage("", pictures=True),
            )  # fmt: skip
        cost = self.costs[question.role]
        cost.calls += result.calls
        cost.seconds += result.seconds
        if result.usage:
            cost.prompt_tokens += result.usage["prompt_tokens"]
            cost.completion_tokens += result.usage["completion_tokens"]
            cost.estimated |= result.usage["estimated"]
        if result.final:
            self.closed = str(result.error)
        self._log(question, result)
        if result.answer is None:
            raise SupervisionError(f"the {question.role} ({question.model}): {result.error}")
        return result.answer

    def _silence(self, exchange: Exchange) -> str:
        return f"no answer within {exchange.timeout:g} s" if exchange.over else "given up: the guided time was over"

    def _log(self, question: Question, result: Result) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        name = f"{len(list(self.log_dir.glob('*.json'))):04d}-{question.role}"
        names = [f"{name}-frame-{step:06d}.jpg" for step, _ in question.pictures]
        for image_name, (_, jpeg) in zip(names, question.pictures, strict=True):
            (self.log_dir / image_name).write_bytes(jpeg)
        self.path = self.log_dir / f"{name}.json"
        self.record = {
            "role": question.role, "model": question.model, "global_step": question.step,
            "asynchronous": self.asynchronous, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "prompt_sha256": question.prompt_sha256, "messages": question.messages, "images": names,
            **asdict(result), "verdict": None,
        }  # fmt: skip
        self._write()

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.record, indent=1, ensure_ascii=False), encoding="utf-8")
        part.replace(self.path)  # whole or not at all

    def note(self, key: str, value: str) -> None:
        """Add to the record of the last exchange what became of its answer."""
        self.record[key] = value
        self._write()

    def clean(self, text: str) -> str:
        """A server's text as it may be written down: without halves of characters, and without the key."""
        return text.encode("utf-8", "replace").decode("utf-8")

    def missed_deadline(self) -> str | None:
        """In a repeated run: why the rule of the last answer was refused, where the reason was its slowness."""
        return None


PROBE_SECONDS = 5.0
# what servers say of pictures that they do not take: llama.cpp and Ollama "image input", vLLM "not a multimodal model",
# DeepSeek "unknown variant `image_url`", Groq "content must be a string"
NO_PICTURES = re.compile(r"\bimage|\bvision\b|\bvisual|multi-?modal|content\W+must be a string", re.I)
NO_SCHEMA = re.compile(r"response_?format|json_?schema|grammar|structured", re.I)
TOO_LONG = re.compile(r"\bcontext|too (long|large)|\btokens\b", re.I)  # this question, not every one with pictures
MAX_RESPONSE_BYTES = 20_000_000


def in_thread(function: Callable[[], None]) -> threading.Thread:
    """Start a function in a thread that nobody has to wait for: the client's time-out is per read, ours for all."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _refusal(response: Any) -> str:
    """What a server says of a request that it refuses. A gateway's page in HTML says nothing of it."""
    return response.text if "json" in response.headers.get("content-type", "") else ""


def _said(error: Exception) -> str:
    """An error with the server's own words, of which the client's message has a part, or with its cause."""
    if hasattr(error, "response"):
        return f"{type(error).__name__}: HTTP {error.status_code}: {error.response.text.strip()}"
    return f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")


class ChatModel(Chat):
    """Questions to an OpenAI-compatible endpoint, with one deadline for each.

    Args:
        args: the flags of SupervisorArgs.

    Raises:
        ValueError: neither a key nor a base URL is set, or one of them cannot be.
    """

    def __init__(self, args: Any, log_dir: Path):
        super().__init__(log_dir, args.llm_async)
        base_url = args.llm_base_url or os.environ.get("OPENAI_BASE_URL") or None
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key and not base_url:
            raise ValueError(
                "--supervisor llm needs a key in OPENAI_API_KEY, or the address of a server that wants none in "
                "--llm-base-url or OPENAI_BASE_URL"
            )
        if not re.fullmatch(r"[!-~]*", self.key):
            raise ValueError("OPENAI_API_KEY must be one word of ASCII characters; it holds a space or another sign")
        if base_url:
            check_base_url(base_url)
        import openai  # 1 s of import, only where a model is asked

        self.timeout, self.vision = args.llm_timeout, args.advisor_vision
        self.max_calls, self.max_tokens = args.llm_max_calls, args.llm_max_tokens
        self.schema = True  # until the server refuses it
        self.status = 0  # HTTP status of the server's last response, that of a retried one included
        self.openai = openai
        self.client = openai.OpenAI(
            api_key=self.key or "none", base_url=base_url, timeout=self.timeout,
            max_retries=int(math.log2(1 + self.timeout)),  # waits of 0.5, 1, 2, 4, 8, 8, … s: at most half the deadline
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._keep_deadline], "response": [self._bound_body, self._judge_status]}
            ),
        )  # fmt: skip
        self.thread = threading.local()  # of the question which a thread asks: its deadline, and whether with pictures

    def _keep_deadline(self, request: Any) -> None:
        """Let no attempt begin or wait beyond its question's deadline: a server must not work for nobody."""
        if (deadline := getattr(self.thread, "deadline", None)) is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the question's deadline has passed")
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _bound_body(self, response: Any) -> None:
        """Let no body go on beyond its question's deadline, however fast or slowly it comes, nor fill the memory."""

        def bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    raise ValueError(f"a response of more than {MAX_RESPONSE_BYTES:,} bytes")
                if time.monotonic() > getattr(self.thread, "deadline", math.inf):
                    raise TimeoutError("the question's deadline has passed")
                yield chunk

        body = response.iter_bytes
        response.iter_bytes = lambda chunk_size=None: bounded(body(chunk_size))  # what read() takes the body from

    def _judge_status(self, response: Any) -> None:
        """Note a response's status; where it refuses pictures with a 5xx (llama.cpp), tell the client not to repeat."""
        self.status = response.status_code
        if self.status >= 500 and getattr(self.thread, "pictures", False):
            response.read()
            if NO_PICTURES.search(_refusal(response)):
                response.headers["x-should-retry"] = "false"

    def open(self) -> None:
        """Ask for the list of models, which costs nothing, to learn of a wrong key before training; hide the key.

        Raises:
            ValueError: the server refuses the key. Any other failure is passed over: many servers lack the list, and
                one that is not up yet may come up later.
        """
        refusals: list[str] = []

        def ask() -> None:
            try:
                self.client.with_options(timeout=PROBE_SECONDS, max_retries=0).models.list()
            except Exception as error:  # a server may make the client raise anything
                if getattr(error, "status_code", 0) in (401, 403):
                    refusals.append(_said(error))

        in_thread(ask).join(PROBE_SECONDS)
        if refusals:
            what = "refuses the key in OPENAI_API_KEY" if self.key else "wants a key: set OPENAI_API_KEY"
            raise ValueError(f"the model server {what}: {_gist(self.clean(refusals[0]))}")
        os.environ.pop("OPENAI_API_KEY", None)  # no process that this one starts inherits it

    def _send(self, exchange: Exchange) -> None:
        calls = sum(cost.calls for cost in self.costs.values())
        tokens = sum(cost.prompt_tokens + cost.completion_tokens for cost in self.costs.values())
        for spent, budget, what in ((calls, self.max_calls, "calls"), (tokens, self.max_tokens, "tokens")):
            if budget is not None and spent >= budget:
                error = f"the budget is spent ({spent:,} {what}, --llm-max-{what} {budget})"
                exchange.resolve(Result(error=error, calls=0, final=True))
                return
        if self.vision == "off":
            exchange.question.pictures = []

        def answer() -> None:
            self.thread.deadline = exchange.started + exchange.timeout
            try:
                result = self._answer(exchange.question)
            except Exception as error:  # whatever a server makes the client raise, no failure of it may end the run
                if exchange.over:  # the client too knows the deadline; who waits for the answer tells of it
                    return
                result = Result(error=_said(error), final=getattr(error, "status_code", 0) in (401, 403))
            if result.error:
                result.error = _gist(self.clean(result.error), 500)
            result.seconds = time.monotonic() - exchange.started
            exchange.resolve(result)

        self.status = 0
        in_thread(answer)

    def _answer(self, question: Question) -> Result:
        """Ask, and ask again in a plainer way where the server refuses the JSON schema or the pictures."""
        schema, pictures, too_long = self.schema and question.role == "advisor", bool(question.pictures), None
        while True:
            self.thread.pictures = pictures
            try:
                response = self.client.chat.completions.create(**question.request(schema, pictures))
                break
            except self.openai.APIStatusError as error:
                said = _refusal(error.response)
                too_long = TOO_LONG.search(said)
                about_schema, about_pictures = NO_SCHEMA.search(said), NO_PICTURES.search(said) or too_long
                if error.status_code in (401, 403, 408, 409, 429):
                    raise
                if schema and (about_schema or not (pictures and about_pictures)):
                    schema = False
                elif pictures and self.vision == "auto" and (about_pictures or error.status_code in (400, 413, 422)):
                    pictures = False
                else:
                    raise
        result = self._read(response, question, pictures)
        if question.role == "advisor" and not schema:
            self.schema = False
            result.refused.append("schema")
        if question.pictures and not pictures:
            result.refused.append("pictures")
            if not too_long:
                self.vision = "off"
                print(f"supervisor: {question.model} takes no pictures: states only from now on", flush=True)
        return result

    def _read(self, response: Any, question: Question, pictures: bool) -> Result:
        """The text of a response, whose parts may all be missing or of another type than documented."""
        result, choice, content, refusal = Result(), None, None, None
        try:
            choice = response.choices[0]
            content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
        except (AttributeError, IndexError, KeyError, TypeError):
            result.error = f"the response is no chat completion: {response}"
        if isinstance(content, list):  # of parts
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(text for text in texts if isinstance(text, str))
        answer = self.clean(content) if isinstance(content, str) else ""
        usage = getattr(response, "usage", None)
        tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        if all(isinstance(n, int) and 0 <= n < 2**31 for n in tokens):
            result.usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens),
                            "estimated": False}  # fmt: skip
        else:
            result.usage = question.estimated_usage(answer, pictures)
        if not result.error and not answer.strip():
            reason = f"refused: {refusal}" if refusal else f"finish reason: {getattr(choice, 'finish_reason', None)}"
            result.error = f"an empty answer ({reason})"
        elif len(answer) > MAX_ANSWER_CHARS:
            result.error = f"an answer of {len(answer):,} characters, more than {MAX_ANSWER_CHARS:,}: {answer[:100]}"
        elif not result.error:
            result.answer = answer
        return result

    def clean(self, text: str) -> str:
        if len(self.key) >= 8:  # a shorter one ("none", "EMPTY") is a placeholder, and may be a word of a rule
            text = text.replace(self.key, "[key]")
        return super().clean(text)

    def _silence(self, exchange: Exchange) -> str:
        status = f"; the last response was HTTP {self.status}" if self.status not in (0, 200) else ""
        return super()._silence(exchange) + status


def check_base_url(url: str) -> None:
    """Raise ValueError for a base URL that is none or holds a secret."""
    if any(sign in url for sign in "@?#"):
        raise ValueError(
            "--llm-base-url (or OPENAI_BASE_URL) must hold no user name, password or query: give the key in "
            "OPENAI_API_KEY"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and bool(parts.hostname.encode("idna")) and not re.search(r"\s", url)
    except ValueError:  # a port that is none, a bracket left open, a name that cannot be
        usable = False
    if not usable:
        raise ValueError(f"--llm-base-url (or OPENAI_BASE_URL) must look like http://127.0.0.1:8000/v1, not {url}")


class RecordedChat(Chat):
    """The exchanges of an earlier run, in their order; recorded failures fail again.

    Args:
        folder: that run's `llm` folder.

    Raises:
        ValueError: the folder holds no record that can be repeated exactly.
    """

    def __init__(self, folder: Path, log_dir: Path):
        super().__init__(log_dir)
        self.folder, self.used = folder, 0
        try:
            paths = sorted(folder.glob("*.json"), key=lambda path: int(path.name.partition("-")[0]))
            self.records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
            causes = [cause for record in self.records if (cause := self._unrepeatable(record))]
            self.asked = [
                Question(r["role"], r["model"], r["global_step"], r["prompt_sha256"], r["messages"]).transcript()
                for r in self.records
            ]
            self.results = [Result(**{f.name: r[f.name] for f in fields(Result)}) for r in self.records]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"--llm-log {folder} cannot be read: {type(error).__name__}: {error}") from None
        if not self.records:
            raise ValueError(f"--llm-log {folder} holds no exchanges; give the folder runs/<run>/llm of a run")
        if causes:
            raise ValueError(f"--llm-log {folder} cannot be repeated exactly: {causes[0]}")

    @staticmethod
    def _unrepeatable(record: dict[str, Any]) -> str | None:
        """What in an exchange depended on the clock and cannot be made up for."""
        if record["asynchronous"]:
            return "it was recorded with --llm-async, where the time that an answer takes decides when a window begins"
        failure = record.get("rule_failed") or record["verdict"] or ""
        return _gist(failure) if LATE in failure and ("rule_failed" in record or IN_AUDITION in failure) else None

    def _send(self, exchange: Exchange) -> None:
        if self.used == len(self.records):
            raise SystemExit(f"error: the run asks more than the {self.used} questions of --llm-log {self.folder}")
        recorded, asked = self.asked[self.used], exchange.question.transcript()
        result = self.results[self.used]
        self.used += 1
        if recorded != asked:
            diff = difflib.unified_diff(recorded, asked, "recorded", "now", n=1, lineterm="")
            raise SystemExit(
                f"error: question {self.used} is not the one of --llm-log {self.folder}; flags, prompts or code "
                "are others than in that run:\n" + "\n".join(diff)
            )
        exchange.resolve(result)

    def missed_deadline(self) -> str | None:
        verdict = self.records[self.used - 1]["verdict"] or ""
        return verdict.removeprefix(REFUSED) if LATE in verdict else None


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


MEMORY = 8  # past consultations that the advisor is told of, each in at most 900 characters


@dataclass
class Decision:
    """What a consultation ended with."""

    replay: Replay
    policy: SandboxedPolicy | None
    verdict: str
    advice: str = ""


class Supervisor:
    """Decides, window by window, whether a rule guides the agent, and provides the rule.

    Args:
        args: a script's arguments (SupervisorArgs and env_id, seed, guide_start, guide_end, guide_window).
        env_fn: makes an environment like the training one, of the given render mode ("rgb_array" or None). Its
            observations are arrays: a Box's, or the integers (k,) of which a discrete observation consists.
        act: the unguided policy: observations (N, *obs) and `deterministic` to actions (N, *action); discrete ones
            are int64 (N,).
        intervene: combines the learner's actions and the rule's (N, *action), as in training.
        run_dir: the run's folder; `replays/` and `llm/` are made in it.
        env_kwargs_given: whether `--env-kwargs` differs from the environment's default. `prompts/<env-id>`, rule and
            threshold included, then describes another task and is used only where `--prompt-dir` names it.
    """

    def __init__(
        self,
        args: Any,
        *,
        env_fn: Callable[[str | None], gym.Env],
        act: Callable[[np.ndarray, bool], np.ndarray],
        intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
        run_dir: str | Path,
        env_kwargs_given: bool = False,
    ):
        self.args, self.env_fn, self.act, self.intervene = args, env_fn, act, intervene
        self.run_dir = Path(run_dir)
        self.prompt_dir = Path(args.prompt_dir) if args.prompt_dir else PROMPTS / args.env_id
        self.passed_over = ""  # why this folder is there and not used
        if env_kwargs_given and not args.prompt_dir and self.prompt_dir.is_dir():
            self.passed_over = (
                f"{self.prompt_dir} describes the environment with its default --env-kwargs "
                f"(--prompt-dir {self.prompt_dir} uses it anyway)"
            )
        self.steps, self.seconds = 0, 0.0  # environment steps and wall time that supervision took
        self.ended = False
        self.failures = 0  # windows that went unguided because of a failure
        self.policy: SandboxedPolicy | None = None  # the last rule that was accepted
        self.consultations = 0
        self.history: deque[str] = deque(maxlen=MEMORY)  # what was tried lately, for the advisor
        self.chat: Chat | None = None  # where models are asked
        self.consultation: Generator[Exchange, None, Decision] | None = None  # the one that is going on
        self.exchange: Exchange | None = None  # for which it waits
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
                            ("coder_attempts", 1), ("audition_episodes", 0), ("audition_max_steps", 1),
                            ("llm_max_calls", 1), ("llm_max_tokens", 1)):  # fmt: skip
            if getattr(args, name) is not None and getattr(args, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
        if args.audition_max_steps < 2 * args.audition_episodes:
            raise ValueError(
                f"--audition-max-steps must give each of the 2 · {args.audition_episodes} episodes of a round a step, "
                f"not {args.audition_max_steps} to all"
            )
        if not 0 < args.llm_timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"--llm-timeout must be a number of seconds above 0, not {args.llm_timeout}")
        if (args.supervisor == "replay") != (args.llm_log is not None):
            raise ValueError("--supervisor replay and --llm-log runs/<run>/llm belong together: give both or neither")
        if args.llm_base_url:
            check_base_url(args.llm_base_url)
        self.mode, reason = self._choose()
        self.description = f"{self.mode} ({reason})"
        if self.mode == "none":
            return
        if not 0 <= args.guide_start < args.guide_end:
            raise ValueError(
                f"--guide-start {args.guide_start} must lie before --guide-end {args.guide_end}, and not below 0; "
                "without any guidance it is --supervisor none"
            )
        check_platform(strict=args.sandbox == "strict")
        if isinstance(sys.stdout, io.TextIOWrapper):  # a server's words may be in any script, a terminal's may not
            sys.stdout.reconfigure(errors="backslashreplace")
        self.judged = not args.advisor_always
        env = self.env_fn(None)
        try:
            self.observation, self.action = rule_spaces(env)
            if self.mode in ("llm", "replay"):
                self._load_prompts(env)
                self.description += f"; {self.prompts_from}"
                log_dir = self.run_dir / "llm"
                self.chat = RecordedChat(Path(args.llm_log), log_dir) if args.llm_log else ChatModel(args, log_dir)
            elif self.judged:
                self.bundled = self._read_bundled()
            self.fixed_source = self._read_fixed_source()
            if self.fixed_source is not None:
                self._dry_run_fixed(env)
            if self.chat is not None:
                self.chat.open()
        finally:
            env.close()

    def _load_prompts(self, env: gym.Env) -> None:
        """Read the prompt files and fill them with the environment's facts."""
        self.observation, self.action = rule_spaces(env)
        own = self.args.prompt_dir or (self.prompt_dir.is_dir() and not self.passed_over)
        folder = self.prompt_dir if own else default_prompts(self.action)
        self.prompts_from = f"prompts of {folder}" + (f", since {self.passed_over}" if self.passed_over else "")
        values = _describe_env(env, self.args.env_id, self.args.seed)
        self.steps += RANDOM_STEPS
        self.prompts = {
            "advisor": load_prompt(folder / "advisor.md", ADVISOR_HEADINGS, values),
            "coder": load_prompt(folder / "coder.md", CODER_HEADINGS, values),
        }
        self.prompt_hashes = {
            role: hashlib.sha256((folder / f"{role}.md").read_bytes()).hexdigest() for role in self.prompts
        }

    def _choose(self) -> tuple[str, str]:
        args = self.args
        if args.supervisor != "auto":
            return args.supervisor, "--supervisor"
        if args.llm_base_url or os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
            return "llm", "auto: a key or base URL is set"
        rule = all((self.prompt_dir / name).is_file() for name in ("bundled_policy.py", "bundled.toml"))
        if rule and not self.passed_over:
            return "bundled", "auto: no key or base URL is set, and the environment has a bundled rule"
        if args.guide_policy and args.advisor_always:
            return "bundled", "auto: a rule of your own, without judgement"
        why = self.passed_over or f"{self.prompt_dir} has no bundled rule"
        raise ValueError(
            f"nobody can supervise {args.env_id}: no key or base URL is set and {why}. "
            "Three ways out: set OPENAI_API_KEY (or --llm-base-url); give a rule of your own with "
            "--guide-policy FILE --advisor-always; or train plain SAC with --supervisor none"
        )

    def _bundled_file(self, name: str) -> Path:
        if self.passed_over:
            raise ValueError(
                f"--supervisor bundled has neither a rule nor a threshold for these --env-kwargs: {self.passed_over}"
            )
        return self.prompt_dir / name

    def _read_bundled(self) -> dict[str, Any]:
        path = self._bundled_file("bundled.toml")
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
        path = self.args.guide_policy or (self._bundled_file("bundled_policy.py") if self.mode == "bundled" else None)
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
        # a rule that was in time in the recorded run may take longer on this machine
        deadlines = {"call_timeout": 10.0, "start_timeout": 60.0} if self.mode == "replay" else {}
        policy = SandboxedPolicy(
            source, observation=self.observation, action=self.action, seed=self.args.seed,
            strict=self.args.sandbox == "strict", **deadlines,
        )  # fmt: skip
        try:
            for i in range(len(t)):  # one by one, as in training, so that the deadline is tested as it will be there
                policy(obs[i : i + 1], t[i : i + 1])
        except PolicyError:
            policy.close()
            raise
        return policy

    # -- in training --------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether training goes on while a consultation waits for an answer (--llm-async): call `consult` again."""
        return self.consultation is not None

    def consult(
        self, global_step: int, recent_returns: Sequence[float], writer: SummaryWriter
    ) -> SandboxedPolicy | None:
        """Decide about the next window.

        Uses environments and random numbers of its own: the training's are left as they were.

        Args:
            recent_returns: of the last training episodes, for the advisor.

        Returns:
            The rule that guides the window, or None: do not intervene, or not yet (`waiting`). No failure of a model,
            a server or a rule leaves this method; it is printed, logged and answered with None.
        """
        if self.mode == "none" or (self.chat is not None and self.chat.closed):
            return None
        if self.exchange is not None and not self.exchange.over:
            return None
        started = time.time()
        if self.consultation is None:
            self.consultation = self._consultation(global_step, recent_returns, writer)
        self.now = global_step
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed + global_step)
            decision = self._advance()
        self.seconds += time.time() - started
        if decision is not None:
            self._report(decision, writer)
        writer.add_scalar("charts/guidance_active", float(decision is not None and decision.policy is not None),
                          global_step)  # fmt: skip
        return decision and decision.policy

    def _advance(self) -> Decision | None:
        """Go on with the consultation until it is decided, or with --llm-async until it has asked a question."""
        try:
            while True:
                self.exchange = next(self.consultation)
                if self.chat.asynchronous:
                    return None
                self.exchange.wait()
        except StopIteration as finished:
            self.consultation = self.exchange = None
            return finished.value

    def _report(self, decision: Decision, writer: SummaryWriter) -> None:
        mean, verdict = np.mean(decision.replay.returns), decision.verdict
        advice = f"; advice: {_gist(decision.advice)}" if decision.advice else ""
        self.history.append(f"step {self.now}: greedy return {mean:.4g}{advice}; {_gist(verdict)}")
        self.consultations += 1
        print(f"step {self.now:,}: supervisor: greedy return {mean:.4g}; {verdict}", flush=True)
        writer.add_text("supervisor/verdict", verdict, self.now)
        scalars = {
            "charts/supervision_steps": self.steps, "supervisor/replay_return": mean,
            "supervisor/replay_length": np.mean(decision.replay.lengths), "supervisor/failures": self.failures,
            "supervisor/seconds": self.seconds,
        }  # fmt: skip
        if self.chat is not None:
            scalars |= self.chat.scalars()
            if self.chat.closed:
                print(f"supervisor: no model is asked any more in this run: {self.chat.closed}", flush=True)
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, self.now)

    def report_failure(self, error: PolicyError, global_step: int, writer: SummaryWriter) -> None:
        """Say that the rule failed while training; the rest of the window goes unguided."""
        self.failures += 1
        self.policy = None
        self.history[-1] += f"; at step {global_step} the rule failed: {_gist(str(error))}"
        if self.chat is not None and self.chat.record:
            self.chat.note("rule_failed", f"at step {global_step}: {error}")
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
        if self.chat is not None:
            if self.exchange is not None:  # an answer that would come too late is not waited for
                with suppress(SupervisionError):
                    self.chat.finish(self.exchange)
                self.consultation = self.exchange = None
            summary = "; ".join(f"{role} {cost}" for role, cost in self.chat.costs.items())
            print(f"supervisor: models: {summary}", flush=True)
            writer.add_text("llm/summary", summary, global_step)
            for tag, value in self.chat.scalars().items():
                writer.add_scalar(tag, value, global_step)
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

    # The parts of a consultation that ask a model are generators: they yield the exchange that must be over before
    # they can go on, and whoever drives them blocks until then or trains.

    def _consultation(
        self, step: int, recent_returns: Sequence[float], writer: SummaryWriter
    ) -> Generator[Exchange, None, Decision]:
        decision = Decision(self._record(step, writer), None, "not intervening")
        if self.history:
            self.history[-1] += f"; greedy return at the next consultation {np.mean(decision.replay.returns):.4g}"
        try:
            advice = yield from self._advise(step, decision.replay, recent_returns)
            decision.advice = advice.advice
            said = "intervene" if advice.intervene else "do not intervene"
            writer.add_text("supervisor/advice", f"**{said}**\n\n{advice.analysis}\n\n{advice.advice}", self.now)
            if advice.intervene:
                decision.policy, decision.verdict = yield from self._provide(step, advice, decision.replay, writer)
        except SupervisionError as error:
            self.failures += 1
            decision.verdict = f"unguided: {error}"
        return decision

    def _ask(self, question: Question) -> Generator[Exchange, None, str]:
        exchange = self.chat.ask(question)
        yield exchange
        return self.chat.finish(exchange)

    def _question(self, role: Literal["advisor", "coder"], step: int, text: str) -> Question:
        model = self.args.advisor_model if role == "advisor" else self.args.coder_model
        turns = [{"role": "system", "content": self.prompts[role]}, {"role": "user", "content": text}]
        return Question(role, model, step, self.prompt_hashes[role], turns)

    def _advise(self, step: int, replay: Replay, recent_returns: Sequence[float]) -> Generator[Exchange, None, Advice]:
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
        question = self._advisor_question(step, replay, recent_returns)
        for may_repair in (True, False):
            answer = yield from self._ask(question)
            try:
                advice = parse_advice(answer, has_rule=self.policy is not None)
                break
            except SupervisionError as error:
                self.chat.note("verdict", f"{REFUSED}{error}")
                if not may_repair:
                    raise
                reply = f"{error}. Answer again, with one JSON object as described and nothing else."
                question = question.answered(answer, reply)
        self.chat.note("verdict", "intervene" if advice.intervene else "do not intervene")
        advice.analysis, advice.advice = self.chat.clean(advice.analysis), self.chat.clean(advice.advice)
        advice.keep_current_policy &= self.policy is not None
        return advice

    def _advisor_question(self, step: int, replay: Replay, recent_returns: Sequence[float]) -> Question:
        past = "nothing yet"
        if self.history:
            past = f"{self.consultations} consultations so far, the last of them:\n" + "\n".join(self.history)
        text = (
            f"Training step {step}; guidance may go on until step {self.args.guide_end}; your decision holds "
            f"for {self.args.guide_window} steps.\n\nReplay of the current policy, greedy and without guidance: "
            f"{_summary(replay)}.\n{_table(replay, self.observation)}\n\n"
            f"Returns of the last training episodes: {np.round(recent_returns, 3).tolist() or 'none yet'}.\n\n"
            f"What was tried before: {past}"
        )
        if self.policy is not None:
            text += f"\n\nThe current guidance policy:\n```python\n{self.policy.source}\n```"
        question = self._question("advisor", step, text)
        shown = np.unique(np.linspace(0, len(replay.frames) - 1, 8).astype(int)) if replay.frames else []
        question.pictures = [(replay.frame_steps[i], jpeg_bytes(replay.frames[i])) for i in shown]
        return question

    def _coder_question(self, step: int, advice: str, replay: Replay) -> Question:
        text = f"The advisor says:\n{advice}\n\nStates of the replay:\n{_table(replay, self.observation)}"
        return self._question("coder", step, text)

    def _provide(
        self, step: int, advice: Advice, replay: Replay, writer: SummaryWriter
    ) -> Generator[Exchange, None, tuple[SandboxedPolicy | None, str]]:
        """The rule for the window: the current one, a fixed one, or a coder's; None and why where there is none."""
        kept = self.policy if advice.keep_current_policy else None
        question = None
        if self.fixed_source is None and kept is None:
            question = self._coder_question(step, advice.advice, replay)
        feedback, auditions_failed = "", 0
        for _ in range(self.args.coder_attempts if question else 1):
            policy = None
            answer = (yield from self._ask(question)) if question else ""
            try:
                if question and (late := self.chat.missed_deadline()):
                    raise PolicyError(late)
                policy = kept or self._start(self.fixed_source or parse_code(answer), replay.obs, replay.steps)
                verdict = self._audition(policy, writer) if self.judged else "guiding, not judged"
            except PolicyError as error:
                feedback = str(error)
                if question:
                    self.chat.note("verdict", f"{REFUSED}{feedback}")
                    reply = f"This answer was refused. Mend it. The reason:\n{feedback}"
                    question = question.answered(answer, reply)
                elif self.chat is not None and self.chat.record:
                    self.chat.note("rule_failed", feedback)
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
            if question:
                self.chat.note("verdict", verdict)
            writer.add_text("supervisor/code", f"```python\n{policy.source}\n```", self.now)
            return policy, verdict
        if auditions_failed == 0:
            self.failures += 1
        return None, f"unguided: {feedback}"

    def _audition(self, policy: SandboxedPolicy, writer: SummaryWriter) -> str:
        """Let the rule through only when the guided behaviour does at least as well; AuditionFailed otherwise."""
        if not self.args.audition_episodes:
            return "guiding, without audition"
        while len(self.audition_envs) < 2 * self.args.audition_episodes:
            self.audition_envs.append(self.env_fn(None))
        try:
            result = run_audition(
                self.audition_envs, self.act, self.intervene, policy, max_steps=self.args.audition_max_steps,
                seed=self.args.seed + self.now + 1_000,
            )  # fmt: skip
        except PolicyError as error:
            raise PolicyError(f"{IN_AUDITION}{error}") from None
        self.steps += result.steps
        guided, unguided = float(np.mean(result.guided)), float(np.mean(result.unguided))
        writer.add_scalar("supervisor/audition_guided_return", guided, self.now)
        writer.add_scalar("supervisor/audition_unguided_return", unguided, self.now)
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
    """folder to write them to; None: `prompts/<env-id>`, which is for the default `--env-kwargs` only. Files that are
    there already are never overwritten"""


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
        The command, and the training script's names with `env_fn`, which makes its environment, and
        `env_kwargs_given`, whether `--env-kwargs` differs from that environment's default.

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
    script.env_kwargs_given = command.env_kwargs != default.env_kwargs
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
    if script.env_kwargs_given and not command.prompt_dir:
        raise ValueError(f"{folder} is for the default --env-kwargs of the environment: give another --prompt-dir")
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

    return kind(
        command, env_fn=script.env_fn, act=act, intervene=intervene, run_dir=run_dir,
        env_kwargs_given=script.env_kwargs_given,
    )  # fmt: skip


def first_question(command: ShowPrompt, script: SimpleNamespace) -> Question:
    """The first question to a role in a run."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        supervisor = trial_supervisor(Supervisor, command, script, folder)
        env = script.env_fn(None)
        supervisor._load_prompts(env)
        env.close()
        with redirect_stdout(sys.stderr):  # what it says is no part of the question
            if supervisor.passed_over:
                print(f"supervisor: {supervisor.prompts_from}")
            replay = supervisor._record(command.guide_start, writer)
        supervisor.replay_env.close()
    if command.role == "coder":
        return supervisor._coder_question(command.guide_start, command.advice, replay)
    question = supervisor._advisor_question(command.guide_start, replay, [])
    if command.advisor_vision == "off":
        question.pictures = []
    return question


def show_prompt(command: ShowPrompt, script: SimpleNamespace) -> None:
    """Print the messages of a question, with its pictures by their sizes."""
    from PIL import Image

    question = first_question(command, script)
    for message in question.request(schema=False, pictures=True)["messages"]:
        content = message["content"]
        print(f"--- {message['role']} ---\n{content if isinstance(content, str) else content[0]['text']}")
    for number, (_, jpeg) in enumerate(question.pictures, 1):
        width, height = Image.open(io.BytesIO(jpeg)).size
        print(f"--- image {number}: JPEG, {width} × {height} pixels, {len(jpeg):,} bytes ---")


class SpeakingSupervisor(Supervisor):
    """A supervisor that shows its consultation."""

    advice: Advice | None = None

    def _ask(self, question: Question) -> Generator[Exchange, None, str]:
        if len(question.messages) > 2:
            print(f"--- to the {question.role} ---\n{question.messages[-1]['content']}")
        answer = yield from super()._ask(question)
        print(f"--- the {question.role} answers ---\n{answer}")
        return answer

    def _advise(self, *args) -> Generator[Exchange, None, Advice]:
        self.advice = yield from super()._advise(*args)
        decision = "intervene" if self.advice.intervene else "do not intervene"
        print(f"--- advice: {decision} ---\n{self.advice.analysis}\n\n{self.advice.advice}")
        return self.advice

    def _start(self, source: str, obs: np.ndarray, t: np.ndarray) -> SandboxedPolicy:
        policy = super()._start(source, obs, t)
        if self.advice:  # else it is a fixed rule's trial before the consultation
            print(f"--- code that passed its check ---\n{source}")
        return policy


def consult(command: Consult, script: SimpleNamespace) -> int:
    """One consultation as in training; its exit status."""
    if command.llm_async:
        raise ValueError("--llm-async is for training: here is nothing to go on with while a model thinks")
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
