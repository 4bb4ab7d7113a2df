"""One contestant of speed.py: trains in a process of its own and halts after each block of environment steps.

    python speed_peer.py script FILE.py ENV_ID [FLAG...]     an unmodified script with CleanRL's flags
    python speed_peer.py stable_baselines3|sbx ENV_ID        the library's SAC with its default settings
    python speed_peer.py ... --fill                          no blocks: 200 steps, then touch the whole replay buffer

Protocol: each line on stdin is a number of steps; the answer is the seconds that these took, training included. The
only foothold in the training loop is the vector environment's `step`, of which every loop here makes one call per step.
Imports nothing of this project, so that it runs in any virtual environment.
"""

import importlib
import os
import re
import runpy
import sys
import time
from pathlib import Path

LEARNING_STARTS = 100


class Pace:
    """Wraps `step`: after each block it answers and waits for the next order."""

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
    from stable_baselines3.common.vec_env import DummyVecEnv

    sac = importlib.import_module(name).SAC
    device = {"device": "cpu"} if name == "stable_baselines3" else {}
    model = sac("MlpPolicy", env_id, learning_starts=LEARNING_STARTS, seed=1, **device)
    if not fill:
        pace = Pace(DummyVecEnv.step_wait)
        DummyVecEnv.step_wait = lambda self: pace(self)
    model.learn(200 if fill else 10**9)
    return vars(model.replay_buffer)


def script(path: str, env_id: str, flags: list[str], fill: bool):
    import gymnasium as gym

    steps = 200 if fill else 10**9
    sys.argv = [path, "--env-id", env_id, "--total-timesteps", str(steps), "--learning-starts", str(LEARNING_STARTS),
                *flags]  # fmt: skip
    sys.path.insert(0, os.path.dirname(path))
    if not fill:
        pace = Pace(gym.vector.SyncVectorEnv.step)
        gym.vector.SyncVectorEnv.step = lambda self, actions: pace(self, actions)
    return vars(runpy.run_path(path, run_name="__main__")["rb"])


if __name__ == "__main__":
    kind, *rest = [word for word in sys.argv[1:] if word != "--fill"]
    fill = "--fill" in sys.argv
    buffer = script(rest[0], rest[1], rest[2:], fill) if kind == "script" else library(kind, rest[0], fill)
    for array in buffer.values():
        if hasattr(array, "__array__"):  # a NumPy array or a tensor: memory counts only once it is written
            array[...] = 1
    # not getrusage's ru_maxrss, which begins with the peak of the process that started this one
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
