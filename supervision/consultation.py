"""The consultations of a run: advisor → coder → check, and what became of the rules."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from supervision.answers import Advice, SupervisionError, gist
from supervision.bundled import Bundled
from supervision.chat import NOT_TRIED, REFUSED, Chat, Exchange, Question
from supervision.guidance import Guidance
from supervision.questions import Questions, Seen
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.sandbox.policy import SandboxedPolicy
from supervision.texts import code_block, for_tensorboard
from supervision.trial import Trial, Verdict, dry_run

MEMORY = 8  # past consultations that the advisor is told of, each in at most 900 characters
SEEN = 1_000  # states of training on which a rule is tried before it acts
MOST_ENDS = 2  # trials that may end a rule that no model writes; after them it is not tried again


@dataclass
class Known:
    """A rule that a trial found good, to which the supervisor may return."""

    source: str
    trial: Trial  # with the episodes that it guided last; grows while it guides


@dataclass
class Decision:
    """What a consultation ended with."""

    policy: SandboxedPolicy | None
    verdict: str
    advice: str = ""
    judged: Advice | None = None  # the advisor's; None: it was not asked, or gave no usable answer
    seen: str = ""  # the learner's returns, in words


class Consultations:
    """Asks the advisor whether to intervene and the coder for a rule, checks it, and lets it guide until it is ended.

    Args:
        args: the flags of SupervisorArgs.
        guidance: in which an accepted rule acts.
        start: starts the process of a rule, given its source; PolicyError or SandboxError where that cannot be.
        tell: is told of each step of a consultation, a heading and a text.
        chat: where models are asked; None: the bundled judge decides.
        questions: what they are asked.
        bundled: the judge; None: guidance in every window.
        fixed_source: a rule that no model writes.
    """

    def __init__(
        self,
        args: Any,
        guidance: Guidance,
        start: Callable[[str], SandboxedPolicy],
        tell: Callable[[str, str], None],
        *,
        chat: Chat | None,
        questions: Questions | None,
        bundled: Bundled | None,
        fixed_source: str | None,
    ):
        self.args, self.guidance, self.start, self.tell = args, guidance, start, tell
        self.chat, self.questions, self.bundled, self.fixed_source = chat, questions, bundled, fixed_source
        self.count = 0  # consultations that are over
        self.failures = 0  # windows that went unguided because of a failure
        self.rule: SandboxedPolicy | None = None  # the last one that was accepted
        self.good: Known | None = None  # the last one that a trial found good
        self.ends = 0  # how often a trial ended the rule that no model writes
        self.asked: Question | None = None  # to the coder, with its answer, while it may be told of an end
        self.mend = ""  # why the coder's rule was ended, of which the coder is still to be told
        self.advice: Advice | None = None  # the last one
        self.history: deque[str] = deque(maxlen=MEMORY)  # what was tried lately, for the advisor
        self.verdict: Verdict | None = None  # the last look at the rule that guides, or that was ended

    # The parts that ask a model are generators: they yield the exchange that must be over before they can go on, and
    # whoever drives them blocks until then or trains.

    def hold(self, step: int, log: Any) -> Generator[Exchange, None, Decision]:
        """One consultation at a step of the run; its texts go to `log`, a run's writer."""
        decision = Decision(None, "not intervening")
        if self.guidance.policy is not None and self.verdict is not None:  # of one that was ended it was said
            self.history[-1] += f"; its trial so far: {self.verdict}"
        try:
            if not self.mend:
                self.advice = None
                self.advice = advice = yield from self._advise(step)
                said = "intervene" if advice.intervene else "do not intervene"
                text = f"{advice.analysis}\n\n{advice.advice}"
                self.tell(f"advice: {said}", text)
                log.add_text("supervisor/advice", f"**{said}**\n\n{for_tensorboard(text)}", step)
                decision.judged, decision.advice = advice, advice.advice
            if self.mend or advice.intervene:
                decision.policy, decision.verdict = yield from self._provide(step, log)
        except (SupervisionError, SandboxError) as error:
            self.failures += 1
            decision.verdict = f"unguided: {error}"
        if decision.policy is None:
            self.guidance.stop()
        self.count += 1
        return decision

    def seen(self, step: int) -> Seen:
        """What of training the models are told."""
        episodes = self.guidance.episodes
        return Seen(
            episodes.latest(guided=False), episodes.latest(guided=True), list(episodes.finished), self.verdict,
            self.args.total_timesteps, updated=step > self.args.learning_starts,
        )  # fmt: skip

    def _ask(self, question: Question) -> Generator[Exchange, None, str]:
        if len(question.messages) > 2:
            self.tell(f"to the {question.role}", question.messages[-1]["content"])
        exchange = self.chat.ask(question)
        yield exchange
        answer = self.chat.finish(exchange)
        self.tell(f"the {question.role} answers", answer)
        return answer

    def _advise(self, step: int) -> Generator[Exchange, None, Advice]:
        has_rule = self.rule is not None
        if self.args.advisor_always:
            return Advice("No judgement (--advisor-always).", True, keep_current_policy=has_rule)
        if self.chat is None:
            if self.bundled is None:
                return Advice("Guidance in every window (--guide-policy).", True, keep_current_policy=has_rule)
            return self.bundled.advise(self.guidance.episodes.unguided_returns, has_rule)
        source = self.rule.source if has_rule else None
        question = self.questions.advisor(step, self.seen(step), self.history, self.count, source)
        for may_repair in (True, False):
            answer = yield from self._ask(question)
            try:
                advice = self.chat.advice_in(answer, has_rule)
                break
            except SupervisionError as error:
                self.chat.note("verdict", f"{REFUSED}{error}")
                if not may_repair:
                    raise
                reply = f"{error}. Answer again, with one JSON object as described and nothing else."
                question = question.answered(answer, reply)
        self.chat.note("verdict", "intervene" if advice.intervene else "do not intervene")
        advice.analysis, advice.advice = self.chat.clean(advice.analysis), self.chat.clean(advice.advice)
        advice.keep_current_policy &= has_rule
        return advice

    def _provide(self, step: int, log: Any) -> Generator[Exchange, None, tuple[SandboxedPolicy | None, str]]:
        """The rule for the window: the current one, a fixed one, or a coder's; None and why where there is none."""
        if not self.mend and self.advice.keep_current_policy and self.rule is not None:
            self.guidance.begin(self.rule, self.guidance.trial)
            return self.rule, "guiding, with the rule as before"
        if self.ends == MOST_ENDS:
            return None, f"unguided: {MOST_ENDS} trials ended the rule"
        mending, question = bool(self.mend), self._question(step)
        stretches, feedback = self.guidance.episodes.latest(guided=False), ""
        obs = [row for s in stretches for row in s.obs][-SEEN:]
        t = [s.start + i for s in stretches for i in range(len(s.obs))][-SEEN:]
        for _ in range(self.args.coder_attempts if question else 1):
            answer = (yield from self._ask(question)) if question else ""
            try:
                rule = self.start(self.chat.code_in(answer) if question else self.fixed_source)
                dry_run(rule, obs, t)
            except SandboxError as error:  # no business of the coder's: it costs the window and no attempt
                self.note_failure(question, f"{NOT_TRIED}{error}")
                raise
            except PolicyError as error:
                feedback = str(error)
                self.note_failure(question, f"{REFUSED}{feedback}" if question else feedback)
                if question:
                    question = question.answered(answer, f"This answer was refused. Mend it. The reason:\n{feedback}")
                continue
            self.tell("code that passed its check", rule.source)
            if question:
                self.chat.note("verdict", "guiding")
                self.asked = None if mending else question.answered(answer, "")  # it is told once
            log.add_text("supervisor/code", code_block(rule.source), step)
            before = self.good.trial.guided if self.good else ()
            self._begin(rule, Trial(self.args.trial_pairs, deque(before)))
            return rule, "guiding"
        self.failures += 1
        return None, f"unguided: {feedback}"

    def _question(self, step: int) -> Question | None:
        """The one to the coder; None where a rule is given."""
        asked, mend, self.asked, self.mend = self.asked, self.mend, None, ""
        if self.fixed_source is not None:
            return None
        if mend:
            turns = [*asked.messages[:-1], {"role": "user", "content": f"{mend}. Write another rule."}]
            return replace(asked, messages=turns, step=step)
        return self.questions.coder(step, self.advice.advice, self.seen(step), self.rule.source if self.rule else None)

    def _begin(self, rule: SandboxedPolicy, trial: Trial) -> None:
        """A rule guides from here on; the one before it is closed."""
        if self.rule is not None:
            self.rule.close()
        self.rule, self.verdict = rule, None
        self.guidance.begin(rule, trial)

    def close_rule(self) -> None:
        """The rule ends, in the middle of a window or for good."""
        self.guidance.stop()
        if self.rule is not None:
            self.rule.close()
        self.rule = None

    def judged(self, verdict: Verdict, step: int) -> str:
        """Act on a look at the trial: the rule goes on, or it ends and the last good one takes its place.

        Returns:
            What is to be said; "" where it goes on.
        """
        rule, trial, self.verdict = self.rule, self.guidance.trial, verdict
        if verdict.passed:
            if trial.good:
                self.good = Known(rule.source, trial)
            return ""
        text = verdict.ending
        self.history[-1] += f"; at step {step} {text}"
        if self.chat is not None and self.fixed_source is None:
            self.chat.note("trial", text)
        self.close_rule()
        self.ends += self.fixed_source is not None
        known, self.good = self.good, None
        if known is not None and known.source != rule.source:
            try:
                self._begin(self.start(known.source), known.trial)  # which goes on: it is not examined anew
                self.good, self.asked = known, None  # what was asked was of the rule that was ended
                return f"{text}; the last good rule guides again"
            except (PolicyError, SandboxError) as error:
                return f"{text}; the last good rule cannot be started again: {error}"
        if self.asked is not None:
            self.mend = text
        return text

    def failed(self, error: PolicyError, step: int) -> None:
        """The rule failed while it acted; the rest of the window goes unguided."""
        self.failures += 1
        self.history[-1] += f"; at step {step} the rule failed: {gist(str(error))}"
        self.note_failure(None, f"at step {step}: {error}")
        self.close_rule()

    def note_failure(self, question: Question | None, text: str) -> None:
        """Put down that a rule failed: beside the coder's answer, a fixed or kept one beside the last exchange."""
        if question:
            self.chat.note("verdict", text)
        elif self.chat is not None and self.chat.record:
            self.chat.note("rule_failed", text)
