"""Docstrings as background of a prompt: over all environments that come with Gymnasium."""

import ast
import re
from pathlib import Path

import gymnasium as gym
import pytest

from supervision.documentation import DOC_CHARACTERS, documentation


def docstrings() -> dict[str, str]:
    """Of all environment classes of Gymnasium's newest versions; the files are read, since not all can be imported."""
    found = {}
    for path in sorted((Path(gym.__file__).parent / "envs").glob("*/*.py")):
        if path.parent.name in ("box2d", "mujoco", "classic_control", "toy_text") and "_v4" not in path.name:
            for node in ast.walk(ast.parse(path.read_text())):
                doc = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else None
                if doc and len(doc) > 1_000:
                    found[f"{path.parent.name}/{node.name}"] = doc
    return found


DOCS = docstrings()


def section(doc: str, title: str) -> str:
    """The lines below a heading until the next one of its level, without space at their ends."""
    match = re.search(rf"^ {{0,3}}## {title}[^\n]*\n(.*?)(?=^ {{0,3}}## |\Z)", doc, flags=re.DOTALL | re.MULTILINE)
    return match[1].strip() if match else ""


def words(text: str) -> list[str]:
    """What is read: without the marks and padding of a table."""
    return re.findall(r"[^\s|:-]+", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_all_families_are_there():
    assert len(DOCS) >= 23 and {name.partition("/")[0] for name in DOCS} == {
        "box2d", "mujoco", "classic_control", "toy_text"
    }  # fmt: skip


@pytest.mark.parametrize("name", DOCS)
def test_rewards_and_endings_stay_and_what_no_rule_needs_goes(name):
    doc, kept = DOCS[name], documentation(DOCS[name])
    assert len(kept) <= DOC_CHARACTERS
    for title in ("Rewards?", "Episode (?:End|Termination|Truncation)"):
        assert section(doc, title), "a section that the test does not know"
        assert words(section(kept, title)) == words(section(doc, title))
    for gone in ("Version History", "Arguments", "Credits", "References", "Vectorized"):
        assert f"## {gone}" not in kept
    assert "{figure}" not in kept and "![" not in kept and not re.search(r"^\s*:(name|alt):", kept, flags=re.MULTILINE)
    for title in ("Description", "Action Space", "Observation Space"):
        assert section(kept, title)
        if len(doc) < DOC_CHARACTERS:
            ours = re.sub(r"!\[.*?\]\(.*?\)", "", section(doc, title))
            assert words(section(kept, title)) == words(ours)


@pytest.mark.parametrize("name", ["mujoco/AntEnv", "mujoco/HumanoidStandupEnv"])
def test_those_that_lost_them_have_them(name):
    kept = documentation(DOCS[name])
    assert "The default duration of an episode is 1000 timesteps" in kept and "The total reward is" in kept
    assert "[cut here: " in kept and kept.index("## Action Space") < kept.index("## Rewards") < kept.index(
        "### Truncation"
    )


def test_tables_lose_their_padding_and_nothing_else():
    doc = (
        "## Action Space\n| Num | Action        | Min  |\n| --- |---------------|------|\n| 0   | Torque  (Nm) | -0.4 |"
    )
    assert documentation(doc) == "## Action Space\n| Num | Action | Min |\n| --- |---|---|\n| 0 | Torque (Nm) | -0.4 |"


def test_a_docstring_of_another_kind():
    """Without headings, of headings that are underlined, with code whose comments look like headings."""
    assert documentation("Walk to the door.\n\nThe reward is 1 there.") == "Walk to the door.\n\nThe reward is 1 there."
    underlined = "A task.\n\nArguments\n---------\nsize: of it\n\nRewards\n=======\nalways 1\n"
    assert documentation(underlined) == "A task.\n\n## Rewards\nalways 1"
    code = "## Reward\n```\n# Arguments\nx = 1\n```\n## Arguments\nmany"
    assert documentation(code) == "## Reward\n```\n# Arguments\nx = 1\n```"
    assert documentation("## Arguments\nonly") == "## Arguments\nonly"


def test_what_must_be_shortened_is_shared_out():
    """100 characters of rewards stay, a short section too, and the long ones share what is left."""
    sections = {"Description": 60, "Observation Space": 2_000, "Rewards": 100, "Notes": 2_000}
    line = "0123456789 0123456\n"  # 19 characters
    doc = "\n".join(f"## {title}\n{line * (size // len(line))}" for title, size in sections.items())
    kept = documentation(doc, most=1_200)
    assert section(kept, "Rewards") == section(doc, "Rewards") and section(kept, "Description") == section(
        doc, "Description"
    )
    assert len(kept) <= 1_200
    lengths = [len(section(kept, title)) for title in ("Observation Space", "Notes")]
    assert min(lengths) > 350 and abs(lengths[0] - lengths[1]) < 40 and kept.count("[cut here: ") == 2
    assert len(documentation("prose " * 3_000)) <= DOC_CHARACTERS
