"""docs/consultations.md: the rules that it shows do in their environments what it says of them."""

import re

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT


@pytest.fixture
def rules() -> dict:
    """The page's three programs, by the section that each is in."""
    page = (ROOT / "docs" / "consultations.md").read_text()
    found = {}
    for section in page.split("\n## ")[1:]:
        (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        scope = {"np": np}  # the last one is shown without its imports
        exec(code, scope)
        found[section.split(",")[0]] = scope["policy"]
    return found


def returns(env_id: str, policy, seeds: range) -> list[float]:
    env, totals = gym.make(env_id), []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, t, ended = 0.0, 0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(policy(obs, t))
            total, t, ended = total + float(reward), t + 1, terminated or truncated
        totals.append(total)
    return totals


def test_the_cars_rule_reaches_the_flag(rules):
    """From any start; alone and without noise it returns 89 to 97, as the prompt says of a good policy."""
    scores = returns("MountainCarContinuous-v0", rules["MountainCarContinuous-v0"], range(10))
    assert min(scores) >= 89 and max(scores) <= 97


def test_the_taxis_rule_takes_the_shortest_ways(rules):
    """Of 300 starts the mean is the optimum, 7.93, within three standard errors of 2.6 / √300."""
    scores = returns("Taxi-v4", rules["Taxi-v4"], range(300))
    assert min(scores) >= 3 and max(scores) <= 15
    assert np.mean(scores) == pytest.approx(7.93, abs=3 * 2.6 / 300**0.5)


def test_the_robots_rule_is_within_its_limits(rules):
    """Upright and at rest it asks for bent knees; thrown over, for no more than its limit."""
    obs = np.zeros(47)
    obs[3] = 1.0
    action = rules["Humanoid-v5"](obs, 0)
    assert action.shape == (17,) and action[6] == -0.2 and np.count_nonzero(action) == 1
    obs[3:7] = np.cos(0.5), np.sin(0.5), 0.0, 0.0  # leaning to its right by 1 rad
    assert np.abs(rules["Humanoid-v5"](obs, 0)).max() == 0.2
