"""Remedies from the literature that guided_sac_discrete.py does not have, each as a change of a few of its lines.

    python -m benchmark.probes.remedies                             # the changed scripts, into runs/remedies/
    python -m benchmark.results benchmark/probes/remedies.toml --runs runs/remedies/sweep

They are what the built-in ones were chosen over. A changed script lies in a folder of its own beside links to what it
imports, so that it takes the same flags and can be read, run and compared as the original.

Docs: docs/guided_sac_discrete.md, benchmark/results/discrete_notes.md
"""

import os
from pathlib import Path

from benchmark import ROOT
from benchmark.sweeps.hashing import modules

SCRIPT = ROOT / "guided_sac_discrete.py"

GAP = "    gap = q.logsumexp(dim=2) - q.gather(2, actions.expand(2, -1)[..., None]).squeeze(2)  # (2, B)\n"
GATE = "                mixed, substituted = intervene(learned, guidance_actions, args.guide_probability)\n"
EPISODE_STEPS = "    episode_steps = np.zeros(args.num_envs, dtype=np.int64)\n"
SAMPLE = "            data = rb.sample(args.batch_size)\n"
LOG_SOFTMAX = "        return super().forward(obs)[0].log_softmax(dim=1)\n"
ACTOR = "        super().__init__(envs, networks=1, outputs=int(envs.single_action_space.n))\n"
ACTOR_LOSS = "            loss = -expected_soft_value(q, log_pi, log_alpha.detach().exp())[s].mean()\n"

# by the folder's name: old lines, and those in their place
REMEDIES: dict[str, dict[str, str]] = {
    # DQfD's large margin (Hester et al. 2018, Eq. 2, m = 0.8) in place of the conservative term's log-sum-exp
    "margin": {
        GAP: "    best = (q + 0.8 * (1 - F.one_hot(actions, q.shape[2]))).amax(dim=2)\n"
        "    gap = best - q.gather(2, actions.expand(2, -1)[..., None]).squeeze(2)  # (2, B)\n"
    },
    # the rule has every second episode, by chance, and not every second step
    "episode_gate": {
        EPISODE_STEPS: EPISODE_STEPS + "    gate = 1.0\n",
        GATE: "                gate = float(torch.rand(()) < 0.5) if episode_steps[0] == 0 else gate\n"
        "                mixed, substituted = intervene(learned, guidance_actions, gate)\n",
    },
    # RLPD's symmetric sampling (Ball et al. 2023): half of each batch from the guided transitions
    "symmetric_sampling": {
        SAMPLE: "            rows = torch.randint(len(rb), (args.batch_size,))\n"
        "            demonstrated = guided_rows.nonzero().flatten()\n"
        "            if len(demonstrated):\n"
        "                half = torch.randint(len(demonstrated), (args.batch_size // 2,))\n"
        "                rows[: len(half)] = demonstrated[half]\n"
        "            data = rb.take(rows)\n"
    },
    # the actor's outputs within ±5, so that no action is less probable than another by more than e⁻¹⁰
    "logit_bound": {LOG_SOFTMAX: "        return torch.tanh(super().forward(obs)[0]).mul(5).log_softmax(dim=1)\n"},
    # an actor that begins with the uniform policy
    "uniform_actor": {
        ACTOR: ACTOR + "        nn.init.zeros_(self.weights[2])\n        nn.init.zeros_(self.biases[2])\n",
    },
    # AWAC's actor (Nair et al. 2020, Eq. 13, λ = 1): the executed actions by their advantage, instead of Eq. 9
    "advantage_weighted": {
        ACTOR_LOSS: "            taken = data.actions - first_action\n"
        "            value = expected_soft_value(q, log_pi.detach(), log_alpha.detach().exp())\n"
        "            advantage = torch.minimum(*q)[s, taken] - value[s]  # (B,)\n"
        "            loss = -(advantage.exp().clamp_max(20) * log_pi[s, taken]).mean()\n"
    },
}


def changed(name: str) -> str:
    """The script with a remedy; ValueError where the lines that it changes are not, each once, in the script."""
    text = SCRIPT.read_text(encoding="utf-8")
    for old, new in REMEDIES[name].items():
        if text.count(old) != 1:
            raise ValueError(f"{SCRIPT.name} does not have these lines of {name} once:\n{old}")
        text = text.replace(old, new)
    return text


def write(name: str, folder: Path) -> Path:
    """Write a changed script into folder, with links to what it needs beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    imported = {module.path.relative_to(ROOT).parts[0] for module in modules(SCRIPT)}
    for other in {*imported, "prompts"} - {SCRIPT.name}:
        link = folder / other
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(ROOT / other, folder))
    path = folder / SCRIPT.name
    path.write_text(changed(name), encoding="utf-8")
    return path


if __name__ == "__main__":
    for name in REMEDIES:
        print(write(name, ROOT / "runs" / "remedies" / name).relative_to(ROOT))
