"""What a run asks its models: characters, pictures and tokens of the first consultation, and consultations of a run.

    python -m benchmark.probes.prompt_cost

Nobody is asked: these are the questions of `llm_supervisor.py show-prompt`, about a learner that has learned nothing. A
run asks at most once a window: one in which no unguided episode was seen keeps its decision.

Docs: docs/supervisor.md
"""

import io
import json
import math
import urllib.request
from dataclasses import dataclass

import tyro
from PIL import Image

from llm_supervisor import Supervisor, training_script
from supervision.workbench import first_question, read_command

COLUMNS = ("environment", "advisor: characters", "pictures", "tokens", "coder: characters", "tokens",
           "consultations, at most", "tokens of the run, at most")  # fmt: skip


@dataclass
class Args:
    env_ids: tyro.conf.Positional[tuple[str, ...]] = (
        "MountainCarContinuous-v0", "Humanoid-v5", "CliffWalking-v1", "Taxi-v4", "FrozenLake-v1", "Blackjack-v1",
    )  # fmt: skip
    """the environments"""
    seed: int = 1
    """seed of the episodes that are shown"""
    tokenizer: str | None = None
    """address of a running llama-server, whose model's tokenizer counts the texts; None: an estimate"""


def text_tokens(text: str, tokenizer: str | None = None) -> int:
    """What the tokenizer counts, else an estimate.

    In it every digit is a token, as in Qwen's tokenizer, and of all else four characters make one.
    """
    if tokenizer:
        request = urllib.request.Request(f"{tokenizer}/tokenize", json.dumps({"content": text}).encode(),
                                         {"Content-Type": "application/json"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as response:
            return len(json.load(response)["tokens"])
    digits = sum(character.isdigit() for character in text)
    return digits + math.ceil((len(text) - digits) / 4)


def picture_tokens(jpeg: bytes) -> int:
    """Qwen3-VL's count: one for each 32 × 32 pixels of the size rounded to them, at least 4, and 2 around them."""
    width, height = Image.open(io.BytesIO(jpeg)).size
    return max(4, round(width / 32) * round(height / 32)) + 2


def consultations(start: int, end: int, window: int) -> int:
    """How often a run consults at most: at guide_start and every guide_window steps from there on, before guide_end."""
    return max(0, math.ceil((end - start) / window))


def row(env_id: str, seed: int, tokenizer: str | None = None) -> tuple[str, ...]:
    """An environment's row of the table."""
    texts, tokens, pictures = {}, {}, []
    for role in ("advisor", "coder"):
        flags = ["--env-id", env_id, "--role", role, "--seed", str(seed)]
        command, training = read_command(["show-prompt", *flags], training_script, Supervisor)
        question = first_question(command, training)
        texts[role] = "".join(message["content"] for message in question.messages)
        tokens[role] = text_tokens(texts[role], tokenizer) + sum(picture_tokens(jpeg) for _, jpeg in question.pictures)
        if role == "advisor":
            pictures = [Image.open(io.BytesIO(jpeg)).size for _, jpeg in question.pictures]
    shown = f"{len(pictures)} of {pictures[0][0]} × {pictures[0][1]}" if pictures else "none"
    times = consultations(command.guide_start, command.guide_end, command.guide_window)
    total = times * sum(tokens.values())
    return (env_id, f"{len(texts['advisor']):,}", shown, f"{tokens['advisor']:,}", f"{len(texts['coder']):,}",
            f"{tokens['coder']:,}", f"{times:,}", f"{total:,}")  # fmt: skip


if __name__ == "__main__":
    args = tyro.cli(Args)
    for cells in (COLUMNS, ("-",) * len(COLUMNS), *(row(env_id, args.seed, args.tokenizer) for env_id in args.env_ids)):
        print(f"| {' | '.join(cells)} |", flush=True)
