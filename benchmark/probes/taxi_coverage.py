"""Where does the guided Taxi agent fail when guidance ends? It splits the 300 starts by whether training ever saw them.

    python -m benchmark.probes.taxi_coverage --seeds 1 2 3 4 5
    python -m benchmark.probes.taxi_coverage --roaming 0 5 10 20 40

The second asks how many starts 5,000 steps can show at all, if each episode begins with some steps off the rule's way.

Docs: docs/guided_sac_discrete.md, benchmark/results/discrete_notes.md
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro

from benchmark import ROOT

SCRIPT = ROOT / "guided_sac_discrete.py"
RULE = ROOT / "prompts" / "Taxi-v4" / "bundled_policy.py"


@dataclass
class Args:
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of the runs"""
    total_timesteps: int = 5_000
    """environment steps of a run; 5,000 is where the guidance of Taxi-v4 ends"""
    guide_probability: float = 1.0
    """the script's flag: probability that the rule acts at a guided step"""
    roaming: tuple[int, ...] = ()
    """train nothing; count the starts that a driver sees who roams for at most so many steps, then follows the rule"""


def run(args: Args, seed: int) -> dict:
    """Run the unmodified script in this process and return its variables."""
    sys.argv = [
        str(SCRIPT), "--env-id=Taxi-v4", "--supervisor=bundled", f"--seed={seed}",
        f"--total-timesteps={args.total_timesteps}", f"--guide-probability={args.guide_probability}",
    ]  # fmt: skip
    return runpy.run_path(str(SCRIPT), run_name="__main__")


def solved(start: int, act: Callable[[np.ndarray, bool], np.ndarray], env: gym.Env) -> bool:
    """Whether the greedy policy delivers from this start within the time limit."""
    env.reset()
    env.unwrapped.s = state = start
    for _ in range(env.spec.max_episode_steps):
        state, _, terminated, _, _ = env.step(int(act(np.array([[state]]), True)[0]))
        if terminated:
            return True
    return False


def starts_seen(env: gym.Env, rule: list[int], roaming: int, curious: bool, total_timesteps: int, seed: int) -> int:
    """How many of the 300 starts a driver comes through who roams for 0 to `roaming` steps of each episode.

    Args:
        rule: the rule's action in each state.
        curious: he roams by the action that he has chosen least often in a state, else by any.
    """
    rng, transitions = np.random.default_rng(seed), env.unwrapped.P
    starts = np.flatnonzero(env.unwrapped.initial_state_distrib)
    seen, chosen = np.zeros(len(rule), dtype=bool), np.zeros((len(rule), 6))
    steps = 0
    while steps < total_timesteps:
        state, roams = rng.choice(starts), rng.integers(roaming + 1)
        for t in range(min(env.spec.max_episode_steps, total_timesteps - steps)):
            seen[state] = True
            usual = chosen[state] if curious else 0.0
            action = np.argmin(usual + rng.random(6) / 2) if t < roams else rule[state]
            chosen[state, action] += 1
            _, state, _, terminated = transitions[state][action][0]
            steps += 1
            if terminated:
                break
    return int(seen[starts].sum())


if __name__ == "__main__":
    args = tyro.cli(Args)
    env = gym.make("Taxi-v4")
    if args.roaming:
        policy = runpy.run_path(str(RULE))["policy"]
        rule = [policy(state, 0) for state in range(env.observation_space.n)]
        print(f"starts seen of 300 in {args.total_timesteps:,} steps, mean (least, most) of 20 drivers:\n")
        print("| roams for at most | at random | by the action chosen least |\n|-|-|-|")
        for roaming in args.roaming:
            cells = []
            for curious in (False, True):
                counts = [starts_seen(env, rule, roaming, curious, args.total_timesteps, seed) for seed in range(20)]
                cells.append(f"{np.mean(counts):.0f} ({min(counts)}, {max(counts)})")
            print(f"| {roaming} | {' | '.join(cells)} |")
        sys.exit()
    starts = np.flatnonzero(env.unwrapped.initial_state_distrib)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in args.seeds:
            script = run(args, seed)
            visited = np.isin(starts, script["rb"].transitions.observations[: len(script["rb"])].flatten().numpy())
            ok = np.array([solved(int(start), script["act"], env) for start in starts])
            rows.append(
                f"| {seed} | {ok[visited].sum()} of {visited.sum()} | {ok[~visited].sum()} of {(~visited).sum()} |"
            )
        os.chdir(ROOT)
    print(f"\nTaxi-v4, bundled rule, greedy policy after {args.total_timesteps:,} steps:\n")
    print("| seed | solved starts that training saw | solved starts that it never saw |\n|-|-|-|")
    print("\n".join(rows))
