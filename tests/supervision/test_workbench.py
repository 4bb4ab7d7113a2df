"""The commands new-prompt, show-prompt and consult of llm_supervisor.py."""

import base64
import dataclasses
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, Endpoint, texts
from consultations import user_text
from PIL import Image
from rules import BRAKE, CONTENT, INTERVENE, PUSH

import llm_supervisor as sup
from benchmark.probes import prompt_cost
from supervision import prompts
from supervision.pictures import jpeg_bytes
from supervision.prompts import CODER_HEADINGS, describe_env
from supervision.watch import Watch
from supervision.workbench import Consult, NewPrompt, ShowPrompt

THIRD_PARTY = '''
import gymnasium as gym
import numpy as np

class Plain(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, goal=0.0, render_mode=None):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.array([action[0], self.goal], np.float32), -float(abs(action[0] - self.goal)), False, False, {}

class Named(Plain):
    """A goal at {{x}}_{t}, as LaTeX writes it."""
    observation_space = gym.spaces.Dict(x=gym.spaces.Sequence(gym.spaces.Discrete(9)))

class Braces(Plain):
    """A goal at {{x}}_{t}, as LaTeX writes it."""

gym.register("Plain-v0", entry_point=Plain)
gym.register("Named-v0", entry_point=Named)
gym.register("Braces-v0", entry_point=Braces)
'''


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package of environments: without documentation and time limit, or with observations of no fixed length."""
    (tmp_path / "some_package.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_package_s_environment(third_party, capsys):
    """Its module is named before the colon; what it does not say is said to be missing."""
    flags = ["--env-id", "some_package:Plain-v0", "--env-kwargs", '{"goal": 0.25}']
    assert sup.main(["show-prompt", *flags, "--role", "advisor"]) == 0
    output = capsys.readouterr()
    assert "Environment: some_package:Plain-v0\n\n- Time limit of an episode in steps: none\n" in output.out
    assert "(the environment has no documentation)" in output.out and "next observation [" in output.out
    rows = re.findall(r"^t=(\d+) obs=\[(\S+) +(\S+) *\] action=\[(.*?)\]", output.out, flags=re.MULTILINE)
    assert len(rows) >= 20 and {row[2] for row in rows[1:]} == {"0.25"}
    assert "supervisor: no pictures: the environment has no render mode rgb_array" in output.err
    assert "no pictures" not in output.out and "--- image" not in output.out
    transition = re.compile(r"^- A transition of training.*", re.MULTILINE)
    assert sup.main(["show-prompt", *flags, "--role", "coder"]) == 0  # the steps have the seed
    assert transition.search(output.out)[0] == transition.search(capsys.readouterr().out)[0]
    assert sup.main(["show-prompt", *flags, "--role", "coder", "--seed", "2"]) == 0
    assert transition.search(output.out)[0] != transition.search(capsys.readouterr().out)[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["show-prompt", "--role", "coder", "--env-id", "some_package:Named-v0"], r"its part \['x'\] is Seq"),
        (
            ["new-prompt", "--env-id", "AnyObservation-v0", "--env-kwargs", '{"kind": "sequence"}'],
            "AnyObservation-v0 cannot be flattened",
        ),
        (["consult", "--env-id", "CartPole-v99"], "CartPole"),
        (["consult", "--env-id", "no_such_package:X-v0"], "no_such_package"),
        (["consult", "--env-id", "Pendulum-v1", "--env-kwargs", '{"mass": 2}'], "does not accept --env-kwargs"),
        (["consult", "--env-id", "Pendulum-v1", "--seed", "-1"], "--seed must be at least 0"),
        (["consult", "--env-id", "Pendulum-v1"], "nobody can supervise Pendulum-v1"),
        (["consult", "--env-id", "Pendulum-v1", "--supervisor", "none"], "consults nobody"),
        (["consult", "--env-id", "Pendulum-v1", "--trial-pairs", "2"], "--trial-pairs must be at least 3"),
        (["consult", "--env-id", "Pendulum-v1", "--llm-async"], "--llm-async is for training"),
    ],
)
def test_bad_input_is_one_line_and_status_1(flags, message, third_party, capsys):
    assert sup.main(flags) == 1
    output = capsys.readouterr()
    assert re.fullmatch(rf"llm_supervisor.py: error: .*{message}.*\n", output.err) and not output.out
    assert not Path("runs").exists()


def test_new_prompts_are_filled_editable_and_never_overwritten(third_party, capsys):
    """With the facts as text; what a run's flags change is left to the run; a second time is an error."""
    command = ["new-prompt", "--env-id", "some_package:Braces-v0", "--prompt-dir", "own"]
    assert sup.main(command) == 0
    advisor, coder = Path("own/advisor.md"), Path("own/coder.md")
    assert capsys.readouterr().out == f"written: {advisor}\nwritten: {coder}\n"
    assert "A goal at { {x}}_{t}, as LaTeX writes it." in advisor.read_text()
    assert "Box(-1.0, 1.0, (1,), float32): every component from -1 to 1" in coder.read_text()
    assert set(re.findall(r"\{\{(\w+)\}\}", coder.read_text())) == {
        "max_episode_steps", "rule_is_given", "rule_returns", "reward_range", "sample_transition",
    }  # fmt: skip
    advisor.write_text(advisor.read_text() + "- Edited by hand.\n")
    coder.unlink()
    assert sup.main(command) == 1
    assert capsys.readouterr().err == (
        f"llm_supervisor.py: error: {advisor} would be overwritten: move them, or give another --prompt-dir\n"
    )
    assert not coder.exists() and advisor.read_text().endswith("- Edited by hand.\n")
    show = ["show-prompt", "--env-id", "some_package:Braces-v0", "--prompt-dir", "own", "--role", "advisor"]
    assert sup.main([*show, "--max-episode-steps", "30"]) == 1  # a run needs both files
    advisor.rename("advisor.md")
    assert sup.main(command) == 0
    Path("advisor.md").rename(advisor)
    capsys.readouterr()
    assert sup.main([*show, "--max-episode-steps", "30"]) == 0
    output = capsys.readouterr().out
    assert "- Edited by hand.\n\n--- user ---\n" in output and "Time limit of an episode in steps: 30\n" in output


def test_new_prompts_go_to_the_folder_in_which_a_run_finds_them(monkeypatch, tmp_path, capsys):
    shutil.copytree(ROOT / "prompts" / "default-discrete", tmp_path / "default-discrete")
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path)
    assert sup.main(["new-prompt", "--env-id", "CartPole-v1"]) == 0
    assert sorted(path.name for path in (tmp_path / "CartPole-v1").iterdir()) == ["advisor.md", "coder.md"]
    (tmp_path / "CartPole-v1" / "coder.md").write_text("".join(f"## {h}\nmine\n" for h in CODER_HEADINGS))
    capsys.readouterr()
    assert sup.main(["show-prompt", "--env-id", "CartPole-v1", "--role", "coder", "--replay-frames", "0"]) == 0
    assert capsys.readouterr().out.startswith("--- system ---\n## Task definition\nmine\n")


def test_the_commands_pass_over_the_folder_of_another_task(monkeypatch, tmp_path, capsys):
    """With other --env-kwargs than the script's, as in training; no folder is written in which no run would look."""
    own = ROOT / "prompts" / "FrozenLake-v1"
    flags = ["--env-id", "FrozenLake-v1", "--env-kwargs", '{"map_name": "8x8"}', "--replay-frames", "0"]
    assert sup.main(["show-prompt", *flags, "--role", "advisor"]) == 0
    output = capsys.readouterr()
    assert "(4 x 4, slippery)" not in output.out and "Observation space: Discrete(64)" in output.out
    assert f"prompts of {own.with_name('default-discrete')}, since {own} describes" in output.err
    assert sup.main(["show-prompt", *flags, "--role", "advisor", "--prompt-dir", str(own)]) == 0
    output = capsys.readouterr()
    assert "(4 x 4, slippery)" in output.out and "prompts of" not in output.err
    for supervisor, message in (("auto", "nobody can supervise"), ("bundled", "neither a rule nor a threshold")):
        assert sup.main(["consult", *flags, "--supervisor", supervisor]) == 1
        output = capsys.readouterr()
        assert message in output.err and f"--prompt-dir {own} uses it anyway" in output.err
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path / "prompts")
    new = ["new-prompt", "--env-id", "CartPole-v1", "--env-kwargs", '{"sutton_barto_reward": true}']
    assert sup.main(new) == 1
    assert "for the default --env-kwargs of the environment: give another --prompt-dir" in capsys.readouterr().err
    assert not prompts.PROMPTS.exists()
    default = ROOT / "prompts" / "default-discrete"
    shutil.copytree(default, tmp_path / "prompts" / default.name)
    assert sup.main([*new, "--prompt-dir", "own"]) == 0 and Path("own", "advisor.md").is_file()


def shown(request: dict) -> str:
    """What show-prompt must print for a request that a server received."""
    system, user = (message["content"] for message in request["messages"])
    lines = [f"--- system ---\n{system}\n--- user ---\n{user_text(request)}"]
    for number, part in enumerate(user[1:] if isinstance(user, list) else [], 1):
        jpeg = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        width, height = Image.open(io.BytesIO(jpeg)).size
        lines.append(f"--- image {number}: JPEG, {width} × {height} pixels, {len(jpeg):,} bytes ---")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("env_id", "flags"),
    [
        ("MountainCarContinuous-v0", []),
        ("Blackjack-v1", ["--replay-frames", "0"]),
        ("FrozenLake-v1", ["--advisor-vision", "off"]),
    ],
)
def test_what_is_shown_is_what_a_server_receives(env_id, flags, capsys):
    """To the last character, for both roles, images included; another seed gives other episodes."""
    flags = ["--env-id", env_id, "--seed", "5", "--guide-end", "7777", *flags]
    code = PUSH if env_id.startswith("Mountain") else "def policy(obs, t):\n    return 1\n"
    models = ["--supervisor", "llm", "--coder-model", "a-coder", "--trial-pairs", "0", "--guide-start", "3"]
    with Endpoint(lambda body, n: code if body["model"] == "a-coder" else INTERVENE) as endpoint:
        sup.main(["consult", *flags, *models, "--llm-base-url", endpoint.url])
    capsys.readouterr()
    advisor, coder = endpoint.requests[:2]
    outputs = []
    for role in (["advisor"], ["coder", "--advice", "pump energy"], ["advisor", "--seed", "6"]):
        assert sup.main(["show-prompt", *flags, *models, "--role", *role]) == 0
        outputs.append(capsys.readouterr().out)
    assert ("--- image" in outputs[0]) == (not flags[6:])
    assert outputs[0] == shown(advisor) and outputs[1] == shown(coder) and outputs[2] != outputs[0]
    time = (
        r"Training step [\d,]+ of 7,777\. Guidance may go on until step 7,777; your decision holds for the next [\d,]+ "
    )
    assert re.search(time, outputs[0]) and "\npump energy\n" in outputs[1]
    assert not list(Path("runs").glob("*show*")) and len(list(Path("runs").iterdir())) == 1


def test_what_is_shown_is_what_a_training_run_sends(run_here, capsys):
    """The same prompts and the same kinds of paragraphs, with the environment's settings of the script; only what was
    seen differs. A run asks at step 200, a tenth of a window behind its start."""
    flags = ["--env-id", "CliffWalking-v1", "--replay-frames", "0"]
    with Endpoint(lambda body, n: CONTENT) as endpoint:
        run_here(*flags, "--total-timesteps", "205", "--supervisor", "llm", "--llm-base-url", endpoint.url,
                 script=ROOT / "guided_sac_discrete.py")  # fmt: skip
    capsys.readouterr()
    (request,) = endpoint.requests
    assert sup.main(["show-prompt", *flags, "--role", "advisor"]) == 0
    system, _, user = capsys.readouterr().out.removeprefix("--- system ---\n").partition("\n--- user ---\n")
    assert system == request["messages"][0]["content"] and "after 200 steps" in system
    mine, sent = ([re.split(r"[\d:.]", part)[0] for part in text.strip().split("\n\n")]
                  for text in (user, user_text(request)))  # fmt: skip
    assert set(mine) == set(sent) and len(set(mine)) >= 5
    assert "Guidance may go on until step 10,000; your decision holds for the next 2,000 steps." in user
    assert user_text(request).startswith("Training step 200 of 205. Guidance may go on until step 205; ")


@pytest.mark.parametrize(
    ("env_id", "actions"), [("Pendulum-v1", {"[0.]"}), ("DiscreteCounter-v0", {"2"}), ("AnyObservation-v0", {"-1"})]
)
def test_the_zero_learner(env_id, actions, capsys):
    """The action zero, or the first of discrete ones, at every step."""
    flags = ["--env-id", env_id, "--learner", "zero", "--replay-frames", "0"]
    flags += ["--env-kwargs", '{"kind": "tuple"}'] if env_id.startswith("Any") else []
    assert sup.main(["show-prompt", *flags, "--role", "coder"]) == 0
    rows = re.findall(r"^t=.* action=(.*) reward", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(rows) == actions and len(rows) >= 5


# -- consult -----------------------------------------------------------------------------------------------------------

CONSULT = ["consult", "--env-id", "MountainCarContinuous-v0", "--replay-frames", "0"]
LOOKED = "supervisor: the first look at the trial: return 9"
NO_FUNCTION = "I would push the car."
WRONG_SHAPE = PUSH.replace("np.array([1.0 if obs[1] >= 0 else -1.0])", "np.zeros(2)")


@pytest.mark.parametrize(
    ("answers", "status", "expected"),
    [
        ([CONTENT], 0, [f"--- the advisor answers ---\n{CONTENT}\n--- advice: do not intervene ---\nfine\n"]),
        (
            [INTERVENE, WRONG_SHAPE, PUSH],
            0,
            ["--- advice: intervene ---\nit stands still\n\npump energy\n",
             f"--- the coder answers ---\n{WRONG_SHAPE}\n",
             "--- to the coder ---\nThis answer was refused", "shape (2,)", f"--- the coder answers ---\n{PUSH}\n",
             "--- code that passed its check ---\nimport numpy", "; guiding\n", LOOKED],
        ),
        (
            [INTERVENE, BRAKE],
            1,
            ["--- code that passed its check ---\nimport numpy", "obs[1] < 0", "; guiding\n",
             "the rule was ended, for it earned less: return -"],
        ),
        ([INTERVENE, *[NO_FUNCTION] * 3], 1, [f"--- the coder answers ---\n{NO_FUNCTION}\n--- to the coder ---\n"]),
        (["I cannot help."] * 3, 1, ["--- the advisor answers ---\nI cannot help.\n--- to the advisor ---\n"]),
    ],
    ids=["declines", "repaired", "harmful", "no function", "no advice"],
)  # fmt: skip
def test_a_consultation_is_shown_step_by_step(answers, status, expected, capsys):
    """Advice, each answer's code, its check and its trial, in this order; the status says whether it is usable."""
    with Endpoint(lambda body, n: answers[min(n, len(answers) - 1)]) as endpoint:
        assert sup.main([*CONSULT, "--supervisor", "llm", "--llm-base-url", endpoint.url]) == status
    output = capsys.readouterr().out
    for text in expected:
        assert text in output
        output = output.partition(text)[2]
    if answers == [CONTENT]:  # an episode of 999 steps and the first of the next
        assert "the rule acted in 0 of 1,000 steps" in output
    (run,) = Path("runs").iterdir()
    assert len(list((run / "llm").glob("*.json"))) == len(endpoint.requests) and run.name in output
    assert texts(run.name, "supervisor/verdict")


def test_a_consultation_is_repeated_from_its_record(capsys):
    """Without a server, to the word; what another seed asks was not recorded."""
    with Endpoint(lambda body, n: [INTERVENE, PUSH][n]) as endpoint:
        assert sup.main([*CONSULT, "--supervisor", "llm", "--llm-base-url", endpoint.url]) == 0
    first = capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    recorded = Path("recorded")
    run.rename(recorded)
    again = [*CONSULT, "--supervisor", "replay", "--llm-log", str(recorded / "llm")]
    assert sup.main(again) == 0
    shown = [text[text.index("--- the advisor") : text.index("; supervision took")]
             for text in (first, capsys.readouterr().out)]  # fmt: skip
    assert shown[0] == shown[1]
    with pytest.raises(SystemExit, match="question 1 is not the one of --llm-log"):
        sup.main([*again, "--seed", "2"])


def test_no_server_is_status_1(capsys):
    flags = ["--supervisor", "llm", "--llm-base-url", "http://127.0.0.1:9/v1", "--llm-timeout", "1"]
    assert sup.main([*CONSULT, *flags]) == 1
    assert "unguided: the advisor" in capsys.readouterr().out


def test_the_bundled_supervisor_is_consulted(capsys):
    """Of both kinds of actions; a rule of a person's own can take the coder's place."""
    assert sup.main([*CONSULT, "--supervisor", "bundled"]) == 0
    output = capsys.readouterr().out
    assert "threshold 90" in output and output.count("def policy(obs, t)") == 1 and LOOKED in output
    assert sup.main(["consult", "--env-id", "CliffWalking-v1", "--learner", "zero", "--replay-frames", "0"]) == 0
    assert "threshold" in capsys.readouterr().out
    Path("rule.py").write_text("def policy(obs, t):\n    return 0.0\n")
    assert sup.main([*CONSULT, "--supervisor", "bundled", "--advisor-always", "--guide-policy", "rule.py"]) == 0
    output = capsys.readouterr().out
    assert "No judgement (--advisor-always)" in output and "; guiding\n" in output and "trial" not in output


def test_a_byte_order_mark_hurts_nothing(capsys):
    """In prompts, in a bundled rule and its settings, in a rule of one's own: some editors leave it."""
    Path("own").mkdir()
    for name in ("advisor.md", "coder.md", "bundled.toml", "bundled_policy.py"):
        text = (ROOT / "prompts" / "MountainCarContinuous-v0" / name).read_text()
        Path("own", name).write_text("\ufeff" + text)
    flags = ["--env-id", "MountainCarContinuous-v0", "--replay-frames", "0"]
    prompts = []
    for folder in ([], ["--prompt-dir", "own"]):
        assert sup.main(["show-prompt", *flags, "--role", "coder", *folder]) == 0
        prompts.append(capsys.readouterr().out)
    assert prompts[0] == prompts[1]
    bundled = ["--supervisor", "bundled"]
    assert sup.main(["consult", *flags, "--prompt-dir", "own", *bundled]) == 0
    assert sup.main(["consult", *flags, "--guide-policy", "own/bundled_policy.py", *bundled]) == 0
    assert capsys.readouterr().out.count(LOOKED) == 2


def test_the_commands_cost_a_training_script_nothing(capsys):
    """Importing the module brings in nothing for them; --help names the four commands."""
    code = ("import llm_supervisor, runpy, sys; "
            "print(sorted({'tyro', 'guided_sac_continuous', 'openai'} & {*sys.modules})); "
            "sys.argv = ['llm_supervisor.py', 'consult', '--env-id', 'Taxi-v4', '--supervisor', 'none']; "
            "runpy.run_path('llm_supervisor.py', run_name='__main__')")  # fmt: skip
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "[]\n", process.stderr
    assert process.returncode == 1 and process.stderr.startswith("llm_supervisor.py: error: --supervisor none")
    with pytest.raises(SystemExit, match="0"):
        sup.main(["--help"])
    output = capsys.readouterr().out
    assert all(f"• {name} " in output for name in ("new-prompt", "show-prompt", "consult", "watch"))


# -- what the pages say ------------------------------------------------------------------------------------------------

DOCS = ROOT / "docs"


def test_tokens_and_consultations_by_hand():
    """(Six digits and nine other characters make 6 + 3 tokens.) Pictures: 16 · 11 + 2, and never below 4 + 2."""
    assert prompt_cost.text_tokens("x = 123.456, y.") == 9
    for (height, width), tokens in (((341, 512), 16 * 11 + 2), ((240, 240), 8 * 8 + 2), ((20, 20), 4 + 2)):
        assert prompt_cost.picture_tokens(jpeg_bytes(np.zeros((height, width, 3), np.uint8))) == tokens
    # every 1,000 steps before 900,000; 0, 2,000 and 4,000; none
    assert [prompt_cost.consultations(*spec) for spec in ((0, 900_000, 1_000), (0, 5_000, 2_000), (5, 5, 1))] == [
        900,
        3,
        0,
    ]


def test_the_page_s_costs_are_the_present_ones():
    """One row of each script's, in short and in full; `python -m benchmark.probes.prompt_cost` makes them all anew."""
    page, table = DOCS / "supervisor.md", ROOT / "benchmark" / "results" / "supervision.md"
    for env_id in ("FrozenLake-v1", "MountainCarContinuous-v0"):
        cells = prompt_cost.row(env_id, seed=1)
        if "none" in cells:
            pytest.skip("nothing can be rendered here")
        assert f"| {' | '.join(cells)} |\n" in table.read_text()
        _, _, _, advisor, _, coder, times, total = cells
        (row,) = re.findall(rf"^\| {env_id} \| .*", page.read_text(), re.MULTILINE)
        assert row.endswith(f" | {times} | {advisor}, {coder} | {total} |"), row


def test_the_page_s_example_does_what_the_page_says(capsys):
    """Its two files, found in it, pass the first look at the trial with the returns that it gives."""
    text = (DOCS / "new_environment.md").read_text().partition("## Without a model")[2]
    Path("my_prompts").mkdir()
    for kind, name in (("toml", "bundled.toml"), ("python", "bundled_policy.py")):
        Path("my_prompts", name).write_text(re.search(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1])
    flags = ["--env-id", "Pendulum-v1", "--prompt-dir", "my_prompts", "--supervisor", "bundled", "--replay-frames", "0"]
    assert sup.main(["consult", *flags]) == 0
    looked = r"return -([\d.]+) guided \(3 episodes\), -([\d.]+) unguided \(3\), over their first 200 steps"
    guided, unguided = (round(float(number)) for number in re.search(looked, capsys.readouterr().out).groups())
    assert (guided, unguided) == (162, 1058)
    assert f"−{guided}, −122 and −82 guided" in text and f"−{unguided:,}, −1,215 and −1,092 unguided" in text


@pytest.mark.parametrize("page", ["supervisor", "new_environment", "servers"])
def test_every_flag_on_the_page_exists(page):
    kinds = (NewPrompt, ShowPrompt, Consult, Watch, prompt_cost.Args)
    scripts = [runpy.run_path(str(ROOT / f"guided_sac_{kind}.py"))["Args"] for kind in ("continuous", "discrete")]
    known = {field.name for kind in (*kinds, *scripts) for field in dataclasses.fields(kind)}
    for name in re.findall(r"`--([\w-]+)", (DOCS / f"{page}.md").read_text()):
        assert name == "help" or name.replace("-", "_") in known, name


def test_every_placeholder_is_on_the_page():
    values = describe_env(gym.make("CartPole-v1"), "CartPole-v1")
    listed = (DOCS / "new_environment.md").read_text().partition("\nPlaceholders")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {*values, *prompts.FACTS}


# -- installed --------------------------------------------------------------------------------------------------------


SERVE = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from llm_supervisor import main

for line in sys.stdin:
    sys.argv, out, errors = ["guided-sac", *json.loads(line)], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = main()
    print(json.dumps([status, out.getvalue(), errors.getvalue()]), flush=True)
"""


@pytest.fixture
def installed(tmp_path) -> Iterator[SimpleNamespace]:
    """Runs the console command of a copy that is laid out as a wheel lays it out, in the present folder.

    One process for all calls of a test: it loads torch once.
    """
    site = tmp_path / "site"
    shutil.copytree(ROOT / "supervision", site / "supervision", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "prompts", site / "supervision" / "prompts")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("guided_utils")):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, site / path.name)

    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:  # fmt: skip

        def run(*flags: str) -> tuple[int, str, str]:
            """Exit status, output, errors."""
            print(json.dumps(flags), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield SimpleNamespace(run=run, prompts=site / "supervision" / "prompts")


def test_an_installed_copy_has_its_prompts_beside_it_and_guides_with_its_rules(installed):
    """new-prompt, edited, is what show-prompt then shows; the copy itself stays as it was."""
    before = sorted(installed.prompts.rglob("*"))
    status, out, errors = installed.run("new-prompt", "--env-id", "CartPole-v1")
    assert (status, errors) == (0, "")
    assert out == "written: prompts/CartPole-v1/advisor.md\nwritten: prompts/CartPole-v1/coder.md\n"
    coder = Path("prompts", "CartPole-v1", "coder.md")
    coder.write_text(coder.read_text() + "- Edited by hand.\n")
    show = ["show-prompt", "--role", "coder", "--replay-frames", "0"]
    assert "- Edited by hand." in installed.run(*show, "--env-id", "CartPole-v1")[1]
    assert "the taxi" in installed.run(*show, "--env-id", "Taxi-v4")[1].lower()
    assert sorted(installed.prompts.rglob("*")) == before
    status, _, errors = installed.run("new-prompt", "--env-id", "CartPole-v1")
    assert status == 1 and "would be overwritten" in errors
    flags = ["--env-id", "FrozenLake-v1", "--supervisor", "bundled", "--replay-frames", "0", "--learner", "zero"]
    status, out, errors = installed.run("consult", *flags)
    assert status == 0, errors
    assert "3 unguided episodes are over so far, 20 decide." in out and "code that passed its check" in out
