"""benchmark/sweeps/cpu.slurm_template: filled in by CleanRL's utility, it runs a study's runs."""

import subprocess

from conftest import ROOT


def test_slurm_template_runs_each_environment_and_seed():
    """Filled in as CleanRL's utility does it, the array's tasks are the product of environments and seeds."""
    text = (ROOT / "benchmark" / "sweeps" / "cpu.slurm_template").read_text()
    for name, value in dict(array="0-3%2", env_ids="(E-v0 F-v0)", seeds="(5 6)", len_seeds="2", ntasks="1", nodes="",
                            cpus_per_gpu="1", command="python s.py --x 1").items():  # fmt: skip
        assert f"{{{{{name}}}}}" in text
        text = text.replace(f"{{{{{name}}}}}", value)
    assert "{{" not in text
    commands = []
    for task in range(4):
        script = f"srun() {{ echo $OMP_NUM_THREADS $@; }}\nSLURM_ARRAY_TASK_ID={task} SLURM_CPUS_PER_TASK=1\n{text}"
        commands.append(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert commands == [f"1 python s.py --x 1 --env-id {env} --seed {seed}\n" for env in ("E-v0", "F-v0")
                        for seed in (5, 6)]  # fmt: skip
