"""The supervisor's part of a script's command line."""

import threading
from dataclasses import dataclass
from typing import Any, Literal

from supervision.connection import check_base_url
from supervision.endpoint import a_server_is_named
from supervision.prompts import PromptFolder
from supervision.texts import say


@dataclass
class SupervisorArgs:
    """The supervisor's part of a script's command line."""

    supervisor: Literal["auto", "llm", "replay", "bundled", "none"] = "auto"
    """who supervises: `llm` (an OpenAI-compatible endpoint), `replay` (the recorded answers of `llm_log`), `bundled`
    (offline: the environment's bundled rule), `none` (plain SAC); `auto`: `llm` where a key or base URL is set, else
    `bundled` where there is a rule"""
    guide_start: int = 0
    """environment step from which on guidance may begin, ≥ 0"""
    guide_end: int = 10_000
    """environment step at which all guidance is off (paper, C.1 "End Step"), > `guide_start`"""
    guide_window: int = 1_000
    """environment steps between two consultations, for which a decision holds (paper, C.1 "Guided Window"), ≥ 1"""
    guide_policy: str | None = None
    """file with a rule `policy(obs, t)` of your own, instead of a coder's"""
    advisor_always: bool = False
    """the paper's ablation: no judgement (no advisor, no trial, no unguided episodes), guidance from
    `guide_start` to `guide_end`"""
    prompt_dir: str | None = None
    """folder of the prompt files and the bundled rule; None: `prompts/<env-id>` where it exists and `--env-kwargs` is
    the environment's default, which it describes, else `prompts/default` (discrete actions: `prompts/default-discrete`)
    """
    replay_frames: int = 16
    """pictures of an episode that are kept for models: half as many to this many; 0 = no pictures and no videos"""
    trial_pairs: int = 3
    """episodes, guided and unguided in turn, with which a new rule begins before they are compared for the first time;
    a rule that earns less is ended; ≥ 3, or 0: no trial"""
    probe_share: float = 0.1
    """share of the steps in guided time that the agent acts alone, in probes, at least, in [0, 1)"""
    coder_attempts: int = 3
    """answers that the coder may give at a consultation before the window goes unguided, ≥ 1"""
    advisor_model: str = "qwen3-vl-plus"
    """the vision model that judges (paper, C.2)"""
    coder_model: str = "qwen3-max-preview"
    """the model that writes the rule (paper, C.2)"""
    llm_base_url: str | None = None
    """base URL of an OpenAI-compatible endpoint; None: OPENAI_BASE_URL. The key comes from OPENAI_API_KEY, or
    from the file that OPENAI_API_KEY_FILE names"""
    llm_timeout: float = 120.0
    """deadline of one question to a model, with its retries, in seconds, > 0"""
    llm_async: bool = False
    """train on unguided while a model thinks, and begin the window when its answer is there; such a run cannot be
    repeated exactly"""
    llm_max_calls: int | None = None
    """questions to models in a run, ≥ 1; when they are spent, the run goes on unguided. None: no limit"""
    llm_max_tokens: int | None = None
    """tokens of a run, of questions and answers together, ≥ 1; checked before each question. None: no limit"""
    llm_log: str | None = None
    """with `--supervisor replay`: the folder `runs/<run>/llm` whose exchanges are repeated"""
    advisor_vision: Literal["auto", "on", "off"] = "auto"
    """pictures for the advisor: `on`, `off` (states only), or `auto`: until the server refuses them"""
    sandbox: Literal["auto", "strict", "weak"] = "auto"
    """where the machine cannot confine a rule's process as docs/sandbox.md describes: `auto` says so once at the start,
    runs bundled rules and your own with what there is, and without a filter of system calls refuses those that a model
    writes; `weak` runs these too; `strict` refuses to run"""

    def arm(self, env_kwargs_given: bool) -> str:
        """Who supervises, for the run's name; `auto` where nobody can, so that there will be no run."""
        try:
            return who_supervises(self, PromptFolder(self.env_id, self.prompt_dir, env_kwargs_given))[0]
        except ValueError:
            return self.supervisor


FEWEST_UPDATES = 200  # while there is guidance; 250 guided steps were the fewest from which a task was learned
LEAST = {
    "replay_frames": 0, "guide_window": 1, "coder_attempts": 1, "trial_pairs": 0, "llm_max_calls": 1,
    "llm_max_tokens": 1,
}  # fmt: skip


def check_args(args: Any) -> None:
    """Check each of these flags by itself (`args`: SupervisorArgs).

    Raises:
        ValueError: one is out of its range, or does not fit another.
    """
    for name, least in LEAST.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.trial_pairs in (1, 2):
        raise ValueError(f"--trial-pairs must be at least 3, or 0 for no trial, not {args.trial_pairs}")
    if not 0 <= args.probe_share < 1:
        raise ValueError(f"--probe-share must be at least 0 and below 1, not {args.probe_share}")
    if not 0 < args.llm_timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"--llm-timeout must be a number of seconds above 0, not {args.llm_timeout}")
    if (args.supervisor == "replay") != (args.llm_log is not None):
        raise ValueError("--supervisor replay and --llm-log runs/<run>/llm belong together: give both or neither")
    if args.llm_base_url:
        check_base_url(args.llm_base_url)


def who_supervises(args: Any, folder: PromptFolder) -> tuple[str, str]:
    """Who supervises by these flags, given the environment's folder of prompts, and why.

    Raises:
        ValueError: nobody can; the ways out are named.
    """
    if args.supervisor != "auto":
        return args.supervisor, "--supervisor"
    if a_server_is_named(args):
        return "llm", "auto: a key or base URL is set"
    if args.guide_policy:
        return "bundled", "auto: no key or base URL is set; a rule of your own"
    if folder.has_rule:
        return "bundled", "auto: no key or base URL is set, and the environment has a bundled rule"
    why = folder.passed_over or f"{folder.path} has no bundled rule"
    raise ValueError(
        f"nobody can supervise {args.env_id}: no key or base URL is set and {why}. "
        "Four ways out: set OPENAI_API_KEY (or --llm-base-url); give a rule of your own with --guide-policy FILE; "
        f"put bundled_policy.py and bundled.toml into {folder.path}; or train plain SAC with --supervisor none"
    )


def warn_of_late_learning(args: Any, num_envs: int, forked_at: int = 0) -> None:
    """Say so, loudly, where guidance is over before there were enough updates to use it.

    Args:
        args: the flags of SupervisorArgs, and a script's `learning_starts` and `total_timesteps`.
        num_envs: environments that are stepped side by side, for each step of which there is one update.
        forked_at: the step at which a fork begins.
    """
    start, end = max(args.guide_start, forked_at), min(args.guide_end, args.total_timesteps)
    steps, learned = end - start, end - max(start, args.learning_starts)
    unused, updates = steps - max(learned, 0), max(learned, 0) // num_envs
    if steps <= 0 and start > args.guide_start:
        say(
            f"supervisor: WARNING: there is no guidance in this run: it begins at step {start:,}, guidance ends at "
            f"{end:,}. Raise --guide-end, or fork from an earlier checkpoint"
        )
    elif steps <= 0:
        say(
            f"supervisor: WARNING: there is no guidance in this run: --guide-start {args.guide_start:,} is not before "
            f"its end (--total-timesteps {args.total_timesteps:,})"
        )
    elif unused > steps / 2:
        say(
            f"supervisor: WARNING: {unused:,} of {steps:,} steps of guidance come before the first update "
            f"(--learning-starts {args.learning_starts:,}): the agent cannot learn while it is helped. "
            "Lower --learning-starts, or raise --guide-end and --total-timesteps"
        )
    elif updates < FEWEST_UPDATES:
        say(
            f"supervisor: WARNING: within {steps:,} steps of guidance there are only {updates:,} updates (one for "
            f"{num_envs} {'step' if num_envs == 1 else 'steps'}, after --learning-starts {args.learning_starts:,}): "
            "too few to learn from it. Raise --guide-end and --total-timesteps, or lower --num-envs"
        )
