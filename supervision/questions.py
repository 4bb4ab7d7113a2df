"""What the models of a run are asked: the filled prompt files, the replay in words and pictures, what was tried."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from supervision.chat import Question
from supervision.pictures import jpeg_bytes
from supervision.prompts import ADVISOR_HEADINGS, CODER_HEADINGS, load_prompt
from supervision.replay import Replay
from supervision.sandbox.messages import Observation

PICTURES = 8  # of a replay, at most, for the advisor


class Questions:
    """Makes the questions of a run.

    Args:
        args: the flags of SupervisorArgs.
        folder: where advisor.md and coder.md are.
        values: what their placeholders stand for.
        observation: how a rule is given observations.

    Raises:
        ValueError: a prompt file is missing or malformed.
    """

    def __init__(self, args: Any, folder: Path, values: dict[str, str], observation: Observation):
        self.args, self.observation = args, observation
        headings = {"advisor": ADVISOR_HEADINGS, "coder": CODER_HEADINGS}
        self.prompts = {role: load_prompt(folder / f"{role}.md", wanted, values) for role, wanted in headings.items()}
        self.hashes = {role: hashlib.sha256((folder / f"{role}.md").read_bytes()).hexdigest() for role in headings}

    def advisor(
        self,
        step: int,
        replay: Replay,
        recent_returns: Sequence[float],
        history: Collection[str],
        consultations: int,
        rule: str | None,
    ) -> Question:
        """Whether to intervene.

        Args:
            recent_returns: of the last training episodes.
            history: what was tried at the last of so many consultations.
            rule: source of the present one.
        """
        past = "nothing yet"
        if history:
            past = f"{consultations} consultations so far, the last of them:\n" + "\n".join(history)
        text = (
            f"Training step {step}; guidance may go on until step {self.args.guide_end}; your decision holds "
            f"for {self.args.guide_window} steps.\n\nReplay of the current policy, greedy and without guidance: "
            f"{summary(replay)}.\n{table(replay, self.observation)}\n\n"
            f"Returns of the last training episodes: {np.round(recent_returns, 3).tolist() or 'none yet'}.\n\n"
            f"What was tried before: {past}"
        )
        if rule is not None:
            text += f"\n\nThe current guidance policy:\n```python\n{rule}\n```"
        question = self._question("advisor", step, text)
        shown = np.unique(np.linspace(0, len(replay.frames) - 1, PICTURES).astype(int)) if replay.frames else []
        question.pictures = [(replay.frame_steps[i], jpeg_bytes(replay.frames[i])) for i in shown]
        return question

    def coder(self, step: int, advice: str, replay: Replay) -> Question:
        """For a rule that follows the advice."""
        text = f"The advisor says:\n{advice}\n\nStates of the replay:\n{table(replay, self.observation)}"
        return self._question("coder", step, text)

    def _question(self, role: Literal["advisor", "coder"], step: int, text: str) -> Question:
        model = self.args.advisor_model if role == "advisor" else self.args.coder_model
        turns = [{"role": "system", "content": self.prompts[role]}, {"role": "user", "content": text}]
        return Question(role, model, step, self.hashes[role], turns)


def summary(replay: Replay, shown: int = 20) -> str:
    """Returns and lengths of a replay's episodes, of the first few only where there are many."""
    text = f"returns {np.round(replay.returns[:shown], 3).tolist()}, lengths {replay.lengths[:shown]}"
    if len(replay.returns) <= shown:
        return text
    error = np.std(replay.returns, ddof=1) / len(replay.returns) ** 0.5
    return (
        f"mean return {np.mean(replay.returns):.4g} (standard error {error:.2g}) over {len(replay.returns)} episodes; "
        f"the first {shown}: {text}"
    )


def table(replay: Replay, observation: Observation, rows: int = 24) -> str:
    """Evenly sampled steps of a replay as text, with the environment's own observations."""
    picked = np.unique(np.linspace(0, len(replay.rewards) - 1, rows).astype(int))

    def text(value: np.ndarray | np.integer | int | tuple[int, ...]) -> str:
        if isinstance(value, np.ndarray):
            return np.array2string(value, precision=3, suppress_small=True, max_line_width=10_000)
        return str(value)

    return "\n".join(
        f"t={replay.steps[i]} obs={text(observation.own(replay.obs[i]))} action={text(replay.actions[i])} "
        f"reward={replay.rewards[i]:.3g}"
        for i in picked
    )
