"""Which environments of other packages train here? Each is trained for a few hundred steps, in several ways.

    python -m benchmark.probes.environments

It makes two virtual environments in `--folder` (some GB, from a package registry): one with this project's own mujoco,
and a second one with mujoco 3.3, since gymnasium-robotics and dm_control need that. Then, for each environment:

- the coder's first question (`show-prompt`), whose code template is the rule of the next run
- a guided script under that rule for half of its steps, unguided for the rest (`--guide-policy`)
- the same script without supervisor, and rnd_sac.py

The table goes to `--table`. Exit status 1 where something ends otherwise than it says here.

Docs: docs/compatibility.md
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

from benchmark import ROOT

PACKAGES = {  # of the two virtual environments, beside requirements.txt
    "mujoco 4": ("gymnasium[box2d,mujoco]", "pyflyt", "panda-gym", "minigrid", "highway-env"),
    "mujoco 3.3": ("mujoco<3.4", "gymnasium-robotics", "shimmy[dm-control]", "metaworld"),
}
SHOWN = {  # packages whose versions stand above the table
    "mujoco 4": ("gymnasium", "mujoco", "box2d", "pyflyt", "pybullet", "panda-gym", "minigrid", "highway-env", "numpy"),
    "mujoco 3.3": ("gymnasium", "mujoco", "gymnasium-robotics", "shimmy", "dm-control", "metaworld", "numpy"),
}
CONTINUOUS, DISCRETE = "guided_sac_continuous.py", "guided_sac_discrete.py"
SECONDS = 600.0  # for a run


@dataclass
class Case:
    """An environment.

    Args:
        refused: words of the line with which it is refused; "": it trains.
        limits: what to know of it.
    """

    env_id: str
    script: str = CONTINUOUS
    env_kwargs: dict = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    refused: str = ""
    limits: str = ""


SMALL = ("--buffer-size", "5000")
NO_CNN = "no convolutional network: give a small `--buffer-size`"
NUMPY = "installs numpy 1.26: `pip install --upgrade numpy` after it"
RENDERER = "pictures need `MUJOCO_GL=egl` or `osmesa`"
SPARSE = "sparse reward: SAC alone hardly learns"
MUJOCO = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
          "Pusher", "Reacher", "Swimmer", "Walker2d")  # fmt: skip
CASES = {
    "mujoco 4": (
        *(Case(f"{name}-v5") for name in MUJOCO),
        Case("BipedalWalker-v3"),
        Case("LunarLander-v3", env_kwargs={"continuous": True}),
        Case("LunarLander-v3", DISCRETE),
        Case("CarRacing-v3", flags=SMALL, limits=NO_CNN),
        Case("CarRacing-v3", DISCRETE, {"continuous": False}, SMALL, limits=NO_CNN),
        Case("PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v4", limits=NUMPY),
        Case("PyFlyt.gym_envs:PyFlyt/QuadX-Pole-Balance-v4", limits=NUMPY),
        Case("PyFlyt.gym_envs:PyFlyt/Rocket-Landing-v4", limits=NUMPY),
        Case("PyFlyt.gym_envs:PyFlyt/QuadX-Waypoints-v4", refused="its part ['target_deltas'] is Sequence(",
             limits="a list of waypoints has no fixed length: register it within PyFlyt's FlattenWaypointEnv"),
        Case("panda_gym:PandaReach-v3", limits=SPARSE),
        Case("panda_gym:PandaReachDense-v3"),
        Case("panda_gym:PandaPickAndPlace-v3", limits=SPARSE),
        Case("highway_env:parking-v0"),
        Case("highway_env:racetrack-v0"),
        Case("highway_env:highway-fast-v0", DISCRETE),
        Case("minigrid:MiniGrid-Empty-5x5-v0", DISCRETE, refused="its part ['mission'] is MissionSpace(",
             limits="a mission in words has no fixed length: see the next row"),
        Case("benchmark.probes.flat_minigrid:FlatMiniGrid-v0", DISCRETE, {"grid": "MiniGrid-Empty-5x5-v0"},
             limits="without its mission: `benchmark/probes/flat_minigrid.py`"),
    ),
    "mujoco 3.3": (
        Case("gymnasium_robotics:FetchReach-v4", limits=SPARSE),
        Case("gymnasium_robotics:FetchPush-v4", limits=SPARSE),
        Case("gymnasium_robotics:HandReach-v3", limits=SPARSE),
        Case("gymnasium_robotics:PointMaze_UMaze-v3", limits="rewards 0 and 1, no end at the goal"),
        Case("gymnasium_robotics:AntMaze_UMaze-v5"),
        Case("gymnasium_robotics:AdroitHandDoor-v1"),
        Case("gymnasium_robotics:FrankaKitchen-v1", limits="reward only where a task is done"),
        Case("shimmy:dm_control/cartpole-swingup-v0", limits=RENDERER),
        Case("shimmy:dm_control/cheetah-run-v0", limits=RENDERER),
        Case("shimmy:dm_control/humanoid-walk-v0", limits=RENDERER),
        Case("metaworld:Meta-World/MT1", env_kwargs={"env_name": "reach-v3"}, limits="brings statistics of its own"),
        Case("metaworld:Meta-World/MT1", env_kwargs={"env_name": "push-v3"}, limits="the same"),
    ),
}  # fmt: skip


@dataclass
class Args:
    folder: str = "runs/environments"
    """where the virtual environments and the runs go; what is installed there is used again"""
    table: str = "benchmark/results/environments.md"
    """the file for the table"""
    only: str = ""
    """words of the ids to be run, whose rows are printed and not written; empty: all"""
    steps: int = 300
    """environment steps of a run, ≥ 2"""
    jobs: int = 2
    """environments that are tried side by side, ≥ 1"""


def install(folder: Path, packages: Sequence[str]) -> Path:
    """Make a virtual environment with requirements.txt and these packages; returns its interpreter."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "-r", ROOT / "requirements.txt", *packages], check=True)
        subprocess.run([*command, "--upgrade", "numpy>=2"], check=True)  # PyFlyt asks for an older one: rules need this
        (folder / "installed").touch()
    return python


def versions(python: Path, packages: Sequence[str]) -> str:
    """What is installed of these packages, in words."""
    code = "import sys, importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    return subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout.strip()


def call(python: Path, folder: Path, script: str, *flags: str) -> tuple[int, str, str]:
    """A script's process, on one thread: exit status, output, errors. All is kept in the folder's `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_BASE_URL"):
        environment.pop(name, None)
    command = [str(python), "-W", "ignore", str(ROOT / script), *flags]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
        status, out, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        status, out, errors = 124, "", f"still running after {SECONDS:.0f} s"
    with open(folder / "log", "a", encoding="utf-8") as log:
        log.write(f"$ {script} {' '.join(flags)}\n{out}{errors}[{status}]\n\n")
    return status, out, errors


def last_line(text: str) -> str:
    """The last line of what was said, where anything was."""
    return (text.strip().splitlines() or ["nothing was said"])[-1][:200]


def try_one(python: Path, case: Case, steps: int, folder: Path) -> tuple[list[str], bool]:
    """A row of the table, and whether all is as the case says."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"`{case.env_id}`" + (f" `{json.dumps(case.env_kwargs)}`" if case.env_kwargs else "")
    cells, as_said = tried(partial(call, python, folder), case, steps, folder)
    return [name, case.script.removeprefix("guided_sac_").removesuffix(".py"), *cells, case.limits], as_said


def tried(run: Callable[..., tuple[int, str, str]], case: Case, steps: int, folder: Path) -> tuple[list[str], bool]:
    """The cells of the table between name and limits, and whether all is as the case says."""
    of = ["--env-id", case.env_id, "--env-kwargs", json.dumps(case.env_kwargs)]
    status, shown, errors = run("llm_supervisor.py", "show-prompt", *of, "--role", "coder")
    if status != 0:
        line = last_line(errors)
        refused = bool(case.refused) and case.refused in line and "Traceback" not in errors
        return ["–", "refused in a line" if refused else f"**the prompt fails: {line}**", "–"], refused
    given = re.search(r"obs is (?:a \w+ NumPy array of shape (\([\d, ]*\))|(.*?))(?:[:,.]| from )", shown)
    observed = (given[1] or given[2]) + (", flattened" if ", flattened: " in shown else "")
    undrawn = re.search(r"no pictures.*?: (.*)", errors)
    rule = re.search(r"## Code template\n+```python\n(.*?)```", shown, re.DOTALL)[1]
    (folder / "rule.py").write_text(rule, encoding="utf-8")
    brief = ["--total-timesteps", str(steps), "--learning-starts", str(steps // 3), "--batch-size", "32", *case.flags]
    guided = ["--guide-policy", "rule.py", "--advisor-always", "--guide-end", str(steps // 2)]
    runs = {
        "without supervisor": run(case.script, *of, *brief, "--supervisor", "none"),
        "guided": run(case.script, *of, *brief, *guided),
        "RND": run("rnd_sac.py", *of, *brief),
    }
    failed = [f"**{which}: {last_line(errors or out)}**" for which, (status, out, errors) in runs.items()
              if status != 0 or f"step {steps:,}/{steps:,} " not in out]  # fmt: skip
    drawn = "yes" if undrawn is None else "no" if case.limits else f"no: {undrawn[1]}"
    return [observed, "; ".join(failed) or "yes", drawn], not failed and not case.refused


HEADER = ("environment", "script", "observations", "trains", "pictures", "known limits")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown."""
    lines = [HEADER, ["-"] * len(HEADER), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def main(args: Args) -> int:
    """Make the environments, try each case and write the table; 1 where something is not as the cases say."""
    folder, parts, wrong = Path(args.folder).resolve(), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for kind, cases in CASES.items():
        print(f"a virtual environment with {kind}: {', '.join(PACKAGES[kind])}", flush=True)
        python = install(folder / kind.replace(" ", "-"), PACKAGES[kind])
        runs = Path(tempfile.mkdtemp(prefix="runs-", dir=folder))
        chosen = [case for case in cases if args.only in case.env_id]
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [pool.submit(try_one, python, case, args.steps, runs / str(i)) for i, case in enumerate(chosen)]
            rows = []
            for job in jobs:
                row, as_said = job.result()
                rows.append(row)
                wrong += not as_said
                print(f"{'' if as_said else 'WRONG: '}{' | '.join(row)}", flush=True)
        parts.append(f"With {versions(python, SHOWN[kind])}:\n\n{table(rows)}")
    if not args.only:
        part = Path(f"{args.table}.part")
        part.write_text("\n".join(parts), encoding="utf-8")
        os.replace(part, args.table)
        print(f"the table is in {args.table}")
    print(f"what the runs said is in {folder}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
