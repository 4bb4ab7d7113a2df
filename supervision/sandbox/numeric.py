"""What a rule sees as numpy: functions that compute with numbers and refuse everything else before numpy sees it.

numpy trusts its caller. It calls functions that it is given in the middle of its work, makes arrays of any Python
objects, takes the time of day for a date and shows memory as it was left. A rule gets none of that: an argument of a
function of `np` is a number, an array or a list of numbers, a type of number or one of a few words, whatever way the
function was reached and whatever name its argument has.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from supervision.sandbox.vocabulary import (
    DTYPE_WORDS,
    GENERATOR_METHODS,
    NUMPY,
    NUMPY_SUBMODULES,
    NUMPY_TYPES,
    RANDOM_STATE_METHODS,
    words,
)

MOST_DEPTH = 16  # of lists in lists
NUMPY_NUMBERS = words(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
)
NUMBERS = {float, int, bool, complex} | {getattr(np, name) for name in NUMPY_NUMBERS}
KINDS = "biufc"
EXACT = NUMBERS - {int}  # which numpy has too; an int may be too large for it
AS_THEY_ARE = EXACT | {type(None), type(...), slice}
ITERABLES = (
    range, map, filter, zip, enumerate, reversed, deque, types.GeneratorType, type({}.keys()), type({}.values()),
    type({}.items()), type(iter([])), type(reversed([])),
)  # fmt: skip
WORDS = DTYPE_WORDS | words(
    """
    C F A K ij xy left right raise wrap clip full same valid constant edge linear_ramp maximum mean median minimum
    reflect symmetric even odd fro nuc inf ignore quicksort heapsort mergesort stable complete reduced r raw L U
    linear lower higher midpoint nearest hazen weibull median_unbiased normal_unbiased inverted_cdf
    averaged_inverted_cdf closest_observation interpolated_inverted_cdf auto fd doane scott stone rice sturges sqrt
    greedy optimal propagate
    """
)
EINSUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,->. ")
# Where an argument stands, of those that are no keywords, by which a function writes into what it is given: `out`, and
# nan_to_num's `copy`. Of a ufunc it is the one after its numbers.
OUT_AT = {
    "all": 2, "amax": 2, "amin": 2, "any": 2, "argmax": 2, "argmin": 2, "around": 2, "clip": 3, "compress": 3,
    "concat": 2, "concatenate": 2, "cumprod": 3, "cumsum": 3, "dot": 2, "fix": 1, "isneginf": 1, "isposinf": 1,
    "max": 2, "mean": 3, "median": 2, "min": 2, "nan_to_num": 1, "nanargmax": 2, "nanargmin": 2, "nancumprod": 3,
    "nancumsum": 3, "nanmax": 2, "nanmean": 3, "nanmedian": 2, "nanmin": 2, "nanpercentile": 3, "nanprod": 3,
    "nanquantile": 3, "nanstd": 3, "nansum": 3, "nanvar": 3, "outer": 2, "percentile": 3, "prod": 3, "ptp": 2,
    "quantile": 3, "round": 2, "stack": 2, "std": 3, "sum": 3, "take": 3, "trace": 5, "var": 3,
}  # fmt: skip
WHERE_CHOOSES = words(  # in these `where` leaves nothing of the result as memory was
    "all amax amin any max mean min nanmax nanmean nanmin nanprod nanstd nansum nanvar prod std sum var"
)


def _plain(value: object, depth: int = 0) -> object:
    """Return what numpy may be given in a value's place: itself, or a list of what an iterator yields.

    Raises:
        TypeError: it is nothing that numbers are computed from.
    """
    kind = type(value)
    if kind in (AS_THEY_ARE if depth == 0 else EXACT):
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        raise TypeError("an integer of more than 64 bits")
    if kind is np.ndarray:
        if value.dtype.kind in KINDS:
            return value
        raise TypeError(f"an array of {value.dtype}")
    if kind is list or kind is tuple:
        if depth == MOST_DEPTH:
            raise TypeError("lists too deep in lists")
        for item in value:
            if type(item) not in EXACT:
                if type(item) is str:
                    raise TypeError("a list with a string in it")
                _plain(item, depth + 1)
        return value
    if kind in ITERABLES and depth == 0:
        return list(value)
    if kind is str:
        if value in WORDS:
            return value
        raise TypeError(f"the string {value[:30]!r}")
    if kind is type and value in NUMBERS and depth == 0:
        return value
    if isinstance(value, np.dtype) and value.kind in KINDS and depth == 0:
        return value
    raise TypeError(f"a {kind.__name__}")


def keeper(value: object) -> object:
    """Return a value of which an item is about to be set, unless it is an array of objects.

    Arithmetic makes such arrays where integers leave 64 bits. They hold numbers and strings as long as nothing is
    stored in them; a dictionary's keys in one and a generator in another would let `|` run the rule's code in there.
    """
    if type(value) is np.ndarray and value.dtype.kind not in KINDS:
        raise TypeError("np.ndarray was given something to keep among objects; it computes with numbers")
    return value


def _of_numbers(value: object) -> bool:
    return type(value) is not np.ndarray or value.dtype.kind in KINDS


def guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function, which first looks at what it is given.

    Args:
        name: as a rule knows it, without `np.`.
    """
    most = function.nin if isinstance(function, np.ufunc) else OUT_AT.get(name, 99)
    first = int(name == "einsum")  # whose subscripts are looked at by themselves
    where_needs_out = name not in WHERE_CHOOSES

    def call(*args: object, **options: object) -> Any:
        try:
            # all iterators first: what is checked is what numpy sees, and no code of the rule runs in between
            given = [list(value) if type(value) in ITERABLES else value for value in args]
            for key, value in options.items():
                options[key] = list(value) if type(value) in ITERABLES else value
            for value in given[first:]:
                if type(value) not in AS_THEY_ARE:
                    _plain(value)
            if options:
                for value in options.values():
                    _plain(value)
                if where_needs_out and options.get("where", True) is not True and options.get("out") is None:
                    raise TypeError("`where` without `out`, and would show memory as it was left")
            if first and not (given and type(given[0]) is str and EINSUM.issuperset(given[0])):
                raise TypeError("subscripts that are no string of letters")
        except TypeError as error:
            raise TypeError(f"np.{name} was given {error}; it computes with numbers and arrays of numbers") from None
        if len(given) > most:
            raise TypeError(f"np.{name} takes {most} arguments; give the others by their names")
        result = function(*given, **options)
        if type(result) is np.ndarray:
            if result.dtype.kind in KINDS:
                return result
        elif not (type(result) is tuple or type(result) is list) or all(map(_of_numbers, result)):
            return result
        raise TypeError(f"np.{name} would make something else than an array of numbers; it computes with numbers")

    return call


def _shared() -> dict[str, Any]:
    names = {}
    for name in NUMPY | NUMPY_TYPES:
        value = getattr(np, name)
        keep = (
            not callable(value) or name == "errstate" or (isinstance(value, type) and value not in (np.finfo, np.iinfo))
        )
        names[name] = value if keep else guarded(value, name)
    linalg = {
        name: guarded(value, f"linalg.{name}") if not isinstance(value := getattr(np.linalg, name), type) else value
        for name in NUMPY_SUBMODULES["linalg"]
    }
    return {**names, "linalg": types.SimpleNamespace(**linalg)}


SHARED = _shared()


def numpy_for_rules(random: object) -> types.SimpleNamespace:
    """Return what a rule sees as numpy, with this as its `random`."""
    return types.SimpleNamespace(**SHARED, random=random)


def _methods(generator: object, names: frozenset[str], prefix: str) -> dict[str, Callable[..., Any]]:
    return {name: guarded(getattr(generator, name), prefix + name) for name in names}


class Draws:
    """A lane's random numbers: its own `np.random`, which starts anew with each of its episodes."""

    def __init__(self) -> None:
        self.state = np.random.RandomState(0)
        methods = _methods(self.state, RANDOM_STATE_METHODS, "random.")
        methods["seed"] = guarded(self._seed, "random.seed")
        methods["default_rng"] = guarded(self._generator, "random.default_rng")
        methods["RandomState"] = guarded(self._random_state, "random.RandomState")
        self.numpy = numpy_for_rules(types.SimpleNamespace(**methods))
        self.key: list[int] = []
        self.made = 0  # generators without a seed, in this episode

    def begin(self, seed: int, lane: int, episode: int) -> None:
        """Start an episode: what it draws depends on these three numbers alone."""
        self.key, self.made = [seed, lane % 2**32, lane // 2**32, episode], 0
        self.state.seed(self.key)

    def _unseeded(self) -> list[int]:
        self.made += 1
        return [*self.key, self.made]

    def _seed(self, seed: Any = None) -> None:
        self.state.seed(self._unseeded() if seed is None else seed)

    def _generator(self, seed: Any = None) -> types.SimpleNamespace:
        generator = np.random.default_rng(self._unseeded() if seed is None else seed)
        return types.SimpleNamespace(**_methods(generator, GENERATOR_METHODS, "random.Generator."))

    def _random_state(self, seed: Any = None) -> types.SimpleNamespace:
        state = np.random.RandomState(self._unseeded() if seed is None else seed)
        return types.SimpleNamespace(**_methods(state, RANDOM_STATE_METHODS, "random.RandomState."))
