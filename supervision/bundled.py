"""The bundled supervisor: a threshold in the advisor's place and a rule in the coder's, for use without a network."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supervision.answers import Advice


@dataclass
class Bundled:
    """Intervenes while the mean return of the latest unguided episodes is below a threshold."""

    intervene_below: float
    episodes: int  # whose mean is taken; while there are fewer it intervenes
    analysis: str
    advice: str

    @classmethod
    def read(cls, path: Path) -> "Bundled":
        """Read an environment's `bundled.toml`.

        Raises:
            ValueError: it is missing or malformed.
        """
        kinds = {"intervene_below": (int, float), "episodes": int, "analysis": str, "advice": str}
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"the bundled supervisor's file {path} cannot be read: {error}") from None
        for key, kind in kinds.items():
            if not isinstance(data.get(key), kind):
                raise ValueError(f"{path} must set {key} to {'a string' if kind is str else 'a number'}")
        if data["episodes"] < 1:
            raise ValueError(f"{path} must set episodes to at least 1, not {data['episodes']}")
        return cls(**{key: data[key] for key in kinds})

    def advise(self, returns: Sequence[float], has_rule: bool) -> Advice:
        """Judge the learner by the returns of its unguided episodes, the latest last; a rule that is there is kept."""
        latest = list(returns)[-self.episodes :]
        if len(latest) < self.episodes:
            because = f"{len(latest)} unguided episodes are over so far, {self.episodes} decide."
            return Advice(f"{because} {self.analysis}", True, self.advice, has_rule)
        mean = float(np.mean(latest))
        because = (
            f"Return {mean:.4g} in the last {self.episodes} unguided episodes; threshold {self.intervene_below:g}."
        )
        if mean >= self.intervene_below:
            return Advice(because, False)
        return Advice(f"{because} {self.analysis}", True, self.advice, has_rule)


def read_rule(path: Path) -> str:
    """Read a rule that no model writes; ValueError where that cannot be."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the guidance policy {path} cannot be read: {error}") from None
