"""A rule's copies, one for each environment, in the rule's process.

A lane is an environment as the parent numbers it. Each has globals of its own, made by executing the source, and made
anew at the start of each of its episodes; so what a rule keeps ends with the episode, and environments share nothing.
"""

from __future__ import annotations

import builtins
import math
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np

from supervision.sandbox.language import SOURCE_NAME, executable
from supervision.sandbox.messages import MOST_LANES, PolicyError
from supervision.sandbox.numeric import Draws, keeper, numpy_for_rules
from supervision.sandbox.rewriting import KEEPER, LIST
from supervision.sandbox.vocabulary import BUILTINS, EXCEPTIONS

Rule = Callable[[Any, int], object]


class Lanes:
    """The copies of one rule.

    Args:
        source: of the rule.
        seed: of the run; the random numbers of a lane's episode depend on it, the lane and the episode.
        restricted: whether the rule is confined to the language; if not, it has all builtins and the real numpy.
        keeps_state: whether it may keep anything from call to call; one that cannot has a single copy.
        draws: whether it uses random numbers.

    Raises:
        Whatever the top level of the source raises.
    """

    def __init__(self, source: str, seed: int, restricted: bool, keeps_state: bool, draws: bool):
        what = executable(source) if restricted else source
        self.code: CodeType = compile(what, SOURCE_NAME, "exec", dont_inherit=True)  # not this file's __future__
        self.seed, self.restricted, self.draws = seed, restricted, draws
        self.alive: dict[int, tuple[int, Rule, dict[str, Any]]] = {}  # the least recently used first
        self.random: dict[int, Draws] = {}  # of the same lanes; making one takes longer than seeding it again
        self.numpy = numpy_for_rules(None) if restricted else np
        self.builtins: dict[str, Any] = vars(builtins)
        if restricted:
            self.builtins = {name: getattr(builtins, name) for name in BUILTINS | EXCEPTIONS}
            self.builtins["deque"] = deque
            self.builtins |= {KEEPER: keeper, LIST: list}
            self.builtins["print"] = lambda *values, **options: None
        rule, scope = self._execute(0, 0)  # once before the first call, so that an error in it is found at the start
        self.only = None if keeps_state else rule
        if keeps_state:
            scope.clear()

    def rule(self, lane: int, episode: int) -> Rule:
        """Return the lane's copy of the rule; a new one where this is another episode than the last."""
        if self.only is not None:
            return self.only
        copy = self.alive.pop(lane, None)
        if copy is None or copy[0] != episode:
            if copy is not None:
                copy[2].clear()  # functions and globals hold each other; not left to the collector
            copy = (episode, *self._execute(lane, episode))
        self.alive[lane] = copy
        if len(self.alive) > MOST_LANES:
            oldest = next(iter(self.alive))
            self.alive.pop(oldest)[2].clear()
            self.random.pop(oldest, None)
        return copy[1]

    def _execute(self, lane: int, episode: int) -> tuple[Rule, dict[str, Any]]:
        """Execute the source in a fresh scope; return its `policy` and the scope."""
        numbers = self.numpy
        if self.restricted and self.draws:
            if lane not in self.random:
                self.random[lane] = Draws()
            self.random[lane].begin(self.seed, lane, episode)
            numbers = self.random[lane].numpy
        given = dict(self.builtins)
        if self.restricted:
            given["__import__"] = _importer(numbers)
        scope = {"__builtins__": given, "__name__": "policy", "np": numbers, "math": math}
        exec(self.code, scope)
        policy = scope.get("policy")
        if not callable(policy):
            raise PolicyError("leaves something in `policy` that cannot be called")
        return policy, scope


def _importer(numbers: object) -> Callable[..., object]:
    """Return an `__import__` of math and numpy alone, which gives a rule the numpy that is meant for it."""

    def import_(name: str, scope=None, local_scope=None, wanted=(), level: int = 0) -> object:
        # Submodules too, which check_source refuses: numpy's C code imports its helpers by way of the caller's
        # builtins, and unlike a rule's `import numpy` it always wants something from them.
        if level or name.partition(".")[0] not in ("math", "numpy"):
            raise ImportError(f"import of {name!r} is refused: only math and numpy are allowed")
        if name == "numpy" and not wanted:
            return numbers
        return __import__(name, scope, local_scope, wanted, level)

    return import_
