"""The supervisor of GuidedSAC: what training shows → advisor → coder → check → guidance policy → trial.

A training script knows four things about it:

    supervisor = Supervisor(args, ...)               # once
    guidance = supervisor.consult(step, writer)      # when a guided window is over; None: do not intervene
    a_g, mask = guidance(obs, t)                     # inside the window; t = steps of the episodes, mask = who is guided
    supervisor.observe(step, ..., writer)            # after each step: what advisor and trial see

It takes no step of its own: all that it learns from are training's own steps (docs/supervisor.md). What it is made of
is in supervision/, one subject a file. As a program this is the tools for writing prompts and for watching a run
(`python llm_supervisor.py --help`).

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control", section 3.3 and C.
"""

import runpy
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from supervision.answers import Advice, SupervisionError, gist
from supervision.arguments import SupervisorArgs, check_args, warn_of_late_learning
from supervision.bundled import Bundled, read_rule
from supervision.chat import NOT_TRIED, REFUSED, Chat, Exchange, Question, RecordedChat
from supervision.endpoint import ChatModel, a_server_is_named
from supervision.episodes import Stretch
from supervision.guidance import Guidance
from supervision.prompts import PromptFolder, describe_env, rule_spaces
from supervision.questions import Questions
from supervision.replay import GreedyVideos, record_video
from supervision.sandbox.confinement import check_model_rules, check_platform
from supervision.sandbox.messages import CPU_BUDGET, PolicyError, SandboxError
from supervision.sandbox.policy import SandboxedPolicy, check_start
from supervision.state import Deferred, Known, Interrupted, load_state, state_of
from supervision.texts import code_block, for_console, for_tensorboard, say, tolerate_any_terminal
from supervision.trial import Trial, Verdict, dry_run
from supervision.workbench import run_command

__all__ = ["GreedyVideos", "PolicyError", "Supervisor", "SupervisorArgs", "record_video"]  # what scripts import

SEEN = 1_000  # states of training on which a rule is tried before it acts
MEMORY = 8  # past consultations that the advisor is told of, each in at most 900 characters


@dataclass
class Decision:
    """What a consultation ended with."""

    policy: SandboxedPolicy | None
    verdict: str
    advice: str = ""


class Supervisor:
    """Decides, window by window, whether a rule guides the agent, and provides the rule.

    Args:
        args: a script's arguments (SupervisorArgs and env_id, seed, learning_starts, total_timesteps).
        envs: the training environments, before their first reset. Observations are arrays: a Box's, or the integers
            (k,) of which a discrete observation consists. The first one may be replaced by one that can be drawn.
        env_fn: makes an environment like the first training one, of the given render mode ("rgb_array" or None).
        run_dir: the run's folder; `replays/` and `llm/` are made in it.
        env_kwargs_given: whether `--env-kwargs` differs from the environment's default. `prompts/<env-id>`, rule and
            threshold included, then describes another task and is used only where `--prompt-dir` names it.
        tell: is told of each step of a consultation, a heading and a text.
        interrupted: whether the run is to end: no answer is waited for then.
    """

    def __init__(
        self,
        args: Any,
        envs: gym.vector.SyncVectorEnv,
        *,
        env_fn: Callable[[str | None], gym.Env],
        run_dir: str | Path,
        env_kwargs_given: bool = False,
        tell: Callable[[str, str], None] = lambda heading, text: None,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self.args, self.envs, self.env_fn, self.tell = args, envs, env_fn, tell
        self.run_dir, self.interrupted = Path(run_dir), interrupted
        self.folder = PromptFolder(args.env_id, args.prompt_dir, env_kwargs_given)
        self.seconds = 0.0  # wall time that supervision took
        self.ended = False
        self.failures = 0  # windows that went unguided because of a failure
        self.policy: SandboxedPolicy | None = None  # the last rule that was accepted
        self.good: Known | None = None  # the last rule that a trial found good
        self.ends = 0  # how often a trial ended the rule that no model writes
        self.begin_again = False  # whether `consult` is to be called before the window is over
        self.unseen = False  # whether an unguided stretch is over since the last consultation
        self.asked: Question | None = None  # to the coder, with its answer: the rule that is on trial
        self.mend = ""  # why the coder's rule was ended, of which the coder is still to be told
        self.saved: dict[str, Any] | None = None  # the state before a consultation that was interrupted
        self.advice: Advice | None = None  # the last one
        self.consultations = 0
        self.history: deque[str] = deque(maxlen=MEMORY)  # what was tried lately, for the advisor
        self.chat: Chat | None = None  # where models are asked
        self.consultation: Generator[Exchange, None, Decision] | None = None  # the one that is going on
        self.exchange: Exchange | None = None  # for which it waits

    def prepare(self) -> None:
        """Choose who supervises and check all that it needs, so that a mistake is found before the run begins.

        Raises:
            ValueError: a setting is out of range, a key or file is missing or malformed, or a fixed rule (bundled or
                `--guide-policy`) fails its check or a call on an observation of a reset.
        """
        args = self.args
        check_args(args)
        self.mode, reason = self._choose()
        self.description = f"{self.mode} ({reason})"
        if self.mode == "none":
            return
        if not 0 <= args.guide_start < args.guide_end:
            raise ValueError(
                f"--guide-start {args.guide_start} must lie before --guide-end {args.guide_end}, and not below 0; "
                "without any guidance it is --supervisor none"
            )
        check_platform(strict=args.sandbox == "strict")
        if self.mode in ("llm", "replay") and not args.guide_policy:
            check_model_rules(args.sandbox)
        tolerate_any_terminal()  # a server's words may be in any script, a terminal's may not
        env = self.env_fn(None)
        try:
            self.observation, self.action = rule_spaces(env)
            self.bundled: Bundled | None = None  # the judge where no model is asked; None: guidance in every window
            if self.mode in ("llm", "replay"):
                self.load_questions(env)
                self.description += f"; {self.folder.taken}"
                log_dir = self.run_dir / "llm"
                self.chat = RecordedChat(Path(args.llm_log), log_dir) if args.llm_log else ChatModel(args, log_dir)
            elif not args.guide_policy and not args.advisor_always:
                self.bundled = Bundled.read(self.folder.bundled("bundled.toml"))
            fixed = args.guide_policy or (self.folder.bundled("bundled_policy.py") if self.mode == "bundled" else None)
            self.fixed_source = None if fixed is None else read_rule(Path(fixed))
            check_start(strict=args.sandbox == "strict")
            if self.fixed_source is not None:
                self._try_fixed(env)
            if self.chat is not None:
                self.chat.open()
        except SandboxError as error:
            raise ValueError(str(error)) from None
        finally:
            env.close()
        always = args.advisor_always
        pairs, share = (0, 0.0) if always else (args.trial_pairs, args.probe_share)
        self.guidance = Guidance(self.envs.num_envs, self.action, args.guide_window, pairs, share)
        warn_of_late_learning(args)

    def load_questions(self, env: gym.Env) -> None:
        """Read the prompt files and fill them with the environment's facts; raises ValueError as `prepare`."""
        observation, action = rule_spaces(env)
        folder = self.folder.for_prompts(action)
        self.questions = Questions(self.args, folder, describe_env(env, self.args.env_id), observation)

    def _choose(self) -> tuple[str, str]:
        args = self.args
        if args.supervisor != "auto":
            return args.supervisor, "--supervisor"
        if a_server_is_named(args):
            return "llm", "auto: a key or base URL is set"
        if args.guide_policy:
            return "bundled", "auto: no key or base URL is set; a rule of your own"
        if self.folder.has_rule:
            return "bundled", "auto: no key or base URL is set, and the environment has a bundled rule"
        why = self.folder.passed_over or f"{self.folder.path} has no bundled rule"
        raise ValueError(
            f"nobody can supervise {args.env_id}: no key or base URL is set and {why}. "
            "Four ways out: set OPENAI_API_KEY (or --llm-base-url); give a rule of your own with --guide-policy FILE; "
            f"put bundled_policy.py and bundled.toml into {self.folder.path}; or train plain SAC with --supervisor none"
        )

    def _try_fixed(self, env: gym.Env) -> None:
        """Start a fixed rule and call it once; states of training it meets at the first consultation."""
        obs, _ = env.reset(seed=self.args.seed)
        try:
            dry_run(self.start(self.fixed_source), [np.asarray(obs)], [0]).close()
        except PolicyError as error:
            name = self.args.guide_policy or self.folder.path / "bundled_policy.py"
            raise ValueError(f"the guidance policy {name} fails: {error}") from None

    def start(self, source: str) -> SandboxedPolicy:
        """Check a rule statically and start its process.

        Raises:
            PolicyError: the rule is at fault.
            SandboxError: its process could not be started.
        """
        # a rule that was in time in the recorded run may take longer on this machine
        repeated = {"call_timeout": 10.0, "start_timeout": 60.0}
        deadlines = repeated if self.mode == "replay" else {"cpu_budget": CPU_BUDGET}
        return SandboxedPolicy(
            source, observation=self.observation, action=self.action, seed=self.args.seed,
            strict=self.args.sandbox == "strict", warn_when_slow=self.fixed_source is not None, **deadlines,
        )  # fmt: skip

    @property
    def waiting(self) -> bool:
        """Whether `consult` is to be called again although the window is not over: for the first unguided steps, for a
        model's answer (--llm-async), or because the rule was ended and its coder is to mend it."""
        return self.consultation is not None or self.begin_again

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint (supervision/state.py)."""
        return self.saved or state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, after `prepare`."""
        load_state(self, state)

    def consult(self, global_step: int, writer: SummaryWriter) -> Guidance | None:
        """Decide about the next window.

        Training's random numbers are left as they were.

        Returns:
            What guides the window, or None: do not intervene, or not yet (`waiting`). No failure of a model, a server
            or a rule leaves this method; it is printed, logged and answered with None.
        """
        if self.mode == "none" or global_step < self.args.guide_start:  # of a fork that is not there yet
            return None
        self.ended = False
        if self.exchange is not None and not self.exchange.over:
            return None
        if self.chat is not None and self.chat.closed:
            self.begin_again = False
            self.guidance.stop()
            return None
        if not (self.consultation or self.mend or self._has_seen_enough()):
            # nothing new can be said: the decision stands; before the first one the learner goes on alone
            self.begin_again = self.consultations == 0
            return self.guiding
        started, before, log = time.time(), state_of(self), Deferred()
        self.begin_again = False
        if self.consultation is None:
            self.consultation = self._consultation(global_step)
        self.now, self.log = global_step, log
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.args.seed + global_step)
                decision = self._advance()
        except Interrupted:  # as if it had not begun; what was answered is on record and not asked again
            self.saved = before
            return None
        self.seconds += time.time() - started
        if decision is not None:
            self._report(decision, log)
        else:
            self.guidance.stop()  # the window begins when the answer is there
        log.add_scalar("charts/guidance_active", float(self.guiding is not None), global_step)
        log.write_to(writer)
        return self.guiding

    @property
    def guiding(self) -> Guidance | None:
        """The guidance where a rule acts, else None."""
        return self.guidance if self.mode != "none" and self.guidance.policy is not None else None

    def _has_seen_enough(self) -> bool:
        """Whether the learner's own behaviour was seen since the last consultation; a fixed rule that nobody judges
        needs none of it."""
        if self.args.advisor_always and (self.fixed_source is not None or self.policy is not None):
            return True
        going_on = self.guidance.episodes.present
        long = any(s is not None and not s.guided and len(s) >= self.args.guide_window // 10 for s in going_on)
        return self.unseen or long

    def _advance(self) -> Decision | None:
        """Go on with the consultation until it is decided, or with --llm-async until it has asked a question."""
        try:
            while True:
                self.exchange = next(self.consultation)
                if self.chat.asynchronous:
                    return None
                if not self.exchange.wait(self.interrupted):
                    raise Interrupted
        except StopIteration as finished:
            self.consultation = self.exchange = None
            return finished.value

    def _report(self, decision: Decision, writer: SummaryWriter) -> None:
        episodes = self.guidance.episodes
        returns = [f"{sum(s.rewards):.4g}" for s in episodes.latest(guided=False) if s.whole][-3:]
        seen = f"unguided returns {', '.join(returns)}" if returns else "no unguided episode is over yet"
        verdict, advice = decision.verdict, f"; advice: {gist(decision.advice)}" if decision.advice else ""
        self.history.append(f"step {self.now}: {seen}{advice}; {gist(verdict)}")
        self.consultations += 1
        say(f"step {self.now:,}: supervisor: {seen}; {verdict}")
        writer.add_text("supervisor/verdict", for_tensorboard(verdict), self.now)
        scalars = {"supervisor/failures": self.failures, "supervisor/seconds": self.seconds}
        if self.chat is not None:
            scalars |= self.chat.scalars()
            if self.chat.closed:
                say(f"supervisor: no model is asked any more in this run: {self.chat.closed}")
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, self.now)
        self.unseen = False

    def observe(
        self,
        global_step: int,
        obs: np.ndarray,
        t: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_obs: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
        writer: SummaryWriter,
    ) -> None:
        """Take in a step of training, arrays (N, …): what advisor and trial see. A trial may end the rule here.

        Args:
            global_step: of the run, behind the step.
            t: steps of the episodes, before the step.
            actions: as executed.
            next_obs: the true successors.
        """
        if self.mode == "none" or self.ended:
            return
        before = global_step - self.envs.num_envs
        if self.guidance.failure is not None:
            self._report_failure(before, writer)
        seen = self.guidance.episodes.over
        verdict = self.guidance.follow(
            before, before < self.args.learning_starts, obs, t, actions, rewards, next_obs, terminations, truncations
        )
        self.unseen |= self.guidance.episodes.over > seen
        if verdict is not None:
            self._judge(verdict, global_step, writer)

    def _judge(self, verdict: Verdict, global_step: int, writer: SummaryWriter) -> None:
        """Act on a look at the trial: the rule goes on, or it ends and the last good one takes its place."""
        writer.add_scalar("supervisor/trial_guided_return", verdict.guided, global_step)
        writer.add_scalar("supervisor/trial_unguided_return", verdict.other, global_step)
        rule, trial = self.policy, self.guidance.trial
        if verdict.passed:
            if trial.good:
                self.good = Known(rule.source, trial.guided)
            return
        text = f"the rule made the behaviour worse: {verdict}"
        self.history[-1] += f"; ended at step {global_step}: {text}"
        self._drop_rule(global_step, writer)
        self.ends += self.fixed_source is not None
        known, self.good = self.good, None
        if self.chat is not None and self.asked is not None:
            self.chat.note("trial", text)
        if known is not None and known.source != rule.source:
            try:
                self._begin(self.start(known.source), Trial(self.args.trial_pairs))
                text += "; the last good rule guides again"
            except (PolicyError, SandboxError) as error:
                text += f"; the last good rule cannot be started again: {error}"
        elif self.asked is not None and global_step < self.args.guide_end:
            self.mend, self.begin_again = text, True
        say(f"step {global_step:,}: supervisor: {text}")
        writer.add_text("supervisor/verdict", for_tensorboard(text), global_step)

    def _begin(self, policy: SandboxedPolicy, trial: Trial) -> None:
        """A rule guides from here on; the one before it is closed."""
        if self.policy is not None and self.policy is not policy:
            self.policy.close()
        self.policy = policy
        self.guidance.begin(policy, trial)

    def _drop_rule(self, global_step: int, writer: SummaryWriter) -> None:
        """The rule ends in the middle of a window."""
        self.guidance.stop()
        if self.policy is not None:
            self.policy.close()
        self.policy = None
        writer.add_scalar("charts/guidance_active", 0.0, global_step)

    def _report_failure(self, global_step: int, writer: SummaryWriter) -> None:
        """Say that the rule failed while training; the rest of the window goes unguided."""
        error, self.guidance.failure = self.guidance.failure, None
        self.failures += 1
        self.history[-1] += f"; at step {global_step} the rule failed: {gist(str(error))}"
        self._note_failure(None, f"at step {global_step}: {error}")
        say(f"step {global_step:,}: supervisor: the rule failed, unguided until the next window: {error}")
        writer.add_text("supervisor/verdict", for_tensorboard(f"the rule failed: {error}"), global_step)
        writer.add_scalar("supervisor/failures", self.failures, global_step)
        self._drop_rule(global_step, writer)

    def end(self, global_step: int, writer: SummaryWriter) -> None:
        """The guided time is over: say what it took, stop the rule's process and close the environments.

        A run that was interrupted says nothing: it goes on.
        """
        if self.mode == "none" or self.ended:
            return
        self.ended = True
        guided, steps = self.guidance.steps - self.guidance.unguided_steps, self.guidance.steps
        self.guidance.stop()
        if not self.interrupted():
            writer.add_scalar("charts/guidance_active", 0.0, global_step)
            say(
                f"step {global_step:,}: supervisor: the guided time is over; the rule acted in {guided:,} of "
                f"{steps:,} steps; supervision took {self.seconds:.1f} s; videos and logs are in {self.run_dir}"
            )
            if self.chat is not None:
                self.chat.close(self.exchange, global_step, writer)
        self.consultation = self.exchange = None
        if self.policy is not None:
            self.policy.close()

    # The parts of a consultation that ask a model are generators: they yield the exchange that must be over before
    # they can go on, and whoever drives them blocks until then or trains.

    def _consultation(self, step: int) -> Generator[Exchange, None, Decision]:
        decision = Decision(None, "not intervening")
        try:
            if self.mend:
                advice, decision.verdict = self.advice, ""
            else:
                self.asked = None
                self.advice = advice = yield from self._advise(step)
                said = "intervene" if advice.intervene else "do not intervene"
                text = f"{advice.analysis}\n\n{advice.advice}"
                self.tell(f"advice: {said}", text)
                self.log.add_text("supervisor/advice", f"**{said}**\n\n{for_tensorboard(text)}", self.now)
            decision.advice = advice.advice
            if advice.intervene:
                decision.policy, decision.verdict = yield from self._provide(step, advice)
        except (SupervisionError, SandboxError) as error:
            self.failures += 1
            decision.verdict = f"unguided: {error}"
        if decision.policy is None:
            self.guidance.stop()
        return decision

    def _ask(self, question: Question) -> Generator[Exchange, None, str]:
        if len(question.messages) > 2:
            self.tell(f"to the {question.role}", question.messages[-1]["content"])
        exchange = self.chat.ask(question)
        yield exchange
        answer = self.chat.finish(exchange)
        self.tell(f"the {question.role} answers", answer)
        return answer

    def _advise(self, step: int) -> Generator[Exchange, None, Advice]:
        has_rule = self.policy is not None
        if self.args.advisor_always:
            return Advice("No judgement (--advisor-always).", True, keep_current_policy=has_rule)
        if self.chat is None:
            if self.bundled is None:
                return Advice("Guidance in every window (--guide-policy).", True, keep_current_policy=has_rule)
            return self.bundled.advise(self.guidance.episodes.whole_returns, has_rule)
        rule = self.policy.source if has_rule else None
        question = self.questions.advisor(step, self.seen(), self.history, self.consultations, rule)
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

    def _provide(
        self, step: int, advice: Advice
    ) -> Generator[Exchange, None, tuple[SandboxedPolicy | None, str]]:
        """The rule for the window: the current one, a fixed one, or a coder's; None and why where there is none."""
        if advice.keep_current_policy and self.policy is not None:
            self.guidance.begin(self.policy, self.guidance.trial)
            return self.policy, "guiding, with the rule as before"
        if self.ends > 1:
            return None, "unguided: two trials ended the rule"
        question = None
        if self.fixed_source is None and self.mend:
            reply = f"Your rule acted in training and was ended: {self.mend}. Write a better one, or one that does less."
            question, self.mend = self.asked.answered("", reply), ""
        elif self.fixed_source is None:
            question = self.questions.coder(step, advice.advice, self.seen(), self.policy and self.policy.source)
        self.asked, feedback = None, ""
        shown = [s for s in self.guidance.episodes.latest(guided=False)]
        obs = [row for s in shown for row in s.obs][-SEEN:]
        t = [s.start + i for s in shown for i in range(len(s.obs))][-SEEN:]
        for _ in range(self.args.coder_attempts if question else 1):
            answer = (yield from self._ask(question)) if question else ""
            try:
                source = self.chat.code_in(answer) if question else self.fixed_source
                policy = dry_run(self.start(source), obs, t)
            except SandboxError as error:  # no business of the coder's: it costs the window and no attempt
                self._note_failure(question, f"{NOT_TRIED}{error}")
                raise
            except PolicyError as error:
                feedback = str(error)
                self._note_failure(question, f"{REFUSED}{feedback}" if question else feedback)
                if question:
                    reply = f"This answer was refused. Mend it. The reason:\n{feedback}"
                    question = question.answered(answer, reply)
                continue
            self.tell("code that passed its check", policy.source)
            if question:
                self.chat.note("verdict", "guiding")
                self.asked = question.answered(answer, "")
            self.log.add_text("supervisor/code", code_block(policy.source), self.now)
            self._begin(policy, Trial(self.args.trial_pairs, self.good.guided if self.good else deque()))
            return policy, "guiding"
        self.failures += 1
        return None, f"unguided: {feedback}"

    def _note_failure(self, question: Question | None, text: str) -> None:
        """Put down that a rule failed: beside the coder's answer, a fixed or kept one beside the last exchange."""
        if question:
            self.chat.note("verdict", text)
        elif self.chat is not None and self.chat.record:
            self.chat.note("rule_failed", text)


def training_script(name: str) -> SimpleNamespace:
    """The names of a training script beside this file; it is run, since this module imports no script."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(name))))


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command (None: the command line's) and return its exit status; bad input is one line and status 1."""
    tolerate_any_terminal()
    try:
        return run_command(sys.argv[1:] if argv is None else argv, training_script, Supervisor)
    except (ValueError, OSError, ImportError, gym.error.Error) as error:
        print(f"llm_supervisor.py: error: {for_console(str(error))}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
