"""benchmark/probes/remedies.py: every change fits the script as it is, and does what is said of it."""

import math
import runpy
import tomllib
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch
from conftest import ROOT, scalars

from benchmark.probes import remedies
from benchmark.sweeps.hashing import modules

script = SimpleNamespace(**runpy.run_path(str(ROOT / "guided_sac_discrete.py"), run_name="imported"))
FLAGS = ["--env-id", "Taxi-v4", "--supervisor", "bundled", "--advisor-always", "--guide-end", "100",
         "--total-timesteps", "120", "--batch-size", "32"]  # fmt: skip


def changed(name: str, tmp_path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(remedies.write(name, tmp_path / name)), run_name="imported"))


def check_episode_gate(run: SimpleNamespace) -> None:
    """An episode is the rule's, or not, from beginning to end; there are some of both, and some of several steps."""
    ended = run.rb.transitions.terminations[:100]
    episode = (ended.cumsum(0) - ended).tolist()
    found = set(zip(episode, run.guided_rows[:100].tolist(), strict=True))
    assert len(found) == len(set(episode)) < 100 and {guided for _, guided in found} == {False, True}


def check_symmetric_sampling(run: SimpleNamespace) -> None:
    """The first half of a batch was guided; of the other half, as of the buffer, a part."""
    guided = run.guided_rows[run.data.rows]
    assert guided[:16].all() and not guided[16:].all() and run.guided_rows[:120].float().mean() < 0.5


def check_advantage_weighted(run: SimpleNamespace) -> None:
    """The loss is −E[min(exp A(s, a), 20) log π(a|s)] of the executed actions."""
    x, rows, _, _ = run.states
    with torch.no_grad():
        q, log_pi = torch.minimum(*run.qf(run.data.observations)), run.actor(run.data.observations)  # (B, |A|)
        value = (log_pi.exp() * (q - run.log_alpha.exp() * log_pi)).sum(1)
        taken = torch.arange(len(q)), run.data.actions
        expected = -((q[taken] - value).exp().clamp(max=20) * log_pi[taken]).mean()
    loss = run.update_actor(x, rows, run.actor(x))["actor_loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


CHECKS = {
    "episode_gate": check_episode_gate, "symmetric_sampling": check_symmetric_sampling,
    "advantage_weighted": check_advantage_weighted,
}  # fmt: skip
OWN_FLAGS = {
    "episode_gate": ["--env-id", "Blackjack-v1", "--learning-starts", "0", "--guide-probability", "0.5"],
    "symmetric_sampling": ["--guide-probability", "0.3"],
}


@pytest.mark.parametrize("name", remedies.REMEDIES)
def test_a_changed_script_trains(name, tmp_path, run_here):
    """… and three do in a run what the others show by hand below."""
    path = remedies.write(name, tmp_path / name)
    actor = [] if name in ("margin", "episode_gate", "symmetric_sampling") else ["--no-exact-improvement"]
    run = run_here(*FLAGS, *OWN_FLAGS.get(name, []), *actor, script=path)
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 1.0), (99, 1.0), (100, 0.0), (120, 0.0)]
    if name in CHECKS:
        CHECKS[name](run)


def test_beside_a_changed_script_lies_what_it_imports(tmp_path):
    """By links, so that the sweep's hash follows them; a second writing changes nothing."""
    for _ in range(2):
        path = remedies.write("margin", tmp_path / "margin")
        imported = {module.path.relative_to(path.parent).parts[0] for module in modules(path)}
        assert {"llm_supervisor.py", path.name} <= imported
        assert {other.name for other in path.parent.iterdir()} == {*imported, "prompts"}
        assert all(other.is_symlink() and other.exists() for other in path.parent.iterdir() if other != path)


def test_the_study_names_every_remedy_with_flags_that_it_has():
    study = tomllib.loads((ROOT / "benchmark" / "probes" / "remedies.toml").read_text())
    names = set(script.Args.__dataclass_fields__)
    paths = [arm["script"] for arm in study["arms"].values()]
    written = [f"runs/remedies/{name}/guided_sac_discrete.py" for name in remedies.REMEDIES]
    assert sorted(paths) == sorted(written)
    own = study["flags_by_environment"].values()
    for flags in (study["flags"], *own, *(arm.get("flags", {}) for arm in study["arms"].values())):
        assert {flag.replace("-", "_") for flag in flags} <= names


def test_margin_by_hand(tmp_path):
    """max_b [Q(b) + 0.8 · 1(b ≠ a)] − Q(a): 2 + 0.8 − 1 for a worse action, 0 for one that leads by more than 0.8."""
    margin = changed("margin", tmp_path)
    q = torch.tensor([[[1.0, 2.0], [3.0, 2.0]], [[1.0, 1.5], [0.0, 0.0]]])  # (2 critics, 2 states, 2 actions)
    losses = margin.conservative_losses(q, torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(losses, torch.tensor([1.8 / 2, (1.3 + 0.8) / 2]))


def test_actors_by_hand(tmp_path):
    """Bounded outputs: no probability below e⁻¹⁰ of another. A uniform beginning: log ⅙ everywhere."""
    envs = SimpleNamespace(
        single_observation_space=gym.spaces.MultiDiscrete([4]), single_action_space=gym.spaces.Discrete(6), num_envs=1
    )
    obs = torch.arange(4)[:, None]
    bounded = changed("logit_bound", tmp_path).Actor(envs)
    with torch.no_grad():
        bounded.biases[2][:] = torch.tensor([1e3, -1e3, 0, 0, 0, 0])
    log_pi = bounded(obs)
    torch.testing.assert_close(log_pi[:, 0] - log_pi[:, 1], torch.full((4,), 10.0))
    uniform = changed("uniform_actor", tmp_path).Actor(envs)
    torch.testing.assert_close(uniform(obs), torch.full((4, 6), -math.log(6)))


def test_lines_that_are_gone_are_named(tmp_path, monkeypatch):
    script = tmp_path / "guided_sac_discrete.py"
    script.write_text("nothing of it\n")
    monkeypatch.setattr(remedies, "SCRIPT", script)
    with pytest.raises(ValueError, match="lines of margin once"):
        remedies.changed("margin")
