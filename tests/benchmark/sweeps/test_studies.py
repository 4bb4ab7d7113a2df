"""benchmark/sweeps/studies.py: studies are read strictly, and become their runs."""

import hashlib

import pytest
from conftest import ROOT
from handmade import SCRIPT, write_study

from benchmark.sweeps.studies import Arm, Run, Study, StudyError, load_study


def grid(axes: str) -> str:
    """An arm with a grid, as TOML."""
    return f'[arms.A]\nscript = "guided_sac_continuous.py"\ngrid = {axes}'


@pytest.mark.parametrize("path", sorted((ROOT / "benchmark" / "studies").glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_the_projects_studies_are_sound(path, quick):
    study = load_study(path, quick)
    # a coefficient may be chosen on the development seed alone
    assert study.seeds == [100] or all(len(study.seeds_of(arm)) >= 2 for arm in study.arms)
    hashes = [run.hash for _, run in study.runs(1)]
    assert len({*hashes}) == len(hashes)


def test_a_study_becomes_its_runs():
    """Flags of the arm go over common ones, those of the quick form over all; the command line by hand."""
    path = write_study(
        seeds="seeds = [3, 1]",
        flags="[flags]\ntotal_timesteps = 20\ngamma = 0.9\nautotune = false",
        arms='[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { gamma = 0.8, save-model = true }',
    )
    runs = list(load_study(path).runs(2))
    assert [(arm, run.seed, run.threads) for arm, run in runs] == [("A", 3, 2), ("A", 1, 2)]
    assert runs[0][1].arguments == ["--env-id=MountainCarContinuous-v0", "--seed=3", "--total-timesteps=20",
                                    "--gamma=0.8", "--no-autotune", "--save-model"]  # fmt: skip
    quick = list(load_study(path, quick=True).runs(2))
    assert [run.seed for _, run in quick] == [1, 2]
    assert "--total-timesteps=10" in quick[0][1].arguments


def test_an_arm_may_have_seeds_of_its_own():
    """First seeds first; the others' runs stay what they are; the quick form has its seeds for all."""
    arms = "\n".join(f'[arms.{name}]\nscript = "{script}.py"' for name, script in (
        ("A", "guided_sac_continuous"), ("B", "rnd_sac")))  # fmt: skip
    alike = load_study(write_study(seeds="seeds = [1, 2]", arms=arms))
    path = write_study(seeds="seeds = [1, 2]", arms=f"{arms}\nseeds = [7, 1, 9]")
    study = load_study(path)
    runs = list(study.runs(1))
    assert [(arm, run.seed) for arm, run in runs] == [("A", 1), ("B", 7), ("A", 2), ("B", 1), ("B", 9)]
    assert (study.seeds_of("A"), study.seeds_of("B")) == ([1, 2], [7, 1, 9])
    hashes = {(arm, run.seed): run.hash for arm, run in runs}
    assert all(hashes[arm, run.seed] == run.hash for arm, run in alike.runs(1) if (arm, run.seed) != ("B", 2))
    quick = load_study(path, quick=True)
    assert [(arm, run.seed) for arm, run in quick.runs(1)] == [("A", 1), ("B", 1), ("A", 2), ("B", 2)]


def test_an_environment_may_have_flags_of_its_own():
    """Over the common ones and the arm's, on its runs only; those of the quick form go over them."""
    path = write_study(
        environments='environments = ["MountainCarContinuous-v0", "Humanoid-v5"]',
        flags="[flags]\neval_episodes = 5\n[flags_by_environment.Humanoid-v5]\neval_episodes = 7\ngamma = 0.5\n"
              "total_timesteps = 30",
        arms='[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { gamma = 0.8 }',
    )  # fmt: skip
    arguments = {run.env: run.arguments[2:] for _, run in load_study(path).runs(1)}
    assert arguments == {"MountainCarContinuous-v0": ["--eval-episodes=5", "--gamma=0.8"],
                         "Humanoid-v5": ["--eval-episodes=7", "--gamma=0.5", "--total-timesteps=30"]}  # fmt: skip
    quick = {run.env: run.flags["total-timesteps"] for _, run in load_study(path, quick=True).runs(1)}
    assert quick == {"MountainCarContinuous-v0": 10, "Humanoid-v5": 10}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("threshold = 90", {"E-v0": (90,), "F-v0": (90,)}),
        ("threshold = { 'F-v0' = -13.5 }", {"F-v0": (-13.5,)}),
        ("threshold = { 'F-v0' = 0, 'E-v0' = 7.5 }", {"E-v0": (7.5,), "F-v0": (0,)}),
        ("threshold = { 'F-v0' = [0, 7.5] }", {"F-v0": (0, 7.5)}),
    ],
)
def test_a_threshold_is_for_all_environments_or_for_each(line, expected):
    path = write_study(environments="environments = ['E-v0', 'F-v0']", seeds=f"seeds = [1]\n{line}")
    assert load_study(path).thresholds == expected


def test_the_hash_of_a_run_stays():
    """What the sweeps of the past left behind is found again: the hash of these settings, by hand."""
    run = Run(SCRIPT, "E-v0", 3, {"gamma": 0.5, "autotune": False}, 1, "c0de")
    text = ('{"code": "c0de", "env": "E-v0", "flags": {"autotune": false, "gamma": 0.5}, '
            '"script": "guided_sac_continuous.py", "seed": 3, "threads": 1}')  # fmt: skip
    assert run.hash == hashlib.sha256(text.encode()).hexdigest()[:12]
    study = Study("study", ["E-v0"], [3], {"A": Arm(SCRIPT, run.flags)}, "tag", {}, quick=False)
    (found,) = (found for _, found in study.runs(1))
    assert found.settings | {"code": "c0de"} == run.settings


def test_a_grid_becomes_its_arms():
    """The product of the axes, each with its point; a duration becomes an end; the quick form has values of its own."""
    path = write_study(
        arms=grid("{ guide_start = [0, 10], guide-duration = [5, 7] }") + '\n[arms.B]\nscript = "rnd_sac.py"',
        quick="[quick]\nseeds = [1, 2]\nflags = {}\ngrid = { guide-duration = [6] }",
    )
    arms = load_study(path).arms
    found = {name: (arm.flags.get("guide-start"), arm.flags.get("guide-end")) for name, arm in arms.items()}
    assert found == {
        "A guide-start=0 guide-duration=5": (0, 5), "A guide-start=0 guide-duration=7": (0, 7),
        "A guide-start=10 guide-duration=5": (10, 15), "A guide-start=10 guide-duration=7": (10, 17), "B": (None, None),
    }  # fmt: skip
    assert arms["A guide-start=10 guide-duration=7"].point == {"guide-start": 10, "guide-duration": 7}
    assert arms["B"].point == {} and not any("guide-duration" in arm.flags for arm in arms.values())
    quick = load_study(path, quick=True).arms
    assert [arm.flags.get("guide-end") for arm in quick.values()] == [6, 16, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "seeds = ["}, "cannot be read as TOML"),
        ({"seeds": ""}, "lacks 'seeds'"),
        ({"seeds": "seeds = []"}, "one or more whole numbers, not \\[\\]"),
        ({"seeds": 'seeds = ["1"]'}, "whole numbers"),
        ({"seeds": "seeds = [1, 2, 1]"}, "names one twice"),
        ({"seeds": "seeds = [1]\nsteps = 5"}, "unknown key 'steps' in the study; known are environments, seeds"),
        ({"environments": 'environments = "E"'}, "Gymnasium ids, not 'E'"),
        ({"flags": "[flags]\nseed = 1"}, "comes from 'environments' and 'seeds'"),
        ({"flags": "[flags]\nenv_id = 'E'"}, "comes from 'environments' and 'seeds'"),
        ({"flags": "[flags]\ngamma = [1]"}, "'gamma' must be a string, a number or true/false"),
        ({"flags": "flags = 3"}, "\\[flags\\] must be a table"),
        ({"seeds": "seeds = [1, -1]"}, "'seeds' must be 0 or more: \\[1, -1\\]"),
        ({"quick": "[quick]\nseeds = [-2]\nflags = {}"}, "\\[quick\\] seeds must be 0 or more"),
        ({"flags": "[flags]\ntotal-timesteps = 20\ntotal_timesteps = 30"},
         "\\[flags\\] sets a flag in both spellings, .*: total-timesteps, total_timesteps"),
        ({"seeds": "seeds = [1]\nthreshold = 'high'"}, "finite number or a list of such, not 'high'"),
        ({"seeds": "seeds = [1]\nthreshold = nan"}, "finite number or a list of such, not nan"),
        ({"seeds": "seeds = [1]\nthreshold = -inf"}, "finite number or a list of such, not -inf"),
        ({"seeds": "seeds = [1]\nthreshold = true"}, "finite number or a list of such, not True"),
        ({"seeds": "seeds = [1]\nthreshold = { E-v0 = 1 }"}, "'threshold' names 'E-v0', which is not in 'environ"),
        ({"seeds": "seeds = [1]\nthreshold = { MountainCarContinuous-v0 = 'x' }"}, "a list of such, not 'x'"),
        ({"seeds": "seeds = [1]\nmetric = 3"}, "'metric' must be a TensorBoard tag"),
        ({"flags": "[flags_by_environment.E-v0]\ngamma = 1"},
         "unknown key 'E-v0' in \\[flags_by_environment\\]; known are MountainCarContinuous-v0"),
        ({"flags": "[flags_by_environment]\nMountainCarContinuous-v0 = 1"},
         "\\[flags_by_environment.MountainCarContinuous-v0\\] must be a table, not 1"),
        ({"flags": "[flags_by_environment.MountainCarContinuous-v0]\nguide-duration = 1"},
         "sets 'guide-duration', which only arms can"),
        ({"flags": "[flags_by_environment.MountainCarContinuous-v0]\ngamma = 1", "arms": grid("{ gamma = [0, 0.9] }")},
         "sets 'gamma', which is an axis of a grid"),
        ({"arms": ""}, "lacks 'arms'"),
        ({"arms": "[arms]"}, "at least one"),
        ({"arms": "[arms.A]"}, "\\[arms.A\\] lacks 'script'"),
        ({"arms": '[arms.A]\nscript = "nowhere.py"'}, "names the script 'nowhere.py'"),
        ({"arms": '[arms.A]\nscript = "README.md"'}, "names the script 'README.md': it must be a .py file"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nseeds = 3'},
         "\\[arms.A\\] seeds must be a list of one or more whole numbers, not 3"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nseeds = [-3]'}, "\\[arms.A\\] seeds must be 0 or"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nflag = 1'}, "unknown key 'flag' in \\[arms.A\\]"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { guide-policy = "no.py" }'},
         "names the rule 'no.py': no such file"),
        ({"quick": ""}, "no quick form"),
        ({"arms": grid("[0, 1]")}, "\\[arms.A\\] grid must be a table, not \\[0, 1\\]"),
        ({"arms": grid("{ gamma = 0.9 }")}, "'gamma' must be a list of one or more values, each once, not 0.9"),
        ({"arms": grid("{ gamma = [] }")}, "'gamma' must be a list of one or more values"),
        ({"arms": grid("{ gamma = [1, 1] }")}, "each once"),
        ({"arms": grid("{ gamma = [[1]] }")}, "'gamma' must be a string, a number or true/false"),
        ({"arms": grid("{ seed = [1, 2] }")}, "comes from 'environments' and 'seeds'"),
        ({"arms": grid("{ guide-duration = [5] }")}, "guide-duration needs 'guide-start' beside it"),
        ({"arms": grid("{ guide-start = [0], guide-duration = [0.5] }")}, "both whole numbers"),
        ({"arms": grid("{ guide-start = [0], guide-duration = [5] }") + "\nflags = { guide_end = 9 }"},
         "\\[arms.A\\]: guide-duration and 'guide-end' say the same thing"),
        ({"arms": grid("{ eval_episodes = [1], eval-episodes = [2] }")}, "\\[arms.A\\] grid sets a flag in both spell"),
        ({"arms": grid("{ gamma = [1] }") + '\n[arms."A gamma=1"]\nscript = "rnd_sac.py"'},
         "two arms are called 'A gamma=1'"),
        ({"arms": '[arms."A gamma=1"]\nscript = "rnd_sac.py"\n' + grid("{ gamma = [1] }")},
         "two arms are called 'A gamma=1'"),
        ({"arms": grid("{ gamma = [1] }"), "quick": "[quick]\nseeds = [1]\nflags = {}\ngrid = { tau = [1] }"},
         "\\[quick\\] grid has values for 'tau', which is in no arm's grid"),
    ],
)  # fmt: skip
def test_a_bad_study_is_refused_with_its_reason(changes, message):
    with pytest.raises(StudyError, match=f"^study.toml: .*{message}") as error:
        load_study(write_study(**changes), quick=True)
    assert len(str(error.value).splitlines()) == 1
