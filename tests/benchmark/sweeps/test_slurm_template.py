"""benchmark/sweeps/cpu.slurm_template: filled in by CleanRL's utility, it runs a study's runs."""

import subprocess
from pathlib import Path

from conftest import ROOT


def filled(**changes: str) -> str:
    """The template as CleanRL's utility fills it in."""
    text = (ROOT / "benchmark" / "sweeps" / "cpu.slurm_template").read_text()
    values = dict(array="0", env_ids="(E-v0)", seeds="(5)", len_seeds="1", ntasks="1", nodes="", cpus_per_gpu="1")
    for name, value in (values | changes).items():
        assert f"{{{{{name}}}}}" in text
        text = text.replace(f"{{{{{name}}}}}", value)
    assert "{{" not in text
    return text


def test_a_job_that_ran_out_of_time_is_requeued_and_goes_on():
    """The run ends with 143: the job asks to be requeued; then its log names the run, which is resumed."""
    job = "SLURM_ARRAY_TASK_ID=0 SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=7 SLURM_JOB_NAME=j\n"
    job += "scontrol() { echo scontrol $@; }\n"
    text = filled(command="python s.py --exp-name 'my run'")
    log = Path("slurm/logs/j_7.out")
    log.parent.mkdir(parents=True)
    for status, said in ((143, "scontrol requeue 7\n"), (0, ""), (1, "")):
        script = f"srun() {{ printf '<%s>' \"$@\"; echo; return {status}; }}\n{job}{text}"
        log.write_text("     machine: cpu with 1 threads, no run yet\n")
        first = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert first.stdout == f"<python><s.py><--exp-name><my run><--env-id><E-v0><--seed><5>\n{said}"
        log.write_text(
            "     machine: cpu with 1 threads, logging to runs/E-v0__s__5__1\nlogging to runs/E-v0__s__5__2\n"
        )
        second = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert second.stdout == f"<python><s.py><--resume><runs/E-v0__s__5__2>\n{said}"
        assert first.returncode == second.returncode == status and not first.stderr and not second.stderr


def test_slurm_template_runs_each_environment_and_seed():
    """Filled in as CleanRL's utility does it, the array's tasks are the product of environments and seeds."""
    text = filled(array="0-3%2", env_ids="(E-v0 F-v0)", seeds="(5 6)", len_seeds="2", command="python s.py --x 1")
    commands = []
    for task in range(4):
        script = f"srun() {{ echo $OMP_NUM_THREADS $@; }}\nSLURM_ARRAY_TASK_ID={task} SLURM_CPUS_PER_TASK=1\n{text}"
        commands.append(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert commands == [f"1 python s.py --x 1 --env-id {env} --seed {seed}\n" for env in ("E-v0", "F-v0")
                        for seed in (5, 6)]  # fmt: skip
