"""The supervisor of GuidedSAC: replay → advisor → coder → check → audition → guidance policy.

A training script knows three things about it:

    supervisor = Supervisor(args, ...)                      # once
    guidance = supervisor.consult(step, returns, writer)    # when a guided window is over; None: do not intervene
    a_g = guidance(obs, t)                                  # inside the window; t = step of the current episode

What it is made of is in supervision/, one subject a file. As a program this is the tools for writing prompts
and for watching a run (`python llm_supervisor.py --help`, docs/supervisor.md).

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
from supervision.arguments import SupervisorArgs, check_args
from supervision.bundled import Bundled, read_rule
from supervision.chat import NOT_TRIED, REFUSED, Chat, Exchange, Question, RecordedChat
from supervision.endpoint import ChatModel, a_server_is_named
from supervision.guidance import Guidance
from supervision.prompts import RANDOM_STEPS, PromptFolder, describe_env, rule_spaces
from supervision.questions import Questions
from supervision.replay import GreedyVideos, Recorder, Replay, record_video
from supervision.sandbox.confinement import check_model_rules, check_platform
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.sandbox.policy import check_start
from supervision.state import Deferred, Interrupted, load_state, state_of
from supervision.texts import code_block, for_console, for_tensorboard, say, tolerate_any_terminal
from supervision.trial import AuditionFailed, Auditions, dry_run, random_states
from supervision.workbench import run_command

__all__ = ["GreedyVideos", "PolicyError", "Supervisor", "SupervisorArgs", "record_video"]  # what scripts import

MEMORY = 8  # past consultations that the advisor is told of, each in at most 900 characters


@dataclass
class Decision:
    """What a consultation ended with."""

    replay: Replay
    policy: Guidance | None
    verdict: str
    advice: str = ""


class Supervisor:
    """Decides, window by window, whether a rule guides the agent, and provides the rule.

    Args:
        args: a script's arguments (SupervisorArgs and env_id, seed).
        env_fn: makes an environment like the training one, of the given render mode ("rgb_array" or None). Its
            observations are arrays: a Box's, or the integers (k,) of which a discrete observation consists.
        act: the unguided policy: observations (N, *obs) and `deterministic` to actions (N, *action); discrete ones
            are int64 (N,).
        intervene: combines the learner's actions and the rule's (N, *action), as in training.
        run_dir: the run's folder; `replays/` and `llm/` are made in it.
        env_kwargs_given: whether `--env-kwargs` differs from the environment's default. `prompts/<env-id>`, rule and
            threshold included, then describes another task and is used only where `--prompt-dir` names it.
        tell: is told of each step of a consultation, a heading and a text.
        interrupted: whether the run is to end: no answer is waited for then.
    """

    def __init__(
        self,
        args: Any,
        *,
        env_fn: Callable[[str | None], gym.Env],
        act: Callable[[np.ndarray, bool], np.ndarray],
        intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
        run_dir: str | Path,
        env_kwargs_given: bool = False,
        tell: Callable[[str, str], None] = lambda heading, text: None,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self.args, self.env_fn, self.act, self.intervene, self.tell = args, env_fn, act, intervene, tell
        self.run_dir, self.interrupted = Path(run_dir), interrupted
        self.recorder = Recorder(args, env_fn, act, self.run_dir)
        self.auditions = Auditions(args, env_fn, act, intervene)
        self.folder = PromptFolder(args.env_id, args.prompt_dir, env_kwargs_given)
        self.preparing_steps = 0  # environment steps before training
        self.seconds = 0.0  # wall time that supervision took
        self.ended = False
        self.failures = 0  # windows that went unguided because of a failure
        self.policy: Guidance | None = None  # the last rule that was accepted
        self.guidance: Guidance | None = None  # the rule that guides now
        self.begin_again = False  # of a run that goes on: whether a consultation was cut off
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
                `--guide-policy`) fails its check on states of a random rollout.
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
        self.judged = not args.advisor_always
        env = self.env_fn(None)
        try:
            self.observation, self.action = rule_spaces(env)
            if self.mode in ("llm", "replay"):
                self.load_questions(env)
                self.description += f"; {self.folder.taken}"
                log_dir = self.run_dir / "llm"
                self.chat = RecordedChat(Path(args.llm_log), log_dir) if args.llm_log else ChatModel(args, log_dir)
            elif self.judged:
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

    def load_questions(self, env: gym.Env) -> None:
        """Read the prompt files and fill them with the environment's facts; raises ValueError as `prepare`."""
        observation, action = rule_spaces(env)
        folder = self.folder.for_prompts(action)
        self.questions = Questions(self.args, folder, describe_env(env, self.args.env_id, self.args.seed), observation)
        self.preparing_steps += RANDOM_STEPS

    def _choose(self) -> tuple[str, str]:
        args = self.args
        if args.supervisor != "auto":
            return args.supervisor, "--supervisor"
        if a_server_is_named(args):
            return "llm", "auto: a key or base URL is set"
        if self.folder.has_rule:
            return "bundled", "auto: no key or base URL is set, and the environment has a bundled rule"
        if args.guide_policy and args.advisor_always:
            return "bundled", "auto: a rule of your own, without judgement"
        why = self.folder.passed_over or f"{self.folder.path} has no bundled rule"
        raise ValueError(
            f"nobody can supervise {args.env_id}: no key or base URL is set and {why}. "
            "Three ways out: set OPENAI_API_KEY (or --llm-base-url); give a rule of your own with "
            "--guide-policy FILE --advisor-always; or train plain SAC with --supervisor none"
        )

    def _try_fixed(self, env: gym.Env) -> None:
        """Try a fixed rule on the states of random episodes."""
        obs, t = random_states(env, self.args.seed)
        self.preparing_steps += len(t)
        try:
            dry_run(self.start(self.fixed_source), obs, t).close()
        except PolicyError as error:
            name = self.args.guide_policy or self.folder.path / "bundled_policy.py"
            raise ValueError(f"the guidance policy {name} fails: {error}") from None

    def start(self, source: str) -> Guidance:
        """Check a rule statically and start its process.

        Raises:
            PolicyError: the rule is at fault.
            SandboxError: its process could not be started.
        """
        return Guidance(
            source, repeated=self.mode == "replay", observation=self.observation, action=self.action,
            seed=self.args.seed, strict=self.args.sandbox == "strict", warn_when_slow=self.fixed_source is not None,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Environment steps that supervision took."""
        return self.preparing_steps + self.recorder.steps + self.auditions.steps

    @property
    def waiting(self) -> bool:
        """Whether training goes on while a consultation waits for an answer (--llm-async): call `consult` again."""
        return self.consultation is not None or self.begin_again

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint (supervision/state.py)."""
        return self.saved or state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, after `prepare`."""
        load_state(self, state)

    def consult(self, global_step: int, recent_returns: Sequence[float], writer: SummaryWriter) -> Guidance | None:
        """Decide about the next window.

        Uses environments and random numbers of its own: the training's are left as they were.

        Args:
            recent_returns: of the last training episodes, for the advisor.

        Returns:
            The rule that guides the window, or None: do not intervene, or not yet (`waiting`). No failure of a model,
            a server or a rule leaves this method; it is printed, logged and answered with None.
        """
        if global_step < self.args.guide_start:  # of a fork that is not there yet
            return None
        self.begin_again = self.ended = False
        if self.exchange is not None and not self.exchange.over:
            return None
        self.guidance = None
        if self.mode == "none" or (self.chat is not None and self.chat.closed):
            return None
        started, before, log = time.time(), state_of(self), Deferred()
        if self.consultation is None:
            self.consultation = self._consultation(global_step, recent_returns)
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
            self.guidance = decision.policy
            if self.guidance is not None:
                self.guidance.guide(global_step, self.chat.failure if self.chat else None)
        log.add_scalar("charts/guidance_active", float(self.guidance is not None), global_step)
        log.write_to(writer)
        return self.guidance

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
        mean, verdict = np.mean(decision.replay.returns), decision.verdict
        advice = f"; advice: {gist(decision.advice)}" if decision.advice else ""
        self.history.append(f"step {self.now}: greedy return {mean:.4g}{advice}; {gist(verdict)}")
        self.consultations += 1
        say(f"step {self.now:,}: supervisor: greedy return {mean:.4g}; {verdict}")
        writer.add_text("supervisor/verdict", for_tensorboard(verdict), self.now)
        scalars = {
            "charts/supervision_steps": self.steps, "supervisor/replay_return": mean,
            "supervisor/replay_length": np.mean(decision.replay.lengths), "supervisor/failures": self.failures,
            "supervisor/seconds": self.seconds,
        }  # fmt: skip
        if self.chat is not None:
            scalars |= self.chat.scalars()
            if self.chat.closed:
                say(f"supervisor: no model is asked any more in this run: {self.chat.closed}")
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, self.now)

    def report_failure(self, error: PolicyError, global_step: int, writer: SummaryWriter) -> None:
        """Say that the rule failed while training; the rest of the window goes unguided."""
        self.failures += 1
        self.policy = self.guidance = None
        self.history[-1] += f"; at step {global_step} the rule failed: {gist(str(error))}"
        self._note_failure(None, f"at step {global_step}: {error}")
        say(f"step {global_step:,}: supervisor: the rule failed, unguided until the next window: {error}")
        writer.add_text("supervisor/verdict", for_tensorboard(f"the rule failed: {error}"), global_step)
        writer.add_scalar("charts/guidance_active", 0.0, global_step)
        writer.add_scalar("supervisor/failures", self.failures, global_step)

    def end(self, global_step: int, writer: SummaryWriter) -> None:
        """The guided time is over: say what it took, stop the rule's process and close the environments.

        A run that was interrupted says nothing: it goes on.
        """
        if self.mode == "none" or self.ended:
            return
        self.ended, self.guidance = True, None
        if not self.interrupted():
            writer.add_scalar("charts/guidance_active", 0.0, global_step)
            say(
                f"step {global_step:,}: supervisor: the guided time is over; supervision took {self.steps:,} "
                f"environment steps and {self.seconds:.1f} s; replays and logs are in {self.run_dir}"
            )
            if self.chat is not None:
                self.chat.close(self.exchange, global_step, writer)
        self.consultation = self.exchange = None
        for part in (self.policy, self.recorder, self.auditions):
            if part is not None:
                part.close()

    # The parts of a consultation that ask a model are generators: they yield the exchange that must be over before
    # they can go on, and whoever drives them blocks until then or trains.

    def _consultation(self, step: int, recent_returns: Sequence[float]) -> Generator[Exchange, None, Decision]:
        decision = Decision(self.recorder.record(step, self.log), None, "not intervening")
        if self.history:
            self.history[-1] += f"; greedy return at the next consultation {np.mean(decision.replay.returns):.4g}"
        try:
            self.advice = None
            self.advice = advice = yield from self._advise(step, decision.replay, recent_returns)
            decision.advice = advice.advice
            said = "intervene" if advice.intervene else "do not intervene"
            text = f"{advice.analysis}\n\n{advice.advice}"
            self.tell(f"advice: {said}", text)
            self.log.add_text("supervisor/advice", f"**{said}**\n\n{for_tensorboard(text)}", self.now)
            if advice.intervene:
                decision.policy, decision.verdict = yield from self._provide(step, advice, decision.replay)
        except (SupervisionError, SandboxError) as error:
            self.failures += 1
            decision.verdict = f"unguided: {error}"
        return decision

    def _ask(self, question: Question) -> Generator[Exchange, None, str]:
        if len(question.messages) > 2:
            self.tell(f"to the {question.role}", question.messages[-1]["content"])
        exchange = self.chat.ask(question)
        yield exchange
        answer = self.chat.finish(exchange)
        self.tell(f"the {question.role} answers", answer)
        return answer

    def _advise(self, step: int, replay: Replay, recent_returns: Sequence[float]) -> Generator[Exchange, None, Advice]:
        if not self.judged:
            return Advice("No judgement (--advisor-always).", True, keep_current_policy=self.policy is not None)
        if self.mode == "bundled":
            return self.bundled.advise(replay.returns, has_rule=self.policy is not None)
        rule = self.policy.source if self.policy is not None else None
        question = self.questions.advisor(step, replay, recent_returns, self.history, self.consultations, rule)
        for may_repair in (True, False):
            answer = yield from self._ask(question)
            try:
                advice = self.chat.advice_in(answer, has_rule=self.policy is not None)
                break
            except SupervisionError as error:
                self.chat.note("verdict", f"{REFUSED}{error}")
                if not may_repair:
                    raise
                reply = f"{error}. Answer again, with one JSON object as described and nothing else."
                question = question.answered(answer, reply)
        self.chat.note("verdict", "intervene" if advice.intervene else "do not intervene")
        advice.analysis, advice.advice = self.chat.clean(advice.analysis), self.chat.clean(advice.advice)
        advice.keep_current_policy &= self.policy is not None
        return advice

    def _provide(
        self, step: int, advice: Advice, replay: Replay
    ) -> Generator[Exchange, None, tuple[Guidance | None, str]]:
        """The rule for the window: the current one, a fixed one, or a coder's; None and why where there is none."""
        kept = self.policy if advice.keep_current_policy else None
        question = None
        if self.fixed_source is None and kept is None:
            question = self.questions.coder(step, advice.advice, replay)
        feedback, auditions_failed = "", 0
        for _ in range(self.args.coder_attempts if question else 1):
            policy = None
            answer = (yield from self._ask(question)) if question else ""
            try:
                source = self.chat.code_in(answer) if question else self.fixed_source
                policy = kept or dry_run(self.start(source), replay.obs, replay.steps)
                if policy is not kept:
                    self.tell("code that passed its check", policy.source)
                verdict = self.auditions.hold(policy, self.now, self.log) if self.judged else "guiding, not judged"
            except SandboxError as error:  # no business of the coder's: it costs the window and no attempt
                self._note_failure(question, f"{NOT_TRIED}{error}")
                raise
            except PolicyError as error:
                feedback = str(error)
                self._note_failure(question, f"{REFUSED}{feedback}" if question else feedback)
                if question:
                    reply = f"This answer was refused. Mend it. The reason:\n{feedback}"
                    question = question.answered(answer, reply)
                auditions_failed += isinstance(error, AuditionFailed)
                if policy is not None:
                    policy.close()
                    self.policy = None if policy is self.policy else self.policy
                if auditions_failed == 2:  # told once; bad guidance must not reach training
                    break
                continue
            if self.policy is not None and self.policy is not policy:
                self.policy.close()
            self.policy = policy
            if question:
                self.chat.note("verdict", verdict)
            self.log.add_text("supervisor/code", code_block(policy.source), self.now)
            return policy, verdict
        if auditions_failed == 0:
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
