"""The supervisor's part of a script's command line."""

import threading
from dataclasses import dataclass
from typing import Any, Literal

from supervision.connection import check_base_url


@dataclass
class SupervisorArgs:
    """The supervisor's part of a script's command line."""

    supervisor: Literal["auto", "llm", "replay", "bundled", "none"] = "auto"
    """who supervises: `llm` (an OpenAI-compatible endpoint), `replay` (the recorded answers of `llm_log`), `bundled`
    (offline: the environment's bundled rule), `none` (plain SAC); `auto`: `llm` where a key or base URL is set, else
    `bundled` where the environment has it"""
    guide_start: int = 0
    """environment step of the first consultation, ≥ 0"""
    guide_end: int = 10_000
    """environment step at which all guidance is off (paper, C.1 "End Step"), > `guide_start`"""
    guide_window: int = 1_000
    """environment steps between two consultations, for which a decision holds (paper, C.1 "Guided Window"), ≥ 1"""
    guide_policy: str | None = None
    """file with a rule `policy(obs, t)` of your own, instead of a coder's"""
    advisor_always: bool = False
    """the paper's ablation: no judgement (no advisor, no audition), guidance from `guide_start` to `guide_end`"""
    prompt_dir: str | None = None
    """folder of the prompt files and the bundled rule; None: `prompts/<env-id>` where it exists and `--env-kwargs` is
    the environment's default, which it describes, else `prompts/default` (discrete actions: `prompts/default-discrete`)
    """
    replay_episodes: int = 1
    """greedy episodes of the unguided policy that the advisor sees at a consultation, ≥ 1"""
    replay_max_steps: int = 1_000
    """environment steps of a replay, all its episodes together, ≥ 1"""
    replay_frames: int = 16
    """key frames of a replay: between this many and twice as many are kept, whatever its length; 0 = no pictures"""
    audition_episodes: int = 3
    """pairs of episodes (guided, unguided) in a round of the audition; 0 = no audition"""
    audition_max_steps: int = 1_000
    """environment steps of an audition, both behaviours and all rounds together, ≥ 1"""
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


LEAST = {
    "replay_episodes": 1, "replay_max_steps": 1, "replay_frames": 0, "guide_window": 1, "coder_attempts": 1,
    "audition_episodes": 0, "audition_max_steps": 1, "llm_max_calls": 1, "llm_max_tokens": 1,
}  # fmt: skip


def check_args(args: Any) -> None:
    """Check each of these flags by itself (`args`: SupervisorArgs).

    Raises:
        ValueError: one is out of its range, or does not fit another.
    """
    for name, least in LEAST.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.audition_max_steps < 2 * args.audition_episodes:
        raise ValueError(
            f"--audition-max-steps must give each of the 2 · {args.audition_episodes} episodes of a round a step, "
            f"not {args.audition_max_steps} to all"
        )
    if not 0 < args.llm_timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"--llm-timeout must be a number of seconds above 0, not {args.llm_timeout}")
    if (args.supervisor == "replay") != (args.llm_log is not None):
        raise ValueError("--supervisor replay and --llm-log runs/<run>/llm belong together: give both or neither")
    if args.llm_base_url:
        check_base_url(args.llm_base_url)
