"""The supervisor of GuidedSAC: what training shows → advisor → coder → check → guidance policy → trial.

A training script knows four things about it:

    supervisor = Supervisor(args, ...)               # once
    guidance = supervisor.consult(step, writer)      # when a guided window is over; None: do not intervene
    a_g, mask = guidance(obs, t)                     # inside the window; t = steps of the episodes, mask = where
    supervisor.observe(step, ..., writer)            # after each step: what advisor and trial see

It takes no step of its own: all that it learns from are training's own steps (docs/supervisor.md). What it is made of
is in supervision/, one subject a file. As a program this is the tools for writing prompts and for watching a run
(`python llm_supervisor.py --help`).

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control", section 3.3 and C.
"""

import runpy
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from supervision.answers import gist
from supervision.arguments import SupervisorArgs, check_args, warn_of_late_learning, who_supervises
from supervision.bundled import Bundled, read_rule
from supervision.camera import Camera
from supervision.chat import Chat, Exchange, Question, RecordedChat
from supervision.consultation import Consultations, Decision
from supervision.endpoint import ChatModel
from supervision.guidance import Guidance
from supervision.prompts import PromptFolder, describe_env, rule_spaces
from supervision.questions import Questions
from supervision.replay import GreedyVideos, record_video
from supervision.report import Report
from supervision.sandbox.confinement import check_model_rules, check_platform
from supervision.sandbox.messages import CPU_BUDGET, PolicyError, SandboxError
from supervision.sandbox.policy import SandboxedPolicy, check_start
from supervision.state import Deferred, Interrupted, load_state, state_of
from supervision.texts import for_console, for_tensorboard, say, tolerate_any_terminal
from supervision.trial import UNGUIDED, dry_run
from supervision.workbench import run_command

__all__ = ["GreedyVideos", "PolicyError", "Supervisor", "SupervisorArgs", "record_video"]  # what scripts import


class Supervisor:
    """Decides, window by window, whether a rule guides the agent, and provides the rule.

    Args:
        args: a script's arguments (SupervisorArgs and env_id, seed, learning_starts, total_timesteps).
        envs: the training environments, before their first reset. Observations are arrays: a Box's, or the integers
            (k,) of which a discrete observation consists. The first one may be replaced by one that can be drawn.
        env_fn: makes an environment like the first training one, of the given render mode ("rgb_array" or None).
        run_dir: the run's folder; `replays/`, `llm/` and `report.html` are made in it.
        env_kwargs_given: whether `--env-kwargs` differs from the environment's default. `prompts/<env-id>`, rule and
            threshold included, then describes another task and is used only where `--prompt-dir` names it.
        tell: is told of each step of a consultation, a heading and a text.
        interrupted: whether the run is to end: no answer is waited for then.
        evaluations: step and greedy return of each evaluation so far, for the report; grows while the run goes on.
        forked_at: the step at which the run begins, where it is a fork.
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
        evaluations: Sequence[tuple[int, float]] = (),
        forked_at: int = 0,
    ):
        self.args, self.envs, self.env_fn, self.tell = args, envs, env_fn, tell
        self.run_dir, self.interrupted, self.forked_at = Path(run_dir), interrupted, forked_at
        self.report = Report(args, self.run_dir, evaluations)
        self.folder = PromptFolder(args.env_id, args.prompt_dir, env_kwargs_given)
        self.seconds = 0.0  # wall time that supervision took
        self.ended = False
        self.active = 0.0, -1  # the last `charts/guidance_active`, and its step
        self.questions: Questions | None = None
        self.begin_again = False  # whether `consult` is to be called before the window is over
        self.unseen = False  # whether an unguided stretch is over since the last consultation
        self.saved: dict[str, Any] | None = None  # the state before a consultation that was interrupted
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
        self.mode, reason = who_supervises(args, self.folder)
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
            bundled: Bundled | None = None
            if self.mode in ("llm", "replay"):
                self.load_questions(env)
                self.description += f"; {self.folder.taken}"
                log_dir = self.run_dir / "llm"
                self.chat = RecordedChat(Path(args.llm_log), log_dir) if args.llm_log else ChatModel(args, log_dir)
            elif not args.guide_policy and not args.advisor_always:
                bundled = Bundled.read(self.folder.bundled("bundled.toml"))
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
        self._watch(bundled)
        warn_of_late_learning(args, self.envs.num_envs, self.forked_at)

    def prepare_to_ask(self) -> None:
        """For `show-prompt`, which asks nobody: what questions are made of; raises ValueError as `prepare`."""
        self.mode, self.fixed_source = "llm", None
        env = self.env_fn(None)
        try:
            self.observation, self.action = rule_spaces(env)
            self.load_questions(env)
        finally:
            env.close()
        self._watch(None)

    def first_question(self, global_step: int, role: Literal["advisor", "coder"], advice: str) -> Question:
        """What a role is asked first, the coder about this advice."""
        held = self.consultations
        self._develop()
        if role == "coder":
            return held.questions.coder(global_step, advice, held.seen(global_step), None)
        return held.questions.advisor(global_step, held.seen(global_step), [], 0, None)

    def _watch(self, bundled: Bundled | None) -> None:
        """Make ready for what training shows."""
        args = self.args
        pairs, share = (0, 0.0) if args.advisor_always else (args.trial_pairs, args.probe_share)
        self.camera = Camera(args, self.envs, self.env_fn, self.run_dir)
        self.guidance = Guidance(
            self.envs.num_envs, self.action, args.guide_window, pairs, share, args.learning_starts, args.guide_start,
            self.camera.follow,
        )  # fmt: skip
        self.consultations = Consultations(
            args, self.guidance, self.start, self.tell, chat=self.chat, questions=self.questions, bundled=bundled,
            fixed_source=self.fixed_source,
        )  # fmt: skip
        self.guidance.episodes.choosing = self.questions is not None

    def load_questions(self, env: gym.Env) -> None:
        """Read the prompt files and fill them with the environment's facts; raises ValueError as `prepare`."""
        observation, action = rule_spaces(env)
        folder = self.folder.for_prompts(action)
        self.questions = Questions(self.args, folder, describe_env(env, self.args.env_id), observation)

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
        # whether a rule was in time is the recorded machine's word, and this one may be slower
        patient = {"call_timeout": 60.0, "start_timeout": 60.0}
        deadlines = patient if self.mode == "replay" else {"cpu_budget": CPU_BUDGET}
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
        if self.guidance.now != global_step:  # a fork's begins here, in the middle of episodes, which the tapes know
            self.guidance.now = global_step
            self.guidance.t[:] = [len(getattr(env, "actions", ())) for env in self.envs.envs]
        self.guidance.open()
        if not (self.consultation or self.consultations.mend or self._has_seen_enough()):
            # nothing new can be said: the decision stands; before the first one the learner goes on alone
            self.begin_again = self.consultations.count == 0
            return self.guiding
        started, before = time.time(), state_of(self) if self.chat is not None else None  # else nothing is waited for
        self.begin_again = False
        if self.chat is not None:
            self._develop()
        if self.consultation is None:
            self.log = Deferred()  # of the whole consultation, which may go on at later steps (--llm-async)
            self.consultation = self.consultations.hold(global_step, self.log)
        log = self.log
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.args.seed + global_step)
                decision = self._advance()
        except Interrupted:  # as if it had not begun; what was answered is on record and not asked again
            self.saved = before
            return None
        self.seconds += time.time() - started
        if decision is not None:
            self.guidance.recorded = self.chat.failure if self.chat is not None else None
            self._report(decision, global_step, log)
            self.camera.save(global_step, log)
            self.report.consulted(self, decision, global_step)
            asked, begun = self.chat is not None or self.report.changed, self.guidance.episodes.consulted()
            self.camera.window(self.consultations.count, asked, begun)
        else:
            self.guidance.stop()  # the window begins when the answer is there
        self._log_guidance(global_step, log)
        log.write_to(writer)
        self.report.write(self, global_step)
        return self.guiding

    @property
    def guiding(self) -> Guidance | None:
        """The guidance where a rule acts, else None."""
        return self.guidance if self.mode != "none" and self.guidance.policy is not None else None

    def who_acted(self) -> str:
        """In the last training episodes, for a line of progress; "" where it was the learner alone."""
        return "" if self.mode == "none" else self.guidance.episodes.who_acted()

    def _has_seen_enough(self) -> bool:
        """Whether there is something new to decide on: an unguided stretch of the learner's. A rule that is there
        already begins without one, for its trial follows; a model is asked first about a tenth of a window at least,
        which shows it more than one fall, and the effects of random actions."""
        first, enough = not self.consultations.count, max(self.args.guide_window // 10, 1)
        if self.fixed_source is not None and (self.args.advisor_always or first):
            return True
        if first and self.chat is not None and self.guidance.now - self.forked_at < enough:
            return False
        long = any(s is not None and not s.guided and len(s) >= enough for s in self.guidance.episodes.present)
        return self.unseen or long

    def _develop(self) -> None:
        """Pictures for the models."""
        for stretch in (*self.guidance.episodes.latest(guided=False), *self.guidance.episodes.latest(guided=True)):
            self.camera.develop(stretch)

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

    def _report(self, decision: Decision, global_step: int, writer: SummaryWriter) -> None:
        decision.seen = seen = self.guidance.episodes.in_short()
        verdict, advice = decision.verdict, f"; advice: {gist(decision.advice)}" if decision.advice else ""
        self.consultations.history.append(f"step {global_step}: {seen}{advice}; {gist(verdict)}")
        say(f"step {global_step:,}: supervisor: {seen}; {verdict}")
        writer.add_text("supervisor/verdict", for_tensorboard(verdict), global_step)
        scalars = {"supervisor/failures": self.consultations.failures, "supervisor/seconds": self.seconds}
        if self.chat is not None:
            scalars |= self.chat.scalars()
            if self.chat.closed:
                say(f"supervisor: no model is asked any more in this run: {self.chat.closed}")
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, global_step)
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
        if self.mode == "none":
            return
        guidance, before = self.guidance, global_step - self.envs.num_envs
        if guidance.failure is not None:
            error, guidance.failure = guidance.failure, None
            self.consultations.failed(error, before)
            writer.add_scalar("supervisor/failures", self.consultations.failures, before)
            self._say(f"the rule failed, unguided until the next window: {error}", before, writer)
        over = guidance.episodes.over
        verdict = guidance.follow(before, obs, t, actions, rewards, next_obs, terminations, truncations)
        self.unseen |= guidance.episodes.over > over
        if ended := int(np.count_nonzero(terminations | truncations)):
            episodes = list(guidance.episodes.finished)[-ended:]
            self.report.episodes(global_step, episodes)
            for behaviour, episode_return, _ in episodes:
                if behaviour != "partly guided":
                    writer.add_scalar(f"supervisor/{behaviour}_return", episode_return, global_step)
        if verdict is not None:
            self.report.judged(verdict)
            writer.add_scalar("supervisor/trial_passed", float(verdict.passed), global_step)
            writer.add_scalar("supervisor/trial_guided_return", verdict.guided, global_step)
            if verdict.against == UNGUIDED:  # else the rule before
                writer.add_scalar("supervisor/trial_unguided_return", verdict.other, global_step)
            if text := self.consultations.judged(verdict, global_step):
                self._say(text, global_step, writer)
                self.begin_again |= bool(self.consultations.mend)

    def _say(self, text: str, global_step: int, writer: SummaryWriter) -> None:
        """What became of the rule in the middle of a window."""
        say(f"step {global_step:,}: supervisor: {text}")
        writer.add_text("supervisor/verdict", for_tensorboard(text), global_step)
        self.report.happened(global_step, text)
        self._log_guidance(global_step, writer)

    def _log_guidance(self, global_step: int, writer: SummaryWriter) -> None:
        """Whether a rule guides, as a step: TensorBoard joins points by straight lines."""
        active, (before, since) = float(self.guiding is not None), self.active
        if since < 0 < global_step:
            writer.add_scalar("charts/guidance_active", 0.0, 0)  # the curve begins with the run
        if active != before and since < global_step - 1:
            writer.add_scalar("charts/guidance_active", before, global_step - 1)
        self.active = active, global_step
        self.report.guided(global_step, bool(active))
        writer.add_scalar("charts/guidance_active", active, global_step)
        writer.add_scalar("supervisor/guided_steps", self.guidance.guided_steps, global_step)

    def end(self, global_step: int, writer: SummaryWriter) -> None:
        """The guided time is over: say what it took, and stop the rule's process.

        A run that was interrupted says nothing: it goes on.
        """
        if self.mode == "none":
            return
        self.report.end(self, global_step)
        if last := global_step >= self.args.total_timesteps or self.interrupted():
            self.camera.finish(global_step, writer)
        if not self.ended:
            self._end_guidance(global_step, writer)
        elif last and not self.interrupted():
            self._log_guidance(global_step, writer)
        self.report.write(self, global_step, last)

    def _end_guidance(self, global_step: int, writer: SummaryWriter) -> None:
        self.ended, self.begin_again = True, False
        guided, steps = self.guidance.guided_steps, self.guidance.steps
        self.consultations.close_rule()
        if not self.interrupted():
            self._log_guidance(global_step, writer)
            say(
                f"step {global_step:,}: supervisor: the guided time is over; the rule acted in {guided:,} of "
                f"{steps:,} steps; supervision took {self.seconds:.1f} s; report, videos and logs are in {self.run_dir}"
            )
            if self.chat is not None:
                self.chat.close(self.exchange, global_step, writer)
        self.consultation = self.exchange = None


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
