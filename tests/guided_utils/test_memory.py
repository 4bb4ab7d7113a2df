"""A run's memory: what it takes by hand, what there is against psutil, and what a refusal says."""

import re
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, unsupervised

from guided_utils import memory
from guided_utils.memory import available, check_memory

CPU = torch.device("cpu")


class ImageEnv(gym.Env):
    """Frames of 84 × 84 × 4 bytes."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)

    def __init__(self, discrete: bool = False, render_mode: str | None = None):
        self.action_space = gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((84, 84, 4), np.uint8), {}

    def step(self, action):
        return np.zeros((84, 84, 4), np.uint8), 0.0, False, False, {}


gym.register("Image-v0", ImageEnv)


@pytest.mark.parametrize("script", ["guided_sac_continuous", "guided_sac_discrete", "rnd_sac", "icm_sac", "e3b_sac"])
def test_a_buffer_that_does_not_fit_is_one_line_before_anything_is_written(script, run_here, tmp_path, capsys):
    """Two frames of bytes, an action (two float32 or an int64), reward, termination and row: 56,472 bytes each."""
    kwargs = '{"discrete": true}' if script == "guided_sac_discrete" else "{}"
    flags = unsupervised(script)
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "Image-v0", "--env-kwargs", kwargs, "--buffer-size", "1000000000", *flags,
                 script=ROOT / f"{script}.py")  # fmt: skip
    said = str(ended.value)
    row = 2 * 84 * 84 * 4 + 8 + 4 + 4 + 8
    assert f"the replay buffer of 1,000,000,000 transitions takes {row:,.1f} GB of memory, and " in said
    assert "there is no convolutional network" in said and "(84, 84, 4)" in said and "\n" not in said
    there = float(re.search(r"([\d,.]+) GB are there", said)[1].replace(",", ""))
    suggested = int(re.search(r"--buffer-size, such as (\d+)", said)[1])
    assert 0.7 * there < suggested * row / 1e9 < 0.86 * there
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
    # what it suggests begins to run
    run = run_here("--env-id", "Image-v0", "--env-kwargs", kwargs, "--buffer-size", str(suggested), *flags,
                   "--total-timesteps", "3", script=ROOT / f"{script}.py")  # fmt: skip
    assert len(run.rb) == 3


def test_what_a_run_never_fills_is_not_counted():
    """Four columns of 0.3 times the memory there is: too much to fill, and nothing for a run of ten steps."""
    rows = 1_000
    numbers = int(0.3 * available(CPU) / rows / 4)
    columns = [torch.empty((rows, 2, numbers // 2), device="meta") for _ in range(4)]
    args = SimpleNamespace(buffer_size=rows, batch_size=1, total_timesteps=10)
    check_memory(columns, args, CPU)
    args.total_timesteps = rows
    with pytest.raises(ValueError, match=r"such as 6\d\d; "):  # 0.8 / 1.2 of a thousand
        check_memory(columns, args, CPU)


def test_a_batch_that_does_not_fit_names_its_flag(run_here):
    with pytest.raises(SystemExit, match=r"GB are there: give a smaller --batch-size$"):
        run_here("--supervisor", "none", "--batch-size", "1000000000000")


@pytest.mark.skipif(memory._of_cgroups() < np.inf, reason="psutil knows of no limits of groups")
def test_the_memory_there_is_as_psutil_sees_it():
    assert available(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.05)


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_group_counts_and_what_the_kernel_can_drop_does_not(version, tmp_path):
    """Files as Linux has them: a limit of 8 GB of which 5 GB are used, 2 GB of that by files that lie idle."""
    _, limit, used, idle = memory.CONTROLLERS["memory" if version == 1 else ""]
    (tmp_path / limit).write_text("8000000000\n")
    (tmp_path / used).write_text("5000000000\n")
    (tmp_path / "memory.stat").write_text(f"anon 3000000000\n{idle} 2000000000\n")
    assert memory._left_in(tmp_path, limit, used, idle) == 5e9
    (tmp_path / limit).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert memory._left_in(tmp_path, limit, used, idle) == np.inf
    assert memory._left_in(tmp_path / "hidden", limit, used, idle) == np.inf
