"""Each environment's own copy of a rule: restored at each episode's start, and brought back in another process."""

import functools
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sandboxed import body, call, make, make_discrete, needs_linux, nothing_left, pid_of  # noqa: F401

from supervision.sandbox import lanes as copies
from supervision.sandbox import memory
from supervision.sandbox.lanes import Lanes
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import MOST_LANES, TRIAL_LANES, PolicyError
from supervision.sandbox.policy import SandboxedPolicy
from supervision.sandbox.state import keeps_state

pytestmark = needs_linux

COUNTS = "calls = [0]\n" + body("calls[0] += 1\nreturn [calls[0] / 1000, len(obs) / 1000]")
WIDE = {"low": (-1e9, -1e9), "high": (1e9, 1e9)}
DRIFTS = "rng = np.random.default_rng()\nkept = {'sum': 0.0, 'seen': []}\n" + body(
    """
    kept['sum'] += float(obs[0]) * rng.normal()
    kept['seen'].append(t)
    if obs[1] > 0:
        kept['sum'] += np.random.uniform()
    return [kept['sum'], len(kept['seen']) + np.random.default_rng().random()]
    """
)


def counts(policy, t, lanes=None) -> list[int]:
    t = np.array(t)
    return np.rint(policy(np.zeros((len(t), 3)), t, lanes)[:, 0] * 1000).astype(int).tolist()


def test_each_lane_has_its_own_globals_and_each_episode_new_ones():
    with make(COUNTS) as policy:
        assert policy.keeps_state
        assert counts(policy, [0, 0]) == [1, 1]
        assert counts(policy, [1, 1]) == [2, 2]
        assert counts(policy, [0, 2]) == [1, 3]  # the first begins an episode
        assert counts(policy, [3], np.array([1])) == [4]
        assert counts(policy, [5, 5, 6], np.array([9, 1, 9])) == [1, 5, 2]  # lane 9 is new, whatever its step
        policy.forget([1])
        assert counts(policy, [6, 7], np.array([1, 9])) == [1, 3]
        policy.forget()
        assert counts(policy, [7, 8, 2], np.array([1, 9, 0])) == [1, 1, 1]


def test_lanes_of_trials_leave_those_of_training_alone():
    """Random numbers too: training's episodes draw the same whether or not there was a trial in between."""
    obs = np.random.default_rng(0).normal(size=(3, 3))
    drawn = []
    for trial in (False, True):
        with make(DRIFTS, **WIDE) as policy:
            first = policy(obs, np.zeros(3, int))
            if trial:
                for t in (0, 1, 0, 1, 2):
                    policy(obs, np.full(3, t), TRIAL_LANES + np.arange(3))
            drawn.append([first, policy(obs, np.array([1, 0, 1])), policy(obs, np.array([2, 1, 0]))])
            assert max(policy.memory()["lanes"]) == 2
    assert np.array(drawn[0]).tobytes() == np.array(drawn[1]).tobytes()


def test_what_an_episode_draws_depends_on_seed_lane_and_episode_alone():
    def draws(seed: int, order: list[tuple[int, int]]) -> dict[tuple[int, int, int], float]:
        """(lane, step) in this order; by lane, number of the episode, step."""
        found, begun = {}, {}
        with make(body("return [np.random.normal(), np.random.default_rng().random()]"), seed=seed, **WIDE) as policy:
            for lane, t in order:
                begun[lane] = begun.get(lane, -1) + (t == 0)
                found[lane, begun[lane], t] = tuple(policy(np.zeros((1, 3)), np.array([t]), np.array([lane]))[0])
        return found

    a = draws(3, [(0, 0), (0, 1), (7, 0), (0, 0), (7, 1), (2**40, 0), (0, 1)])
    b = draws(3, [(2**40, 0), (7, 0), (7, 1), (0, 0), (0, 1), (0, 0), (0, 1)])
    assert a == b and len(set(a.values())) == 7
    assert not set(a.values()) & set(draws(4, [(0, 0), (0, 1), (7, 0)]).values())


def test_lanes_must_be_integers_from_0():
    with make(COUNTS) as policy:
        for lanes in (np.array([0.0]), np.array([-1]), np.array([[0]]), np.array([0, 1])):
            with pytest.raises(ValueError, match="lanes must be integers of shape"):
                policy(np.zeros((1, 3)), np.array([0]), lanes)
        assert counts(policy, [0]) == [1]


def test_the_number_of_copies_is_bounded(monkeypatch):
    monkeypatch.setattr(copies, "MOST_LANES", 3)
    kept = Lanes(COUNTS, 0, restricted=True, keeps_state=True, draws=True)
    for lane in (0, 1, 2, 0, 3, 4):
        kept.rule(lane, 0)
    assert list(kept.alive) == [0, 3, 4] and set(kept.random) == {0, 3, 4}
    monkeypatch.setattr(memory, "MOST_LANES", 3)
    episodes = memory.Episodes()
    episodes.advance([0, 1, 2, 0, 3, 4], [0] * 6, np.zeros((6, 1)))
    assert list(episodes.lanes) == [0, 3, 4]
    assert MOST_LANES == 4_096


def test_a_top_level_that_fails_later_fails_with_its_line():
    source = "x = 1 / (np.random.random() < 2)\ny = [0]\nz = [1][int(np.random.random() * 3)]\n" + body(
        "y[0] += 1\nreturn [0.0, 0.0]"
    )
    with pytest.raises(PolicyError, match=r"IndexError: .*\n  line 3, in <module>"):  # noqa: SIM117
        with make(source) as policy:
            for _ in range(100):
                call(policy, 0)


# --- a new process in the old one's state ---


def rollout(policy: SandboxedPolicy, steps: int, first: int = 0) -> list[bytes]:
    """Three environments with episodes of different lengths; the actions of each step from `first` on."""
    lengths, rng, t = [11, 3, 7], np.random.default_rng(5), np.zeros(3, int)
    actions = []
    for step in range(steps):
        obs, guided = rng.normal(size=(3, 3)), rng.random(3) < 0.8  # not all of them are asked at each step
        guided |= t == 0
        lanes = np.flatnonzero(guided)
        if step >= first:
            actions.append(policy(obs[lanes], t[lanes], lanes).tobytes())
        t = (t + 1) % lengths
    return actions


@functools.cache
def uninterrupted(source: str) -> list[bytes]:
    with make(source, seed=11, **WIDE) as policy:
        return rollout(policy, 90)


@pytest.mark.parametrize("killed_at", [1, 2, 17, 64])
@pytest.mark.parametrize("source", [DRIFTS, COUNTS], ids=["random", "counts"])
def test_a_restored_policy_acts_as_one_that_was_never_interrupted(source, killed_at, tmp_path):
    options, whole = {"seed": 11, **WIDE}, uninterrupted(source)
    with make(source, **options) as policy:
        assert rollout(policy, killed_at) == whole[:killed_at]
        (tmp_path / "memory").write_bytes(pickle.dumps(policy.memory()))
        os.kill(pid_of(policy), signal.SIGKILL)
    with make(source, **options) as policy:
        policy.restore(pickle.loads((tmp_path / "memory").read_bytes()))
        assert rollout(policy, 90, killed_at) == whole[killed_at:]
        with pytest.raises(ValueError, match="called already"):
            policy.restore({})


def test_episodes_of_one_to_three_steps_and_lanes_that_were_told_to_forget():
    source = "rng = np.random.default_rng()\nhand = []\n" + body(
        "hand.append(obs)\nreturn int(rng.integers(0, 2)) if len(hand) < 3 else int(np.random.randint(2))"
    )
    lengths = np.random.default_rng(1).integers(1, 4, 60).tolist()
    rows = [(t, episode) for episode, length in enumerate(lengths) for t in range(length)]

    def run(policy, rows) -> list[int]:
        actions = []
        for t, episode in rows:
            if episode % 10 == 9:
                policy.forget([0])
            actions.append(policy(np.array([[t]]), np.array([t])).item())
        return actions

    with make_discrete(source, n=2) as policy:
        whole = run(policy, rows)
    assert 0 < sum(whole) < len(whole)
    for cut in (1, 40, 77):
        with make_discrete(source, n=2) as policy:
            run(policy, rows[:cut])
            policy.forget([0] if cut == 40 else [])
            state = policy.memory()
        with make_discrete(source, n=2) as policy:
            policy.restore(state)
            again = run(policy, rows[cut:])
        if cut != 40:
            assert again == whole[cut:]
        else:
            assert state["steps"][0].size == 0


def test_nothing_is_remembered_of_a_rule_that_keeps_nothing():
    with make(body("return [math.sin(t), obs[0]]")) as policy:
        call(policy, 0, 1)
        assert policy.memory() == {"lanes": [], "episodes": [], "steps": [], "obs": []}
        state = policy.memory()
    with make(body("return [math.sin(t), obs[0]]")) as policy:
        policy.restore(state)
        call(policy, 0)


def test_a_memory_is_plain_data_without_trials():
    with make(COUNTS) as policy:
        call(policy, 0, 0)
        call(policy, 1)
        policy(np.zeros((1, 3)), np.array([0]), np.array([TRIAL_LANES]))
        state = policy.memory()
    assert state["lanes"] == [1, 0] and state["episodes"] == [0, 0]
    assert [steps.tolist() for steps in state["steps"]] == [[0], [0, 1]]
    assert [obs.shape for obs in state["obs"]] == [(1, 3), (2, 3)]


# --- which rules can keep anything ---

STATELESS = {
    "constants": body("return [0.1 * t, 0.0]"),
    "tables": "GAINS = np.array([1.0, 2.0])\nTABLE = {'a': [1, 2]}\n" + body("return GAINS * TABLE['a'][0]"),
    "an array of its own": body("action = np.zeros(2)\naction[0] = 1\naction += 1\nreturn action"),
    "a list of its own": body("out = []\nfor x in obs:\n    out.append(x)\nout.sort()\nreturn out[:2]"),
    "helpers": "def f(x, gain=2.0):\n    y = x * gain\n    y += 1\n    return y\n" + body("return [f(obs[0]), f(t)]"),
    "tables by loops": "T = []\nfor i in range(3):\n    T.append(i)\n" + body("return [T[0], 0]"),
    "generator expressions": body("a, b = (x * 2 for x in obs[:2])\nreturn [sum(x for x in obs), a * b]"),
    "zip": body("return [a + b for a, b in zip(obs[:2], sorted(map(float, obs))[:2])]"),
    "a counter of its own": body("n = 0\nwhile n < 3: n += 1\nreturn [n, 0]"),
    "divide with out": body("a = np.zeros(2)\nnp.divide(obs[:2], 2.0, out=a)\nreturn a"),
}
STATEFUL = {
    "a list": "x = []\n" + body("x.append(t)\nreturn [len(x), 0]"),
    "through an alias": "x = []\n" + body("y = x\ny.append(t)\nreturn [len(x), 0]"),
    "through a parameter": "x = []\ndef f(a):\n    a.append(1)\n" + body("f(x)\nreturn [len(x), 0]"),
    "through a bound method": "x = []\nadd = x.append\n" + body("add(1)\nreturn [len(x), 0]"),
    "through the type's method": "x = []\n" + body("list.append(x, 1)\nreturn [len(x), 0]"),
    "through map": "x = []\n" + body("list(map(x.append, [1]))\nreturn [len(x), 0]"),
    "through a lambda": "x = []\nf = lambda: x.append(1)\n" + body("f()\nreturn [len(x), 0]"),
    "a dictionary": "d = {}\n" + body("d['n'] = d.get('n', 0) + 1\nreturn [d['n'], 0]"),
    "nested": "d = {'x': [0]}\n" + body("d['x'][0] += 1\nreturn d['x']"),
    "out of a table": "d = {'x': [0]}\n" + body("x = d['x']\nx[0] += 1\nreturn x"),
    "in a loop": "d = [[0], [1]]\n" + body("for x in d:\n    x[0] += 1\nreturn x"),
    "by unpacking": "d = [[0], [1]]\n" + body("x, y = d\nx[0] += 1\nreturn x"),
    "in place": "d = np.zeros(2)\n" + body("x = d\nx += 1\nreturn x"),
    "a view": "d = np.zeros(2)\n" + body("x = d[:1]\nx[0] += 1\nreturn d"),
    "out": "d = np.zeros(2)\n" + body("np.add(d, 1, out=d)\nreturn d"),
    "out by spreading": "d = np.zeros(2)\ndef f(x, out):\n    np.add(x, 1, out=out)\n"
    + body("f(1.0, **{'out': d})\nreturn d"),
    "nan_to_num": "d = np.zeros(2)\n" + body("np.nan_to_num(d, copy=False)\nreturn d"),
    "conj": "d = np.zeros(2)\n" + body("np.ones(2).conj(out=d)\nreturn d"),
    "median": "d = np.zeros(2)\n" + body("np.median(d, overwrite_input=True)\nreturn d"),
    "a default": "def f(x=[]):\n    x.append(1)\n    return x\n" + body("return [len(f()), 0]"),
    "a closure": "def make():\n    n = 0\n    def f():\n        nonlocal n\n        n += 1\n        return n\n"
    "    return f\ncount = make()\n" + body("return [count(), 0]"),
    "a closure's list": "def make():\n    n = []\n    def f():\n        n.append(1)\n        return len(n)\n"
    "    return f\ncount = make()\n" + body("return [count(), 0]"),
    "an iterator": "it = iter([1, 2])\n" + body("return [next(it), 0]"),
    "a generator expression": "it = (x for x in [1, 2])\n" + body("return [sum(it), 0]"),
    "map kept": "it = map(abs, [1, 2])\n" + body("return [sum(it), 0]"),
    "zip returned": "def f():\n    return zip([1], [2])\nit = f()\n" + body("return [len(list(it)), 0]"),
    "zip under another name": "z = zip\nit = z([1], [2])\n" + body("return [len(list(it)), 0]"),
    "a walrus": "d = [0]\n" + body("(x := d).append(1)\nreturn [len(x), 0]"),
    "another list": "x = []\ndef list(a):\n    return x\n" + body("y = list(1)\ny.append(1)\nreturn [len(x), 0]"),
    "either": "x = []\n" + body("y = [] if t else x\ny.append(1)\nreturn [len(y), 0]"),
    "or": "x = []\n" + body("y = None or x\ny.append(1)\nreturn [len(y), 0]"),
    "random": body("return [np.random.random(), 0]"),
    "a generator": "g = np.random.default_rng(3)\n" + body("return [g.random(), 0]"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATELESS)
def test_rules_that_keep_nothing_are_told(name):
    assert not keeps_state(check_source(STATELESS[name]))


@pytest.mark.parametrize("name", STATEFUL)
def test_rules_that_may_keep_something_are_told(name):
    assert keeps_state(check_source(STATEFUL[name]))


@pytest.mark.parametrize("path", sorted((ROOT / "prompts").glob("*/bundled_policy.py")), ids=lambda p: p.parent.name)
def test_no_bundled_rule_keeps_anything(path: Path):
    assert not keeps_state(check_source(path.read_text()))
