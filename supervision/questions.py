"""What the models of a run are asked: the filled prompt files, what training showed, what was tried."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from supervision.chat import Question
from supervision.effects import measured_effects
from supervision.episodes import Finished, Stretch
from supervision.pictures import jpeg_bytes
from supervision.prompts import ADVISOR_HEADINGS, CODER_HEADINGS, facts_of, fill, read_prompt
from supervision.sandbox.messages import Observation
from supervision.tables import (
    FEWEST_ROWS,
    MOST_ROWS,
    ROW_CHARS,
    Columns,
    comparison,
    heading,
    mean_text,
    picture_steps,
    row_length,
    table,
)
from supervision.trial import Verdict

PICTURES, GUIDED_PICTURES = 8, 3  # for the advisor: in all, and of them guided where there are any
LISTED = 12  # episodes whose returns are told one by one


@dataclass
class Seen:
    """What of training the models are told at a consultation."""

    unguided: list[Stretch]  # the latest last
    guided: list[Stretch]
    finished: list[Finished] = field(default_factory=list)  # lately, the latest last
    verdict: Verdict | None = None  # the last look of the trial at the present or the last rule
    total_steps: int = 0  # of the run
    updated: bool = True  # whether the policy was updated since the last consultation


class Questions:
    """Makes the questions of a run.

    Args:
        args: the flags of SupervisorArgs.
        folder: where advisor.md and coder.md are.
        values: what their placeholders stand for, but for those of `facts_of`, which the first question fills.
        observation: how a rule is given observations.

    Raises:
        ValueError: a prompt file is missing or malformed.
    """

    def __init__(self, args: Any, folder: Path, values: dict[str, str], observation: Observation):
        self.args, self.values, self.observation = args, values, observation
        headings = {"advisor": ADVISOR_HEADINGS, "coder": CODER_HEADINGS}
        self.prompts = {role: read_prompt(folder / f"{role}.md", wanted, values) for role, wanted in headings.items()}
        self.hashes = {role: hashlib.sha256((folder / f"{role}.md").read_bytes()).hexdigest() for role in headings}
        self.facts: dict[str, str] = {}  # of `facts_of`, and the effects of random actions; a checkpoint keeps them

    def advisor(
        self, step: int, seen: Seen, history: Collection[str], consultations: int, rule: str | None
    ) -> Question:
        """Whether to intervene.

        Args:
            history: what was tried at the last of so many consultations, and what it did.
            rule: source of the present one.
        """
        parts = [self._time(step, seen), self._returns(seen, consultations), *self._steps(seen), self._effects(seen)]
        past = "What was tried before: nothing yet."
        if history:
            past = f"What was tried before ({consultations} consultations so far, the last of them):\n"
            past += "\n".join(history)
        parts.append(past)
        if rule is not None:
            parts.append(f"The current guidance policy:\n```python\n{rule}\n```")
        question = self._question("advisor", step, seen, parts)
        question.pictures = self._pictures(seen)
        return question

    def coder(self, step: int, advice: str, seen: Seen, rule: str | None) -> Question:
        """For a rule that follows the advice.

        Args:
            rule: source of the present one, which the advice may build on.
        """
        parts = [f"The advisor says:\n{advice}"]
        if rule is not None:
            parts.append(f"The current rule, of which the advisor may speak:\n```python\n{rule}\n```")
        return self._question("coder", step, seen, [*parts, *self._steps(seen), self._effects(seen)])

    def _question(self, role: Literal["advisor", "coder"], step: int, seen: Seen, parts: list[str]) -> Question:
        facts = facts_of([*seen.unguided, *seen.guided], self.observation) | self.facts
        if seen.unguided or seen.guided:
            self.facts = facts
        model = self.args.advisor_model if role == "advisor" else self.args.coder_model
        system = fill(self.prompts[role], self.values | facts)
        text = "\n\n".join(part for part in parts if part)
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return Question(role, model, step, self.hashes[role], turns)

    def _time(self, step: int, seen: Seen) -> str:
        end = min(self.args.guide_end, seen.total_steps)
        window = max(min(self.args.guide_window, end - step), 0)
        return (
            f"Training step {step:,} of {seen.total_steps:,}. Guidance may go on until step {end:,}; your decision "
            f"holds for the next {window:,} steps."
        )

    def _returns(self, seen: Seen, consultations: int) -> str:
        lines = []
        if seen.unguided and not seen.updated and seen.unguided[-1].uniform_steps == len(seen.unguided[-1]):
            lines.append("The agent has learned nothing yet: its own actions are uniformly random so far.")
        elif consultations and not seen.updated:
            lines.append(
                "The policy is the same as at the last consultation: it was not updated since. Where its returns "
                "differ from those told then, that is chance."
            )
        lines.append(
            "Unguided episodes of training (the agent alone, its actions sampled, or uniformly random where it says "
            "so), the latest last, as return, steps, end: " + "; ".join(map(_listed, seen.unguided[-LISTED:]))
            if seen.unguided
            else "Unguided episodes of training: none lately."
        )
        # where probes are cut, the mean of those that ended alone is of what is quickly over: failures, or successes
        whole = [s for s in seen.unguided if s.whole]
        cut = [s for s in seen.unguided if not s.start and s.end == "cut"]
        means = [(whole, "whole episodes"), (cut, "episodes that were cut before their end, until there")]
        told = [f"of {name}: {_mean_of(stretches)}" for stretches, name in means if stretches]
        lines.append(f"Unguided return {'; '.join(told)}." if told else "")
        lines.append(comparison(seen.unguided, seen.guided))
        if seen.verdict is not None:
            judged = "passed so far" if seen.verdict.passed else "failed, and was ended"
            lines.append(f"The trial of the last rule {judged}: {seen.verdict}.")
        if seen.finished:
            told = [f"{f.behaviour} {f.episode_return:.4g} ({f.length:,})" for f in seen.finished[-LISTED:]]
            lines.append(f"Last training episodes of any kind, as behaviour, return (steps): {'; '.join(told)}.")
        return "\n".join(line for line in lines if line)

    def _steps(self, seen: Seen) -> list[str]:
        """Tables of steps: unguided ones, and a shorter one of guided ones."""
        known = [s for s in [*seen.unguided, *seen.guided] if len(s.obs)]
        if not known:
            return []
        columns = Columns([obs for s in known for obs in [*s.obs, s.next_obs[-1]]], self.observation)
        parts = ["Consecutive steps of training; obs is what was seen before the action, t the step of the episode."]
        parts[0] = f"{parts[0]} {columns.left_out}".strip()
        left = ROW_CHARS
        for stretch, pictures in self._shown(seen):
            if stretch.guided:
                left = ROW_CHARS // 2
            elif left <= 0:
                continue
            row = row_length(stretch, columns)
            # the first one leaves space for another
            rows = int(np.clip(0.6 * left // row if pictures else left // row, FEWEST_ROWS, MOST_ROWS))
            parts.append(f"{heading(stretch)}:\n{table(stretch, columns, rows, pictures)}")
            left -= min(rows, len(stretch.obs)) * row + 150
        return parts

    def _shown(self, seen: Seen) -> list[tuple[Stretch, int]]:
        """Stretches whose steps are shown as far as there is space, and how many pictures of each.

        Of each kind the one that was filmed, the first of environment 0 since the last consultation, then the latest;
        of unguided ones others behind it.
        """
        guided = self._order(seen.guided)[:1]
        pictures = PICTURES - GUIDED_PICTURES * bool(guided)
        unguided = self._order(seen.unguided)[:LISTED]
        return [(s, 0 if i else pictures) for i, s in enumerate(unguided)] + [(s, GUIDED_PICTURES) for s in guided]

    @staticmethod
    def _order(stretches: list[Stretch]) -> list[Stretch]:
        known = [s for s in reversed(stretches) if len(s.obs)]
        return sorted(known, key=lambda s: not s.chosen)

    def _effects(self, seen: Seen) -> str:
        text, uniform = measured_effects(seen.unguided, self.observation)
        if uniform:
            self.facts["effects"] = text
        return self.facts.get("effects") or text

    def _pictures(self, seen: Seen) -> list[tuple[str, bytes]]:
        """Pictures of steps that the tables show."""
        pictures = []
        for stretch, most in self._shown(seen):
            kind = "guided" if stretch.guided else "unguided"
            for step in picture_steps(stretch, most) if most else []:
                if step in stretch.frame_steps:
                    frame = stretch.frames[stretch.frame_steps.index(step)]
                    pictures.append((f"{kind} t={step}", jpeg_bytes(frame)))
        return pictures


def _mean_of(stretches: list[Stretch]) -> str:
    returns, steps = [sum(s.rewards) for s in stretches], [len(s) for s in stretches]
    return f"{mean_text(returns)}, over {np.mean(steps):,.4g} steps on average"


def _listed(stretch: Stretch) -> str:
    begun = f" (from its step {stretch.start} on)" if stretch.start else ""
    random = ""
    if n := stretch.uniform_steps:
        random = ", random" if n == len(stretch) else f", random until step {stretch.start + n}"
    return f"{sum(stretch.rewards):.4g}, {len(stretch):,}, {stretch.end or 'goes on'}{begun}{random}"
