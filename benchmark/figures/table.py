"""Event files of a study's runs → one tidy table: a row for each scalar that a run logged.

Docs: docs/benchmark.md
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmark import ROOT
from benchmark.sweeps.hashing import Flag
from benchmark.sweeps.studies import Run, Study

COLUMNS = ["study", "arm", "script", "env", "seed", "step", "tag", "value", "settings", "commit", "versions"]
GUIDANCE_ACTIVE = "charts/guidance_active"
GUIDED_STEPS = "supervisor/guided_steps"  # so far, at each look at a trial and when the guided time is over
TRIAL_PASSED = "supervisor/trial_passed"  # 0 where a trial ended the rule
SAMPLED = "eval/sampled_return"
EPISODIC_RETURN = "charts/episodic_return"  # of each training episode, guided actions included
BEHAVIOUR = "behaviour/episodic_return"  # the same, thinned: see committed()
DIGITS = ".9g"  # enough for a float32
CHANGED = ("processor", "versions")  # what a run that was interrupted may have gone on with, and its last bits differ
RESUMED = "; resumed with another "  # in the column of versions
KEPT = "; kept: "  # behind it, in rows that are not of a table's own runs (kept.py)
# in the settings of one arm's runs
MAY_DIFFER = ("seed", "exp_name", "torch_num_threads", "device", "llm_base_url", "llm_log")


def places(study: Study) -> tuple[Path, Path]:
    """Where a study's tables go and where its figures go. A quick form never touches what is committed."""
    if study.quick:
        return Path("runs/quick"), Path("runs/quick")
    return ROOT / "benchmark" / "results", ROOT / "docs" / "figures"


def models_of(study: Study) -> Path:
    """Where the models of a study that is made in parts stay, beside its tables."""
    return places(study)[0] / "models" / study.name


def model_folder(study: Study, arm: str, run: Run) -> Path:
    """Where the model of one of its runs stays."""
    return models_of(study) / f"{run.env.replace('/', '_')}__{arm}__{run.seed}"


def read_events(folder: Path) -> tuple[list[tuple[int, str, float]], dict[str, str]]:
    """(step, tag, value) of every scalar below a run's folder, and its `hyperparameters` table.

    Raises:
        ValueError: there are no event files below the folder, or those of several runs.
    """
    folders = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    if len(folders) != 1:
        raise ValueError(f"{folder} must hold the event files of one run, not of {len(folders)}")
    events = EventAccumulator(str(folders.pop()), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    points = [(e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    settings = {}
    if "hyperparameters/text_summary" in events.Tags()["tensors"]:
        text = events.Tensors("hyperparameters/text_summary")[-1].tensor_proto.string_val[0].decode()
        settings = dict(line.strip("|").split("|")[:2] for line in text.splitlines()[2:])
    return points, settings


def read_sweep(study: Study, folder: Path, threads: int) -> pd.DataFrame:
    """The finished runs of a study among those that sweep.py left in folder."""
    return as_table(sweep_rows(study, folder, threads))


def sweep_rows(study: Study, folder: Path, threads: int) -> Iterator[tuple]:
    """Rows of `COLUMNS`, one for each logged scalar of each finished run."""
    for arm, run in study.runs(threads):
        if (folder / run.name).is_dir():
            record = json.loads((folder / run.name / "run.json").read_text())
            versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
            if "processor" in record:
                versions += f", on {record['processor']}"
            if changed := [what for what in CHANGED if what in record.get("resumed_with_another", ())]:
                versions += f"{RESUMED}{' and '.join(changed)}"
            for step, tag, value in read_events(folder / run.name)[0]:
                yield (study.name, arm, run.script.name, run.env, run.seed, step, tag, value, run.hash,
                       record["commit"], versions)  # fmt: skip


def read_plain(study: Study, folder: Path) -> pd.DataFrame:
    """The runs of a study that were started without sweep.py, such as by CleanRL's tools: folder is their `runs/`.

    A run belongs to the arm that its `--exp-name` names. Where a seed was run twice, the later run counts.

    Raises:
        ValueError: a run's settings are not those of the study or of the arm's other runs, or it was cut off.
    """
    return as_table(plain_rows(study, folder))


def plain_rows(study: Study, folder: Path) -> Iterator[tuple]:
    """As `sweep_rows`, with `read_plain`'s errors."""
    runs = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name.rsplit("__", 1)[-1].zfill(20)):
        match = re.fullmatch(r"(.+?)__(.+)__(\d+)__\d+", path.name)
        if match and match[1] in study.environments and match[2] in study.arms:
            env, arm, seed = match[1], match[2], int(match[3])
            if seed in study.seeds_of(arm):
                runs[env, arm, seed] = path
    first = {}  # run of an arm on an environment, with its settings
    for (env, arm, seed), path in runs.items():
        points, settings = read_events(path)
        for name, wanted in study.flags_of(arm, env).items():
            if not same(settings.get(name.replace("-", "_")), wanted):
                found = settings.get(name.replace("-", "_"), "nothing")
                raise ValueError(f"{path}: the study sets {name} = {wanted}, the run logged {found}")
        other, others = first.setdefault((env, arm), (path, settings))
        for name in sorted(settings.keys() | others.keys()):
            here, there = settings.get(name, "nothing"), others.get(name, "nothing")
            if name not in MAY_DIFFER and here != there:
                raise ValueError(f"{path} logged {name} = {here}, {other} of the same arm {there}")
        end = int(settings.get("total_timesteps", 0))
        last = max((step for step, tag, _ in points if tag == study.metric), default=0)
        if study.metric.startswith("eval/") and last < end:  # the scripts evaluate at their last step, whichever it is
            raise ValueError(f"{path} was cut off: its last {study.metric} is of step {last:,}, not of {end:,}")
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        script = study.arms[arm].script.name
        for step, tag, value in points:
            yield study.name, arm, script, env, seed, step, tag, value, digest, "unknown", "unknown"


def same(logged: str | None, wanted: Flag) -> bool:
    """Whether a run's logged setting is the study's: as text, or as a number (1 and 1.0)."""
    if logged is None or isinstance(wanted, bool | str):
        return logged == str(wanted)
    try:
        return float(logged) == wanted
    except ValueError:
        return False


def as_table(rows: Iterable[tuple]) -> pd.DataFrame:
    """A table of `COLUMNS`, in the order in which it is written."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["arm", "env", "seed", "tag", "step"], kind="stable", ignore_index=True)


def tags(study: Study) -> tuple[str, ...]:
    """What of a table is kept."""
    return study.metric, SAMPLED, GUIDANCE_ACTIVE, GUIDED_STEPS, TRIAL_PASSED, BEHAVIOUR


def committed(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """What of a table is kept: the metric, sampled evaluations, guidance and its trials, and the behaviour's return.

    The last is, at each evaluation after step 0, the mean over the run's training episodes that ended since the
    evaluation before, if any did.

    The values are those that write_table() writes, so that what is made of them is made again of the file.
    """
    kept = table[table.tag.isin(tags(study))]
    kept = as_table(itertools.chain(kept.itertuples(index=False, name=None), behaviour_rows(table, study.metric)))
    return kept.assign(value=[float(format(value, DIGITS)) for value in kept.value])


def behaviour_rows(table: pd.DataFrame, metric: str) -> Iterator[tuple]:
    """Rows of `COLUMNS`: the mean return of the training episodes up to each evaluation from the one before."""
    for _, run in table.groupby(["arm", "env", "seed"], sort=False):
        ends = np.unique(run[(run.tag == metric) & (run.step > 0)].step)
        episodes = run[run.tag == EPISODIC_RETURN]
        # an episode belongs to the first evaluation at its last step or later; those after the last one to none
        means = episodes.value.groupby(np.searchsorted(ends, episodes.step)).mean()
        constant = dict(run.iloc[0])
        for index, mean in means[means.index < len(ends)].items():
            row = constant | {"step": ends[index], "tag": BEHAVIOUR, "value": mean}
            yield tuple(row[name] for name in COLUMNS)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV (compressed when the name ends in .gz), whole or not at all."""
    compression = {"method": "gzip", "mtime": 1} if path.suffix == ".gz" else None
    part = path.with_name(path.name + ".part")
    table.to_csv(part, index=False, compression=compression, float_format=f"%{DIGITS}")
    os.replace(part, path)


def load_table(path: Path) -> pd.DataFrame:
    """A table that write_table() wrote. Names stay text: an arm may be called "1.0" or "None"."""
    text = {name: str for name in COLUMNS if name not in ("seed", "step", "value")}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"value": [""]})
