"""Studies: TOML files that say which runs are compared, read strictly.

Docs: docs/benchmark.md
"""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import ROOT
from benchmark.sweeps.hashing import RULE, Flag, code_hash

GUIDE_DURATION = "guide-duration"  # no flag of a script: in a study it stands for guide-end = guide-start + duration


class StudyError(ValueError):
    """A study that cannot be run: which file, what is wrong, what is accepted."""


@dataclass(frozen=True)
class Run:
    """One process, and everything that decides what it computes."""

    script: Path
    env: str
    seed: int
    flags: dict[str, Flag]
    threads: int
    code: str  # code_hash() when the sweep was begun

    @property
    def arguments(self) -> list[str]:
        """The command line behind the script's name."""
        arguments = [f"--env-id={self.env}", f"--seed={self.seed}"]
        for name, value in self.flags.items():
            if isinstance(value, bool):
                arguments.append(f"--{name}" if value else f"--no-{name}")
            elif name == RULE:
                arguments.append(f"--{name}={self.script.parent / value}")
            else:
                arguments.append(f"--{name}={value}")
        return arguments

    @property
    def settings(self) -> dict:
        """What the hash is taken of."""
        return {
            "script": self.script.name, "env": self.env, "seed": self.seed, "flags": self.flags,
            "threads": self.threads, "code": self.code,
        }  # fmt: skip

    @property
    def hash(self) -> str:
        """Twelve digits that tell it from every run with other settings or other code."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.env.replace('/', '_')}__{self.script.stem}__{self.seed}__{self.hash}"


@dataclass(frozen=True)
class Arm:
    """One of the things that a study compares."""

    script: Path
    flags: dict[str, Flag]
    point: dict[str, Flag] = field(default_factory=dict)  # its values on the axes of a grid, where it comes from one
    seeds: list[int] | None = None  # its own; None: the study's


@dataclass(frozen=True)
class Study:
    """What a study's file says, checked."""

    name: str
    environments: list[str]
    seeds: list[int]
    arms: dict[str, Arm]
    metric: str
    thresholds: dict[str, tuple[float, ...]]  # by environment; there may be none
    quick: bool
    by_environment: dict[str, dict[str, Flag]] = field(default_factory=dict)  # flags that go over the arms' there

    def flags_of(self, arm: str, env: str) -> dict[str, Flag]:
        """The flags of an arm on an environment, whose own go first."""
        return self.arms[arm].flags | self.by_environment.get(env, {})

    def seeds_of(self, arm: str) -> list[int]:
        """The arm's own seeds, or else the study's."""
        own = self.arms[arm].seeds
        return self.seeds if own is None else own

    def runs(self, threads: int) -> Iterator[tuple[str, Run]]:
        """Every run with its arm's name, seed by seed, so that an interrupted sweep leaves all arms alike.

        Arms may share a run: it has one hash, is run once, and counts for each of them.
        """
        code = {
            (env, name): code_hash(self.arms[name].script, env, self.flags_of(name, env))
            for env in self.environments for name in self.arms
        }  # fmt: skip
        for index in range(max(len(self.seeds_of(name)) for name in self.arms)):
            for env, name in code:
                arm, seeds = self.arms[name], self.seeds_of(name)
                if index < len(seeds):
                    flags = self.flags_of(name, env)
                    yield name, Run(arm.script, env, seeds[index], flags, threads, code[env, name])


def load_study(path: Path, quick: bool = False) -> Study:
    """Read a study.

    Args:
        quick: take the seeds of `[quick]` for all arms, its flags over all others, and its grid's values for an axis.

    Raises:
        StudyError: the file cannot be read, or does not say what a study must say.
    """

    def fail(message: str) -> None:
        raise StudyError(f"{path}: {message}")

    def table(value: object, where: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for key in value:
            if key not in required + optional:
                fail(f"unknown key {key!r} in {where}; known are {', '.join(required + optional)}")
        for key in required:
            if key not in value:
                fail(f"{where} lacks {key!r}")
        return value

    def items(value: object, where: str, kind: type, what: str) -> list:
        if not isinstance(value, list) or not value or not all(type(item) is kind for item in value):
            fail(f"{where} must be a list of one or more {what}, not {value!r}")
        if len(set(value)) < len(value):
            fail(f"{where} names one twice: {value}")
        return value

    def whole_numbers(value: object, where: str) -> list[int]:
        if min(items(value, where, int, "whole numbers")) < 0:
            fail(f"{where} must be 0 or more: {value}")
        return value

    def dashed(value: dict, where: str) -> dict:
        names = {name.replace("_", "-"): setting for name, setting in value.items()}
        if len(names) < len(value):
            fail(f"{where} sets a flag in both spellings, with '-' and with '_': {', '.join(value)}")
        return names

    def flags(value: object, where: str) -> dict[str, Flag]:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for name, setting in value.items():
            if name.replace("_", "-") in ("env-id", "seed"):
                fail(f"{where} sets {name!r}, which comes from 'environments' and 'seeds'")
            if not isinstance(setting, Flag):
                fail(f"{where}: {name!r} must be a string, a number or true/false, not {setting!r}")
        return dashed(value, where)

    def axes(value: object, where: str) -> dict[str, list[Flag]]:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for name, values in value.items():
            if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
                fail(f"{where}: {name!r} must be a list of one or more values, each once, not {values!r}")
            for setting in values:
                flags({name: setting}, where)
        return dashed(value, where)

    def with_end(settings: dict[str, Flag], where: str) -> dict[str, Flag]:
        if GUIDE_DURATION not in settings:
            return settings
        if "guide-end" in settings:
            fail(f"{where}: {GUIDE_DURATION} and 'guide-end' say the same thing: give one of the two")
        start, duration = settings.get("guide-start"), settings[GUIDE_DURATION]
        if type(start) is not int or type(duration) is not int:
            fail(f"{where}: {GUIDE_DURATION} needs 'guide-start' beside it, both whole numbers")
        rest = {name: setting for name, setting in settings.items() if name != GUIDE_DURATION}
        return rest | {"guide-end": start + duration}

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as TOML: {error}") from None
    table(data, "the study", ("environments", "seeds", "arms"),
          ("metric", "threshold", "flags", "flags_by_environment", "quick"))  # fmt: skip
    environments = items(data["environments"], "'environments'", str, "Gymnasium ids")
    seeds = whole_numbers(data["seeds"], "'seeds'")
    shortening, short_axes = {}, {}
    if quick:
        if "quick" not in data:
            fail("has no [quick] table, so no quick form")
        form = table(data["quick"], "[quick]", ("seeds", "flags"), ("grid",))
        seeds = whole_numbers(form["seeds"], "[quick] seeds")
        shortening = flags(form["flags"], "[quick] flags")
        short_axes = axes(form.get("grid", {}), "[quick] grid")
    common = flags(data.get("flags", {}), "[flags]")
    own = data.get("flags_by_environment", {})
    by_environment = {}
    for env, settings in table(own, "[flags_by_environment]", optional=tuple(environments)).items():
        where = f"[flags_by_environment.{env}]"
        settings = flags(settings, where)
        for name in (RULE, GUIDE_DURATION):
            if name in settings:
                fail(f"{where} sets {name!r}, which only arms can")
        by_environment[env] = {name: shortening.get(name, value) for name, value in settings.items()}
    if not isinstance(data["arms"], dict) or not data["arms"]:
        fail("[arms] must hold at least one [arms.NAME] table")
    arms, known_axes = {}, set()
    for name, arm in data["arms"].items():
        table(arm, f"[arms.{name}]", ("script",), ("flags", "grid", "seeds"))
        script = ROOT / str(arm["script"])
        if not script.is_file():
            fail(f"[arms.{name}] names the script {arm['script']!r}: no such file")
        if script.suffix != ".py":
            fail(f"[arms.{name}] names the script {arm['script']!r}: it must be a .py file")
        own_seeds = whole_numbers(arm["seeds"], f"[arms.{name}] seeds") if "seeds" in arm else None
        fixed = common | flags(arm.get("flags", {}), f"[arms.{name}] flags") | shortening
        grid = axes(arm.get("grid", {}), f"[arms.{name}] grid")
        known_axes |= grid.keys()
        grid = {axis: short_axes.get(axis, values) for axis, values in grid.items()}
        for values in itertools.product(*grid.values()):  # without a grid: once, at no point
            point = dict(zip(grid, values, strict=True))
            label = " ".join([name, *(f"{axis}={value}" for axis, value in point.items())])
            if label in arms:
                fail(f"two arms are called {label!r}")
            arms[label] = Arm(script, with_end(fixed | point, f"[arms.{name}]"), point, None if quick else own_seeds)
            rule = arms[label].flags.get(RULE)
            if rule is not None and not (script.parent / str(rule)).is_file():
                fail(f"[arms.{name}] names the rule {rule!r}: no such file")
    for axis in short_axes:
        if axis not in known_axes:
            fail(f"[quick] grid has values for {axis!r}, which is in no arm's grid")
    for env, settings in by_environment.items():
        for axis in sorted(known_axes & settings.keys()):  # all points of the grid would be one there
            fail(f"[flags_by_environment.{env}] sets {axis!r}, which is an axis of a grid")
    threshold = data.get("threshold", {})
    if not isinstance(threshold, dict):
        threshold = dict.fromkeys(environments, threshold)
    thresholds = {}
    for env, value in threshold.items():
        if env not in environments:
            fail(f"'threshold' names {env!r}, which is not in 'environments'")
        thresholds[env] = tuple(value) if isinstance(value, list) else (value,)
        for one in thresholds[env]:
            if type(one) not in (int, float) or not math.isfinite(one):
                fail(f"'threshold' must be a finite number or a list of such, not {value!r}")
    metric = data.get("metric", "eval/episodic_return")
    if not isinstance(metric, str):
        fail(f"'metric' must be a TensorBoard tag, not {metric!r}")
    return Study(path.stem, environments, seeds, arms, metric, thresholds, quick, by_environment)
