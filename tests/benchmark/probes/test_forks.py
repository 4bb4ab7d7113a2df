"""Forks of a real run: which checkpoints stay, what is measured, and that nothing is run twice."""

import pandas as pd

from benchmark.probes import forks


def test_a_fork_is_measured_beside_the_run_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(forks, "PAUSE", 0.5)
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return [2.0]\n")
    args = forks.Args(
        folder=tmp_path / "forks", csv=tmp_path / "forks.csv", env_id="Pendulum-v1", seed=3, total_timesteps=70,
        every=40, steps=20, base_flags="--learning-starts 10 --batch-size 8 --max-episode-steps 10",
        flags=f"--guide-policy {tmp_path / 'rule.py'} --supervisor bundled --probe-share 0.5", name="push", episodes=2,
    )  # fmt: skip
    forks.main(args)
    table = pd.read_csv(args.csv)
    assert table[["fork", "step"]].drop_duplicates().values.tolist() == [[40, 60]]
    assert table.arm.tolist() == ["push", "unguided"] * 2 and table.actions.tolist() == ["greedy"] * 2 + ["sampled"] * 2
    assert (table.steps == 10).all() and table.episodic_return.between(-170, 0).all()
    assert table.episodic_return.nunique() == 4  # guided steps made it another policy
    kept = sorted(path.name for path in (tmp_path / "forks" / "base").rglob("step_*.pt"))
    assert {"step_000000040.pt", "step_000000060.pt"} <= set(kept) and "step_000000020.pt" in kept

    def never(*_):
        raise AssertionError("it was run before")

    monkeypatch.setattr(forks, "run", never)
    forks.main(args)  # measured again: the same numbers, and no row twice
    pd.testing.assert_frame_equal(pd.read_csv(args.csv), table)
