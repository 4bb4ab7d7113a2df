"""One contestant of speed.py: trains in a process of its own and halts after each block of environment steps.

    python speed_peer.py script FILE.py ENV_ID [FLAG...]     an unmodified script with CleanRL's flags
    python speed_peer.py stable_baselines3|sbx ENV_ID        the library's SAC with its default settings
    python speed_peer.py rltools ENV_ID                      RLtools' SAC of the same sizes, compiled for the task
    python speed_peer.py ... --fill                          no blocks: 200 steps, then touch the whole replay buffer
    python speed_peer.py versions PACKAGE...                 no training: what is installed of these

Protocol: each line on stdin is a number of steps; the answer is the seconds that these took, training included. The
only foothold in the training loop is the environment's `step`, of which every loop here makes one call per step.
All train on the GPU where they see one, and on the CPU where the environment hides it (`environment` in speed.py).
Imports nothing of this project, so that it runs in any virtual environment.
"""

import importlib
import os
import platform
import re
import runpy
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

LEARNING_STARTS = 100


class Pace:
    """Wraps `step`: after each block it answers and waits for the next order.

    On a GPU nothing is waited for here: the action that a step is given was copied from the GPU, which waits for all
    that was ordered before it, the last update included.
    """

    def __init__(self, step):
        self.step, self.left, self.start = step, 0, None
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the contestant prints goes nowhere

    def __call__(self, *args, **kwargs):
        if self.left == 0:
            if self.start is not None:
                print(time.perf_counter() - self.start, file=self.answers, flush=True)
            order = sys.stdin.readline()
            self.left, self.start = int(order), time.perf_counter()
        self.left -= 1
        return self.step(*args, **kwargs)


def library(name: str, env_id: str, fill: bool):
    """Stable-Baselines3 or SBX, at a race's pace, or (fill) 200 steps of it; returns its buffer's arrays by name."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    sac = importlib.import_module(name).SAC
    model = sac("MlpPolicy", env_id, learning_starts=LEARNING_STARTS, seed=1)
    if not fill:
        pace = Pace(DummyVecEnv.step_wait)
        DummyVecEnv.step_wait = lambda self: pace(self)
    model.learn(200 if fill else 10**9)
    return vars(model.replay_buffer)


def rltools(env_id: str) -> None:
    """RLtools' loop is C++ and knows no end; its settings are constants that are compiled in."""
    import gymnasium as gym

    pace = Pace(gym.Wrapper.step)  # before the library's first words, which are no answer

    class Halted(gym.Wrapper):
        def step(self, action):
            return pace(self, action)

    def make() -> gym.Env:
        env = Halted(gym.wrappers.RescaleAction(gym.make(env_id), -1.0, 1.0))
        env.reset(seed=1)
        return env

    # evaluation and statistics are off: its C++ does nothing but learn and act
    state = importlib.import_module("rltools").SAC(
        make, interface_name=re.sub(r"\W", "_", env_id), enable_evaluation=False, COLLECT_EPISODE_STATS=False,
        STEP_LIMIT=10**9, REPLAY_BUFFER_CAP=10**6, N_WARMUP_STEPS=256, ACTOR_BATCH_SIZE=256, CRITIC_BATCH_SIZE=256,
        ACTOR_HIDDEN_DIM=256, CRITIC_HIDDEN_DIM=256, ACTOR_NUM_LAYERS=3, CRITIC_NUM_LAYERS=3, OPTIMIZER_ALPHA=3e-4,
    ).State(1)  # fmt: skip
    while not state.step():
        pass


def script(path: str, env_id: str, flags: list[str], fill: bool):
    """As `library`, of a script in CleanRL's manner."""
    import gymnasium as gym

    steps = 200 if fill else 10**9
    sys.argv = [path, "--env-id", env_id, "--total-timesteps", str(steps), "--learning-starts", str(LEARNING_STARTS),
                *flags]  # fmt: skip
    sys.path.insert(0, os.path.dirname(path))
    if not fill:
        pace = Pace(gym.vector.SyncVectorEnv.step)
        gym.vector.SyncVectorEnv.step = lambda self, actions: pace(self, actions)
    rb = runpy.run_path(path, run_name="__main__")["rb"]
    return rb.transitions._asdict() if hasattr(rb, "transitions") else vars(rb)


def versions(packages: list[str]) -> str:
    """Python's version and those of the packages that are there, in words."""
    words = [f"Python {platform.python_version()}"]
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            words.append(f"{package} {metadata.version(package)}")
    return ", ".join(words)


if __name__ == "__main__":
    kind, *rest = [word for word in sys.argv[1:] if word != "--fill"]
    if kind == "versions":
        print(versions(rest))
        sys.exit()
    if kind == "rltools":
        rltools(rest[0])
    fill = "--fill" in sys.argv
    buffer = script(rest[0], rest[1], rest[2:], fill) if kind == "script" else library(kind, rest[0], fill)
    for array in buffer.values():
        if hasattr(array, "__array__"):  # a NumPy array or a tensor: memory counts only once it is written
            array[...] = 1
    # not getrusage's ru_maxrss, which begins with the peak of the process that started this one
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
