"""The documents say what the code does: commands parse, metrics are the logged ones, every flag is documented."""

import ast
import dataclasses
import functools
import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro
from conftest import ROOT, scalars

from supervision.workbench import command_type

RESULTS = ROOT / "benchmark" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RESULTS.glob("*.md"))]
SCRIPTS = sorted(ROOT.glob("*_sac*.py"))


@functools.cache
def arguments(script: Path) -> type | None:
    """A script's command line: its subcommands, or its Args; None where it takes no flags."""
    if script.stem == "llm_supervisor":
        return command_type()
    return runpy.run_path(str(script), run_name="imported").get("Args")


def check_arguments(script: Path, words: list[str]) -> None:
    """The script understands these arguments."""
    kind = arguments(script)
    assert kind is not None or not words, (script.name, words)
    if kind is not None:
        tyro.cli(kind, args=words)


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_commands_parse(page):
    """Every command of a page is one that this project, or a tool that it installs, understands."""
    rules = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = " ".join(rules).split()
    for command in commands(page):
        words = [word for word in shlex.split(command, comments=True) if word != ";"]
        while (words and words[0] in ("for", "do")) or "=" in words[0]:  # shell loops and environment variables
            words = words[words.index("do") + 1 :] if words[0] == "for" else words[1:]
        if words[-1] == "done":
            words = words[:-1]
        words = [word.rstrip(";").replace("$seed", "1") for word in words]
        if words[0] == "make":
            assert words[1] in targets, command
        elif words[:2] == ["python", "-m"] and words[2].startswith("benchmark."):
            check_arguments(ROOT / f"{words[2].replace('.', '/')}.py", words[3:])
        elif words[:2] == ["python", "-m"]:
            assert words[2] == "cleanrl_utils.benchmark", command
            script, *flags = shlex.split(words[words.index("--command") + 1])[1:]
            tyro.cli(arguments(ROOT / script), args=flags)
        elif words[0] == "python" and words[1].startswith("cleanrl/"):  # in a checkout of CleanRL
            theirs = {"sac_continuous_action.py": "guided_sac_continuous.py"}  # is called as ours
            name = Path(words[1]).name
            check_arguments(ROOT / theirs.get(name, name), words[2:])
        elif words[0] == "python":
            assert not words[1].startswith("benchmark/"), f"its programs are started with -m: {command}"
            check_arguments(ROOT / words[1], words[2:])
        else:
            assert words[0] in ("pip", "ray", "tensorboard"), command
            if words[0] == "pip":
                assert (ROOT / words[-1]).is_file(), command


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_our_commands_within_other_text_parse(page):
    """In shell scripts, and in the middle of a sentence: what calls one of our programs with flags."""
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    found = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found += re.findall(r"`([^`\n]*\bpython [^`\n]*)`", prose(page))
    for command in found:
        if call := re.search(r"\bpython (-m benchmark\.[\w.]+|[a-z]\w*\.py)(?= |$)(.*)", command):
            program = call[1].removeprefix("-m ")
            path = program if program.endswith(".py") else f"{program.replace('.', '/')}.py"
            flags = [word for word in shlex.split(call[2], comments=True) if word != "--help"]
            names_it = not flags or flags == ["watch"]  # in a sentence the bare name is no call
            if (ROOT / path).is_file() and not names_it:  # else it is the reader's own
                check_arguments(ROOT / path, flags)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_and_headings(page):
    """Links and pictures of a page, as far as they are the project's own."""
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)", prose(page)):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


RUNS = {  # short runs in which everything is on that a script can log
    "guided_sac_continuous": ["--env-id", "MountainCarContinuous-v0", "--total-timesteps", "1500", "--learning-starts",
                              "1390", "--eval-frequency", "1500", "--max-episode-steps", "100"],
    "guided_sac_discrete": ["--env-id", "Blackjack-v1", "--total-timesteps", "250", "--learning-starts", "90",
                            "--eval-frequency", "250", "--no-exact-improvement", "--autotune", "--guide-conservatism",
                            "1"],
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_metrics_table_is_complete(run_here, name):
    """Each tag that a run logs stands in the page's table, and each scalar of the table is logged."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    table = page.split("## Logged metrics")[1].split("## Implementation")[0]
    documented = set(re.findall(r"`((?:charts|losses|eval|supervisor)/\w+)`", table))
    texts = {"supervisor/advice", "supervisor/code", "supervisor/verdict"}
    texts |= {"supervisor/replay", "supervisor/replay_guided"}  # images
    run = run_here(*RUNS[name], "--supervisor", "bundled", "--eval-episodes", "1", "--eval-sampled-episodes", "1",
                   "--value-network", script=ROOT / f"{name}.py")  # fmt: skip
    assert set(scalars(run.run_name)) == documented - texts


@pytest.mark.parametrize("name", ["rnd_sac", "icm_sac", "e3b_sac"])
def test_metrics_table_of_a_baseline_is_complete(name, run_here):
    """Each tag that its runs on discrete and on continuous actions log stands in the page's table, and no other."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    table = page.split("## Logged metrics")[1].split("## Implementation")[0]
    documented = set(re.findall(r"`((?:charts|losses|eval)/\w+)`", table))
    logged, flags = set(), ["--autotune", "--batch-size", "8", "--eval-frequency", "100", "--eval-episodes", "1",
                            "--eval-sampled-episodes", "1"]  # fmt: skip
    for env_id in ("Blackjack-v1", "Pendulum-v1"):
        run = run_here("--env-id", env_id, "--total-timesteps", "300", "--learning-starts", "190", *flags,
                       script=ROOT / f"{name}.py")  # fmt: skip
        logged |= set(scalars(run.run_name))
    assert logged == documented - {"eval/replay"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_every_script_has_a_page_and_a_row_in_the_readme(script):
    assert re.search(rf"\(docs/{script.stem}\.md\)", (ROOT / "README.md").read_text())
    page = (ROOT / "docs" / f"{script.stem}.md").read_text()
    assert f"(../{script.name})" in page and f"docs/{script.stem}.md" in script.read_text()
    known = {
        f.name for path in (script, ROOT / "benchmark" / "results.py") for f in dataclasses.fields(arguments(path))
    }
    for name in re.findall(r"`--(?:no-)?([\w-]+)", page):
        assert name.replace("-", "_") in known, name


READ_BY_SHARED_MODULES = {"paper", "probe_share"}  # of the scripts' own flags


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "guided_utils" / "settings.py"], ids=lambda p: p.name)
def test_every_flag_is_documented_and_used(script):
    """Each script reads its own flags itself, but for two, and those that all have itself or in what all share."""
    shared = "".join(path.read_text() for path in (*(ROOT / "guided_utils").glob("*.py"), ROOT / "llm_supervisor.py"))
    (args,) = [
        node for node in ast.parse(script.read_text()).body if isinstance(node, ast.ClassDef) and "Args" in node.name
    ]
    body = [node for node in args.body if not isinstance(node, ast.Expr) or node is not args.body[0]]
    names = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    for field, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign) and isinstance(text.value.value, str), ast.unparse(field)
    for reader in [script] if script in SCRIPTS else SCRIPTS:
        for name in names:
            elsewhere = script not in SCRIPTS or name in READ_BY_SHARED_MODULES
            source = reader.read_text() + (shared if elsewhere else "")
            # "first": what settings.py reads before it knows the defaults
            assert re.search(rf"\b(args|first)\.{name}\b", source), f"--{name} is never read in {reader.name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_hyperparameter_names_are_cleanrls(script):
    names = {field.name for field in dataclasses.fields(arguments(script))}
    common = """exp_name seed torch_deterministic cuda track wandb_project_name wandb_entity capture_video save_model
                env_id total_timesteps num_envs buffer_size gamma tau batch_size learning_starts policy_lr q_lr
                policy_frequency target_network_frequency alpha autotune"""
    assert names >= set(common.split())


def test_the_luck_of_blackjacks_hands(monkeypatch, capsys):
    """The page's snippet prints what the page says of it."""
    page = (RESULTS / "discrete_notes.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(snippet, {})
    said = re.search(r"basic strategy itself, the bundled rule, returns\s+−(0\.\d+)", page)[1]
    assert round(-float(capsys.readouterr().out), len(said) - 2) == float(said)


def test_the_rule_of_the_readme_guides(run_here):
    """CartPole-v1 with the command beside it, but for its length; balancing as the rule does returns more than 100."""
    page = ROOT / "README.md"
    (rule,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (command,) = (line for line in commands(page) if "--guide-policy" in line)
    Path("my_rule.py").write_text(rule)
    script, *flags = shlex.split(command)[1:]
    run = run_here(*flags, "--total-timesteps", "700", "--eval-frequency", "0", script=ROOT / script)
    logged = scalars(run.run_name)
    assert logged["supervisor/guided_steps"][-1][1] > 300
    assert max(value for _, value in logged["charts/episodic_return"]) > 100
