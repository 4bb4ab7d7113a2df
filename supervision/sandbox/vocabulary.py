"""The words of the language in which a rule may be written: all of them are lists of what is allowed."""

from __future__ import annotations

import ast
import math


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SYNTAX = (
    ast.Module, ast.FunctionDef, ast.Lambda, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Pass, ast.Assert,
    ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.alias,
    ast.If, ast.IfExp, ast.For, ast.While, ast.Break, ast.Continue, ast.With, ast.withitem,
    ast.Try, ast.ExceptHandler, ast.Raise,
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Call, ast.keyword, ast.Starred,
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
    ast.JoinedStr, ast.FormattedValue, ast.Tuple, ast.List, ast.Dict, ast.Set,
    ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.comprehension,
    ast.expr_context,
)  # fmt: skip
SET_REFUSED = (
    "a set is refused except after `in`, or under a name that only stands after `in`: its order differs from run to "
    "run; use a list or a dict"
)
REFUSED_SYNTAX = {  # what to say; syntax that is in neither table is refused by its name
    ast.ClassDef: "a class is refused; use functions",
    ast.Global: "`global` is refused: a policy keeps no state between calls; use a variable of the function",
    ast.Delete: "`del` is refused; use `.pop`, or let the name be",
    ast.SetComp: SET_REFUSED,
    ast.AsyncFunctionDef: "AsyncFunctionDef is not in the allowed language; use `def`",
    ast.TryStar: "TryStar is not in the allowed language; use `except`",
    ast.Yield: "`yield` is refused; return a list",
    ast.YieldFrom: "`yield` is refused; return a list",
    ast.Match: "`match` is refused; use `if` and `elif`",
    ast.Await: "`await` is refused; call the function itself",
    ast.AsyncFor: "AsyncFor is not in the allowed language; use `for`",
    ast.AsyncWith: "AsyncWith is not in the allowed language; use `with`",
}
CONSTANTS = (bool, int, float, str, type(None), type(...))
SPARED_MODULES = words("typing __future__ numpy.typing collections.abc")  # for annotations alone, which are dropped
BUILTINS = words(
    """
    abs all any bool dict divmod enumerate filter float int isinstance iter len list map max min next pow print range
    reversed round slice sorted str sum tuple zip
    """
)
EXCEPTIONS = words(
    """
    ArithmeticError AssertionError Exception FloatingPointError IndexError KeyError LookupError NotImplementedError
    OverflowError RuntimeError StopIteration TypeError ValueError ZeroDivisionError
    """
)
ALLOWED_IMPORTS = (("math", None), ("numpy", None), ("numpy", "np"))  # (module, the name after `as`)
RESERVED = ("np", "numpy", "math", "isinstance")  # the check relies on what they mean, so nothing else may be so called
# Not in it: what reads or writes files, makes arrays over foreign memory, calls back, or gives memory as it was left.
NUMPY = words(
    """
    abs absolute acos acosh add all allclose amax amin angle any append arange arccos arccosh arcsin arcsinh arctan
    arctan2 arctanh argmax argmin argpartition argsort argwhere around array array_equal array_equiv array_split
    asarray ascontiguousarray asin asinh atan atan2 atanh atleast_1d atleast_2d average bincount bitwise_and
    bitwise_or bitwise_xor blackman block bool bool_ broadcast_to cbrt ceil clip column_stack compress concat
    concatenate conj conjugate convolve copy copysign corrcoef cos cosh count_nonzero cov cross cumprod cumsum
    cumulative_sum deg2rad degrees delete diag diag_indices diagonal diff digitize divide divmod dot dsplit dstack e
    ediff1d einsum equal errstate exp exp2 expand_dims expm1 extract eye fabs finfo fix flatnonzero flip fliplr
    flipud float16 float32 float64 float_power floor floor_divide fmax fmin fmod frexp full full_like gcd geomspace
    gradient greater greater_equal hamming hanning heaviside histogram hsplit hstack hypot identity iinfo imag
    indices inf inner insert int16 int32 int64 int8 interp intersect1d invert isclose iscomplex isfinite isin isinf
    isnan isneginf isposinf isreal isscalar ix_ kron lcm ldexp left_shift less less_equal lexsort linspace log log10
    log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logspace matmul matrix_transpose
    max maximum mean median meshgrid min minimum mod modf moveaxis multiply nan nan_to_num nanargmax nanargmin
    nancumprod nancumsum nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile nanstd nansum nanvar
    ndarray ndim negative newaxis nextafter nonzero not_equal ones ones_like outer pad partition percentile pi poly
    polyadd polyder polyfit polyint polymul polysub polyval positive pow power prod ptp quantile rad2deg radians
    ravel ravel_multi_index real reciprocal remainder repeat reshape resize right_shift rint roll rollaxis roots
    rot90 round searchsorted select setdiff1d setxor1d shape sign signbit sin sinc sinh size sort split sqrt square
    squeeze stack std subtract sum swapaxes take tan tanh tensordot tile trace transpose trapezoid tri tril
    tril_indices trim_zeros triu triu_indices trunc uint16 uint32 uint64 uint8 union1d unique unravel_index unwrap
    var vdot vecdot vsplit vstack where zeros zeros_like
    """
)
NUMPY_SUBMODULES = {
    "linalg": words(
        """
        LinAlgError cholesky cond det eig eigh eigvals eigvalsh inv lstsq matrix_power matrix_rank multi_dot norm pinv
        qr slogdet solve svd
        """
    ),
    "random": words(
        """
        RandomState beta binomial choice default_rng exponential gamma laplace lognormal multivariate_normal normal
        permutation poisson rand randint randn random random_sample seed shuffle standard_normal triangular uniform
        """
    ),
}
# Only to ask whether something is of such a type, and in annotations.
NUMPY_TYPES = words("floating generic inexact integer ndarray number signedinteger unsignedinteger")
DTYPE_WORDS = words(
    "bool int int8 int16 int32 int64 uint8 uint16 uint32 uint64 float float16 float32 float64 f4 f8 i4 i8"
)
GENERATOR_METHODS = words(
    """
    beta binomial choice exponential gamma integers laplace lognormal multivariate_normal normal permutation poisson
    random shuffle standard_normal triangular uniform
    """
)
RANDOM_STATE_METHODS = NUMPY_SUBMODULES["random"] - {"RandomState", "default_rng"}
MATH = frozenset(name for name in dir(math) if not name.startswith("_"))  # all of it: functions of numbers, constants
ATTRIBUTES = words(  # of arrays and numbers; of lists, dictionaries and strings; of random generators
    """
    T all any append appendleft argmax argmin argpartition argsort astype beta binomial bit_length capitalize center
    choice clear clip conj conjugate copy count cumprod cumsum diagonal dot dtype endswith eps exponential extend
    extendleft fill find flatten fromkeys gamma get imag index insert integers is_integer isalpha isdigit islower
    isupper item items itemsize join keys laplace ljust lognormal lower lstrip max maxlen mean min
    multivariate_normal nbytes ndim nonzero normal partition permutation poisson pop popitem popleft prod ptp rand
    randint randn random random_sample ravel real remove removeprefix removesuffix repeat replace reshape resolution
    reverse rfind rjust rotate round rstrip searchsorted seed setdefault shape shuffle size sort split splitlines
    squeeze standard_normal startswith std strip sum swapaxes take tiny title tolist trace transpose triangular
    uniform update upper values var zfill
    """
)

# How often a method may be given an argument that is no keyword, so that what follows (`dtype`, `out`) has its name.
METHODS = {
    "all": 1, "any": 1, "argmax": 1, "argmin": 1, "astype": 1, "clip": 2, "conj": 0, "conjugate": 0,
    "cumprod": 1, "cumsum": 1, "dot": 1, "items": 1, "keys": 1, "max": 1,
    "mean": 1, "min": 1, "prod": 1, "ptp": 1, "round": 1, "std": 1, "sum": 1, "take": 2, "trace": 3, "var": 1,
}  # fmt: skip
METHOD_KEYWORDS = words(  # not `signature` or `casting`, which choose the types with which numpy computes
    "axis axis1 axis2 copy correction ddof decimals dtype indices initial keepdims max mean min mode offset order out "
    "where"
)
ERRSTATE = words("all divide invalid over under")  # not `call`: it would run a function in the middle of an operation
ERRSTATE_WORDS = words("ignore raise warn")

# What to write instead, by the refused name.
INSTEAD_OF_MODULES = {
    "collections": "`from collections import deque` is allowed; for the rest use lists and dictionaries",
    "copy": "use `.copy()` or `list(...)`",
    "dataclasses": "use a dictionary",
    "enum": "use constants at the top of the source",
    "functools": "use loops and helper functions",
    "itertools": "use nested loops or list comprehensions",
    "operator": "use a lambda",
    "os": "a rule reaches no files and no environment",
    "random": "use `np.random.uniform`, `np.random.normal`, `np.random.choice`",
    "scipy": "use numpy, `np.linalg` among it",
    "statistics": "use `np.mean`, `np.median`, `np.std`",
    "sys": "a rule needs nothing of it",
    "time": "there is no clock; count with `t`",
    "datetime": "there is no clock; count with `t`",
    "torch": "use numpy",
    "gymnasium": "the rule only sees `obs` and `t`",
    "gym": "the rule only sees `obs` and `t`",
    "numpy": "write `import numpy as np` and `np.` before its names",
    "math": "write `import math` and `math.` before its names",
    "warnings": "numpy's warnings are silent anyway",
    "logging": "`print` is allowed and prints nothing",
}
INSTEAD_OF_NAMES = {
    "set": SET_REFUSED.partition("; ")[2],
    "frozenset": SET_REFUSED.partition("; ")[2],
    "type": "use `isinstance`",
    "getattr": "use the attribute itself, or a dictionary",
    "setattr": "use a dictionary",
    "hasattr": "use `isinstance`, or a dictionary and `in`",
    "callable": "a rule knows what it calls",
    "format": "use `round` or `str`",
    "repr": "use `str`",
    "hash": "use a dictionary",
    "id": "use `is`",
    "complex": "use real numbers",
    "open": "a rule reaches no files: write its numbers into the source",
    "eval": "write the expression itself",
    "exec": "write the statements themselves",
    "compile": "write the expression itself",
    "object": "use a dictionary or None",
    "globals": "use a dictionary at the top of the source",
    "locals": "use a dictionary",
    "vars": "use a dictionary",
    "input": "the rule only sees `obs` and `t`",
    "NameError": "catch `Exception`",
    "AttributeError": "catch `Exception`",
    "BaseException": "catch `Exception`",
    "random": INSTEAD_OF_MODULES["random"],
}
INSTEAD_OF_NUMPY = {
    "empty": "use `np.zeros`",
    "empty_like": "use `np.zeros_like`",
    "vectorize": "write a loop or a list comprehension",
    "frompyfunc": "write a loop or a list comprehension",
    "apply_along_axis": "write a loop over the rows",
    "apply_over_axes": "give the function `axis=(0, 1)`",
    "piecewise": "use `np.select` or `np.where`",
    "fromfunction": "write a list comprehension",
    "fromiter": "use `np.array([...])`",
    "nditer": "use a loop and subscripts",
    "ndenumerate": "use two loops and subscripts",
    "ndindex": "use nested loops",
    "float": "use `float` or `np.float64`",
    "int": "use `int` or `np.int64`",
    "float_": "use `np.float64`",
    "int_": "use `np.int64`",
    "object": "only arrays of numbers are allowed",
    "object_": "only arrays of numbers are allowed",
    "dtype": "name the type itself, as in `dtype=np.float64`",
    "trapz": "use `np.trapezoid`",
    "in1d": "use `np.isin`",
    "product": "use `np.prod`",
    "alltrue": "use `np.all`",
    "sometrue": "use `np.any`",
    "asfarray": "use `np.array(x, dtype=float)`",
    "asanyarray": "use `np.asarray`",
    "matrix": "use `np.array`",
    "mat": "use `np.array`",
    "copyto": "write `a[...] = b`",
    "put": "write `a[indices] = b`",
    "fill_diagonal": "write a loop",
    "set_printoptions": "`print` prints nothing",
    "poly1d": "use `np.polyval`",
    "r_": "use `np.concatenate`",
    "c_": "use `np.column_stack`",
    "mgrid": "use `np.meshgrid`",
    "ogrid": "use `np.meshgrid`",
    "s_": "write the slice itself",
    "seterr": 'use `with np.errstate(all="ignore"):`',
    "float128": "use `np.float64`",
    "complex128": "use real numbers",
    "datetime64": "there is no clock; count with `t`",
    "lib": "use the functions of `np` itself",
    "complexfloating": "use real numbers",
    "random": "write `np.random.` and a function's name",
    "linalg": "write `np.linalg.` and a function's name",
    "frombuffer": "use `np.array([...])`",
    "fromstring": "use `np.array([...])`",
} | dict.fromkeys(("fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt"), INSTEAD_OF_NAMES["open"])
INSTEAD_OF_ATTRIBUTES = {
    "format": "use `round` or `str`, and `+`; an f-string may stand in `raise`",
    "view": "use `.astype` or `.copy`",
    "resize": "use `np.resize`",
    "flat": "use `.ravel()`",
    "data": "use the array itself",
    "base": "use `.copy()`",
    "tofile": "a rule reaches no files",
    "tostring": "use `str`",
    "tobytes": "use `.tolist()`",
    "put": "write `a[indices] = b`",
    "at": "write a loop",
    "reduce": "use `np.sum`, `np.prod`, `np.max` and the like",
    "accumulate": "use `np.cumsum` or `np.cumprod`",
    "outer": "use `np.outer`",
    "add": "sets are refused; use a list or a dict",
    "union": "sets are refused; use a list or a dict",
    "intersection": "sets are refused; use a list and `in`",
    "difference": "sets are refused; use a list and `not in`",
    "gauss": INSTEAD_OF_MODULES["random"],
    "randrange": "use `np.random.randint`",
    "isnumeric": "use `.isdigit()`",
    "encode": "use strings",
    "byteswap": "use numbers",
    "real_if_close": "use `.real`",
}
