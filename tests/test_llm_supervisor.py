"""The helper: who supervises, consultations in training with models behind a real HTTP server, and their windows."""

import base64
import io
import json
import re
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, Endpoint, scalars, texts
from consultations import SECRET, both, user_text
from PIL import Image
from rules import BRAKE, CONTENT, INTERVENE, KEEP, PUSH, Training, vectors

import llm_supervisor as sup
from supervision import prompts
from supervision.answers import parse_code
from supervision.sandbox import confinement

# -- who supervises ----------------------------------------------------------------------------------------------------


def test_auto_chooses_and_says_so(run_here, monkeypatch, capsys):
    run = run_here("--total-timesteps", "2", "--replay-frames", "0")
    assert run.supervisor.mode == "bundled" and "no key" in capsys.readouterr().out
    monkeypatch.setenv("OPENAI_BASE_URL", "")  # set but empty is unset
    assert run_here("--total-timesteps", "2", "--replay-frames", "0").supervisor.mode == "bundled"
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    run = run_here("--total-timesteps", "2", "--guide-start", "5")
    assert run.supervisor.mode == "llm" and SECRET not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--env-id", "FrozenLake-v1", "--env-kwargs", '{"is_slippery": false}'],
        ["--env-id", "FrozenLake-v1", "--env-kwargs", '{"map_name": "8x8"}'],
        ["--env-id", "Humanoid-v5", "--env-kwargs", "{}"],
    ],
    ids=["not slippery", "8 x 8", "348 variables"],
)
def test_another_task_s_rule_and_threshold_are_not_used_by_themselves(flags, run_here):
    """Its folder is for the default --env-kwargs: without a model nobody supervises, and the way to insist is named."""
    folder = ROOT / "prompts" / flags[1]
    actions = "continuous" if flags[1] == "Humanoid-v5" else "discrete"
    run = {"script": ROOT / f"guided_sac_{actions}.py"}
    short = ["--replay-frames", "0", "--total-timesteps", "2"]
    reason = f"{folder} describes the environment with its default --env-kwargs (--prompt-dir {folder} uses it anyway)"
    with pytest.raises(SystemExit) as nobody:
        run_here(*flags, *short, **run)
    assert f"nobody can supervise {flags[1]}: no key or base URL is set and {reason}. Four ways" in str(nobody.value)
    with pytest.raises(SystemExit) as bundled:
        run_here(*flags, *short, "--supervisor", "bundled", **run)
    assert f"neither a rule nor a threshold for these --env-kwargs: {reason}" in str(bundled.value)
    assert run_here(*flags, *short, "--supervisor", "none", **run).supervisor.mode == "none"


def test_a_run_that_nobody_can_supervise_names_four_ways_out_where_tools_look(run_here, capsys):
    """In the line with which it ends, and that alone: CleanRL's benchmark tool reads nothing but standard error."""
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "Pendulum-v1", "--seed", "1")
    assert capsys.readouterr() == ("", "")
    (line,) = ended.value.code.splitlines()
    assert line.startswith("guided_sac_continuous.py: error: nobody can supervise Pendulum-v1: ")
    for way in ("OPENAI_API_KEY (or --llm-base-url)", "--guide-policy FILE", "bundled_policy.py and bundled.toml into ",
                "--supervisor none"):  # fmt: skip
        assert way in line
    assert not list(Path().iterdir())


def test_ways_to_guide_with_other_env_kwargs(run_here):
    """A rule of one's own, with its trial or without; the folder where it is named; a default only spelled out."""
    Path("rule.py").write_text("def policy(obs, t):\n    return 2\n")
    flags = ["--env-id", "FrozenLake-v1", "--replay-frames", "0", "--total-timesteps", "2"]
    other = ["--env-kwargs", '{"is_slippery": false}']
    script, own = ROOT / "guided_sac_discrete.py", ROOT / "prompts" / "FrozenLake-v1"
    for more in ([], ["--advisor-always"]):
        run = run_here(*flags, *other, "--guide-policy", "rule.py", *more, script=script)
        assert scalars(run.run_name)["charts/guidance_active"][0] == (0, 1.0)
    run = run_here(*flags, *other, "--prompt-dir", str(own), script=script)
    assert (
        run.supervisor.mode == "bundled"
        and "0 unguided episodes are over so far, 20 decide. The unguided"
        in (texts(run.run_name, "supervisor/advice")[0])
    )
    assert run_here(*flags, "--env-kwargs", "{}", script=script).supervisor.mode == "bundled"


def test_a_model_is_not_told_of_another_task(run_here, capsys):
    """With other --env-kwargs it gets the default prompts, and the header says which and why."""
    flags = ["--env-id", "FrozenLake-v1", "--supervisor", "llm", "--replay-frames", "0", "--total-timesteps", "12"]
    flags += ["--env-kwargs", '{"is_slippery": false}']
    headers, prompts, own = [], [], ROOT / "prompts" / "FrozenLake-v1"
    for more in ([], ["--prompt-dir", str(own)]):
        with Endpoint(lambda body, n: CONTENT) as endpoint:
            run_here(*flags, *more, "--llm-base-url", endpoint.url, script=ROOT / "guided_sac_discrete.py")
        prompts.append(endpoint.requests[0]["messages"][0]["content"])
        headers += re.findall(r"^ *supervisor: (llm .*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert "Environment: FrozenLake-v1\n" in prompts[0] and "The ice is slippery. With" not in prompts[0]
    assert "The ice is slippery. With" in prompts[1]
    default = own.with_name("default-discrete")
    assert headers[0].startswith(f"llm (--supervisor); prompts of {default}, since {own} describes the environment")
    assert headers[1] == f"llm (--supervisor); prompts of {own}"


@pytest.mark.parametrize("bundled", sorted(prompts.PROMPTS.glob("*/bundled.toml")), ids=lambda path: path.parent.name)
def test_a_model_is_told_the_bundled_supervisor_s_threshold(bundled):
    """Its decision begins with it, so that both intervene below the same return."""
    threshold = tomllib.loads(bundled.read_text())["intervene_below"]
    (decision,) = re.findall(r"^\d\. (Decision\. .*)", bundled.with_name("advisor.md").read_text(), flags=re.MULTILINE)
    named = re.search(r"Intervene while .*?(?:below|less than) (-?\d+(?:\.\d+)?)", decision)
    assert float(named[1]) == threshold


def test_advisor_always_guides_without_judgement(run_here, tmp_path):
    """The ablation: no threshold, no probe and no trial; a rule that brakes guides every step to the end."""
    (tmp_path / "rule.py").write_text(parse_code(BRAKE))
    run = run_here("--guide-policy", "rule.py", "--advisor-always", "--guide-window", "50", "--guide-end", "120",
                   "--total-timesteps", "130", "--learning-starts", "130", "--max-episode-steps", "15",
                   "--replay-frames", "0")  # fmt: skip
    logged = scalars(run.run_name)
    assert logged["charts/guidance_active"] == [
        (0, 1.0), (50, 1.0), (100, 1.0), (119, 1.0), (120, 0.0), (130, 0.0),
    ]  # fmt: skip
    assert logged["supervisor/guided_steps"] == [
        (0, 0.0), (50, 50.0), (100, 100.0), (120, 120.0), (130, 120.0),
    ]  # fmt: skip
    assert "supervisor/trial_guided_return" not in logged


def test_bundled_advisor_steps_back_when_the_policy_is_good(run_here, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "bundled_policy.py").write_text(parse_code(PUSH))
    toml = 'intervene_below = -50\nepisodes = 2\nanalysis = "a"\nadvice = "b"\n'
    (tmp_path / "p" / "bundled.toml").write_text(toml)
    run = run_here("--prompt-dir", "p", "--total-timesteps", "65", "--replay-frames", "0", "--max-episode-steps", "10",
                   "--guide-window", "20", "--learning-starts", "65")  # fmt: skip
    # guided, probe, guided, probe: the second is over at step 40; ten steps of a car return −1 at least
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 1.0), (20, 1.0), (39, 1.0), (40, 0.0), (60, 0.0), (65, 0.0),
    ]  # fmt: skip
    said = texts(run.run_name, "supervisor/advice")
    assert ["unguided episodes are over so far, 2 decide" in text for text in said] == [True, True, False, False]
    assert "in the last 2 unguided episodes; threshold -50." in said[2]


def test_bundled_humanoid_rule_is_usable(run_here):
    """It passes the check and the sandbox on real states, and acts from the first step on."""
    run = run_here(
        "--env-id", "Humanoid-v5", "--supervisor", "bundled", "--total-timesteps", "3", "--replay-frames", "0"
    )
    logged = scalars(run.run_name)
    assert logged["supervisor/failures"][0] == (0, 0.0)
    assert logged["charts/guidance_active"][0] == (0, 1.0) and logged["supervisor/guided_steps"][-1] == (3, 3.0)


def test_a_strict_run_ends_before_it_begins(monkeypatch):
    """`prepare` is what a script calls before it makes the run's folder."""
    monkeypatch.setattr(confinement, "missing_layers", lambda: {"seccomp": "for a test"})
    args = sup.SupervisorArgs(supervisor="bundled", sandbox="strict")
    args.env_id, args.guide_window, args.guide_start, args.guide_end = "MountainCarContinuous-v0", 1, 0, 1
    supervisor = sup.Supervisor(args, None, env_fn=pytest.fail, run_dir="run")
    with pytest.raises(ValueError, match="strict sandbox needs what this machine lacks"):
        supervisor.prepare()


# -- models behind a real server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Taxi-v4", "FrozenLake-v1", "Blackjack-v1", "CartPole-v1"])
def test_a_trial_with_discrete_actions(env_id, tmp_path):
    """Threshold, rule, dry run and trial on each kind of observation, by substitution; returns are counted again."""
    rng, n = np.random.default_rng(0), gym.make(env_id).action_space.n
    args = sup.SupervisorArgs(supervisor="bundled", prompt_dir=str(tmp_path), replay_frames=0)
    args.env_id, args.seed, args.guide_window, args.guide_start, args.guide_end = env_id, 0, 100, 0, 1_000
    args.learning_starts, args.total_timesteps = 0, 1_000
    (tmp_path / "bundled.toml").write_text('intervene_below = 1e9\nepisodes = 1\nanalysis = "a"\nadvice = "b"\n')
    (tmp_path / "bundled_policy.py").write_text("def policy(obs, t):\n    return 0\n")
    training = Training(
        lambda mode: vectors(env_id, max_episode_steps=20), lambda obs: rng.integers(0, n, len(obs)), args, tmp_path
    )
    assert training.consult() is not None
    held = training.supervisor.consultations
    while held.verdict is None and training.step < 400:
        training.run(1)
    assert {action for action, guided in training.actions if guided} == {0}
    assert {action for action, guided in training.actions if not guided} == set(range(n))
    horizon, verdict = held.verdict.horizon, held.verdict
    over = [(sum(rewards[:horizon]), by_rule[0]) for rewards, by_rule in training.episodes if len(set(by_rule)) == 1]
    guided, probes = ([r for r, by_rule in over if by_rule is kind] for kind in (True, False))
    assert verdict.counts[0] == 3 and verdict.counts[1] >= 3
    assert verdict.guided == pytest.approx(np.mean(guided)) and verdict.other == pytest.approx(np.mean(probes))
    training.consult()
    assert held.failures == 0
    training.close()
    (tmp_path / "bundled_policy.py").write_text("def policy(obs, t):\n    return 0.0\n")
    with pytest.raises(ValueError, match=f"returned a float, expected an int or a NumPy integer from 0 to {n - 1}"):
        training.supervisor.prepare()


LLM = ["--env-id", "MountainCarContinuous-v0", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
       "--guide-window", "100", "--guide-end", "200", "--total-timesteps", "210", "--learning-starts", "205",
       "--max-episode-steps", "20", "--llm-timeout", "20"]  # fmt: skip


def test_a_run_under_models(run_here, monkeypatch, tmp_path, capsys):
    """Advisor and coder are asked as the design says; advice, code and exchanges are logged; the key nowhere.

    The first window begins at step 10, a tenth of a window behind the start; the second at 110, when probes are over.
    """
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(both(INTERVENE, PUSH)) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url)
    assert [r["model"] for r in endpoint.requests] == ["an-advisor", "a-coder"] * 2
    assert endpoint.keys == [f"Bearer {SECRET}"] * 5  # the first asks for the list of models
    advisor, coder = endpoint.requests[:2]
    assert "## Chain of thought" in advisor["messages"][0]["content"]
    assert "## Code template" in coder["messages"][0]["content"]
    assert "t=0 obs=" in user_text(advisor) and "pump energy" in user_text(coder)
    assert "def policy" in user_text(endpoint.requests[2])  # the second consultation knows the current rule
    tried = "step 10: no unguided episode is over yet; advice: pump energy; guiding\n"
    assert tried in user_text(endpoint.requests[2])  # and what was tried
    printed = capsys.readouterr().out
    if "supervisor: no pictures" not in printed:
        pictures = [part["image_url"]["url"] for part in advisor["messages"][1]["content"][1:]]
        assert 4 <= len(pictures) <= 8
        for picture in pictures:
            kind, data = picture.split(",")
            assert kind == "data:image/jpeg;base64"
            assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 512
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 0.0), (9, 0.0), (10, 1.0), (110, 1.0), (199, 1.0), (200, 0.0), (210, 0.0),
    ]  # fmt: skip
    assert "pump energy" in texts(run.run_name, "supervisor/advice")[0]
    assert "obs[1] >= 0" in texts(run.run_name, "supervisor/code")[0]
    logs = sorted(Path(f"runs/{run.run_name}/llm").glob("*.json"))
    assert [p.name for p in logs] == ["0000-advisor.json", "0001-coder.json", "0002-advisor.json", "0003-coder.json"]
    exchange = json.loads(logs[0].read_text())
    assert exchange["answer"] == INTERVENE and exchange["usage"]["total_tokens"] == 15
    assert all((logs[0].parent / name).is_file() for name in exchange["images"])
    # 10 unguided steps; probes from 40 to 60 and from 80 to 100; guided to 110, and from there to the next episode's
    # end, a guided one and a probe more
    assert scalars(run.run_name)["supervisor/guided_steps"][:2] == [(10, 0.0), (110, 60.0)]
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert SECRET.encode() not in everything and SECRET not in printed


@pytest.mark.parametrize(
    ("env_id", "prompt", "row"),
    [
        (
            "Taxi-v4",
            "learns Taxi-v4 with Soft Actor-Critic (SAC) for discrete actions",
            r"t=0 obs=\d+ action=\d reward=-",
        ),
        ("Blackjack-v1", "One hand of Blackjack", r"t=0 obs=\(\d+, \d+, [01]\) action=[01] reward="),
        ("CartPole-v1", "the rule's action replaces the agent's own", r"t=0 obs=\[[-0-9. ]+\] action=[01] reward=1"),
    ],
)
def test_models_are_asked_about_discrete_actions(env_id, prompt, row, tmp_path):
    """With the environment's own prompts or the default ones for substitution, and in its own numbers."""
    rng, n = np.random.default_rng(0), gym.make(env_id).action_space.n
    codes = iter([f"```python\ndef policy(obs, t):\n    return {answer}\n```" for answer in ("True", n, "1")])
    args = sup.SupervisorArgs(supervisor="llm", replay_frames=0, trial_pairs=0, coder_model="a-coder")
    args.env_id, args.seed, args.guide_window, args.guide_start, args.guide_end = env_id, 0, 100, 0, 200
    args.learning_starts, args.total_timesteps, args.probe_share = 0, 200, 0.0
    with Endpoint(lambda body, _: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        args.llm_base_url = endpoint.url
        training = Training(
            lambda mode: vectors(env_id, max_episode_steps=20), lambda obs: rng.integers(0, n, len(obs)), args, tmp_path
        )
        assert training.consult() is None and endpoint.requests == []  # nothing was seen yet
        training.run(20)
        assert training.consult() is not None
        training.run(10)
        assert [action for action, guided in training.actions if guided] == [1] * 10
        training.close()
    advisor, *coder = endpoint.requests
    assert prompt in advisor["messages"][0]["content"] and re.search(row, user_text(advisor))
    assert f"from 0 to {n - 1}" in coder[0]["messages"][0]["content"] and re.search(row, user_text(coder[0]))
    assert f"returned a bool, expected an int or a NumPy integer from 0 to {n - 1}" in user_text(coder[1])
    assert f"returned action = {n} at t=0; it must be an integer from 0 to {n - 1}" in user_text(coder[2])


def test_advisor_may_decline_or_keep_the_rule(run_here):
    answers = [CONTENT, INTERVENE, KEEP]
    asked = iter(answers)
    with Endpoint(lambda body, n: PUSH if body["model"] == "a-coder" else next(asked)) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "310", "--total-timesteps", "315",
                       "--learning-starts", "300", "--trial-pairs", "0", "--probe-share", "0.9")  # fmt: skip
    assert [r["model"] for r in endpoint.requests] == ["an-advisor", "an-advisor", "a-coder", "an-advisor"]
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 0.0), (10, 0.0), (109, 0.0), (110, 1.0), (210, 1.0), (309, 1.0), (310, 0.0), (315, 0.0),
    ]  # fmt: skip


def test_coder_is_told_what_was_wrong(run_here):
    """Syntax error, then an exception with its line, then a usable rule: all in one consultation."""
    broken = "```python\ndef policy(obs, t)\n    return 0\n```"
    raising = "```python\ndef policy(obs, t):\n    return obs[17]\n```"
    codes = iter([broken, raising, PUSH])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "100")
    coder = [user_text(r) for r in endpoint.requests if r["model"] == "a-coder"]
    assert len(coder) == 3
    assert "refused" not in coder[0] and "line 1" in coder[1] and "IndexError" in coder[2]
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 0.0), (9, 0.0), (10, 1.0), (99, 1.0), (100, 0.0), (210, 0.0),
    ]  # fmt: skip
