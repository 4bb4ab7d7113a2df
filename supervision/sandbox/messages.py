"""What a rule is given and what it must return, and what may go wrong with it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

FIRST_CALL_TIMEOUT = 2.0  # seconds; the first call may fill caches
PATIENCE = 2.0  # seconds beyond a deadline for a process that other processes keep from computing
RENEW_AFTER = 1.0  # seconds for which the limit of CPU time stands before a call renews it
CPU_BUDGET = 0.002  # seconds of CPU time a row that a model's rule may take on average
CALLS_OF_A_BUDGET = 200  # over which that average is taken
TRIAL_LANES = 1_000_000  # from this number on lanes are of trials, of which nothing is remembered
MOST_LANES = 4_096  # that are kept; of more, those go that were not used for the longest time


class PolicyError(RuntimeError):
    """A policy was refused or misbehaved; `str(error)` is one clear message for a person or for the coder model."""


class SandboxError(RuntimeError):
    """This machine could not start a rule's process: no fault of the rule, so no business of the coder model."""


class Observation(NamedTuple):
    """What `policy` is given of one observation, and the row of an array in which it travels there.

    | kind | space | `policy` gets | row |
    |-|-|-|-|
    | floats | Box | a float64 array of `shape` | numbers of `shape` |
    | int | Discrete, `shape` () | an int | integers (1,) |
    | tuple | Tuple of k Discrete, `shape` (k,) | a tuple of k ints | integers (k,) |
    | ints | MultiDiscrete | an int64 array of `shape` | integers (k,), k = its size |
    """

    kind: Literal["floats", "int", "tuple", "ints"]
    shape: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        return "<f8" if self.kind == "floats" else "<i8"

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.shape) if self.kind == "floats" else (math.prod(self.shape),)

    def own(self, row: np.ndarray) -> np.ndarray | int | tuple[int, ...]:
        """Return the environment's own observation, which shares no memory with the row."""
        if self.kind == "int":
            return int(row[0])
        if self.kind == "tuple":
            return tuple(row.tolist())
        return np.array(row) if self.kind == "floats" else np.array(row).reshape(self.shape)


class BoxAction(NamedTuple):
    """An array of finite numbers within bounds; where its shape is (1,), `policy` may return a number too."""

    low: np.ndarray  # may be infinite
    high: np.ndarray  # of the same shape


class DiscreteAction(NamedTuple):
    """One integer from `start` to `start + n - 1`: an int, a NumPy integer or an integer array of shape ()."""

    n: int
    start: int = 0
