"""guided_utils/optimisation.py: Adam as torch has it, in one call and written out; what is added to a product."""

import copy
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_utils import optimisation
from guided_utils.optimisation import Adam, affine, minimise, parameters_of, take_step


def traced(function):
    """The function as the compiler reads it, run without a C++ compiler."""
    return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)


@pytest.mark.parametrize("mode", ["plain", "compiled"])
def test_steps_are_those_of_torchs_adam(mode):
    """Two groups with rates of their own, in double precision; gradients that are large, tiny and 0."""
    torch.manual_seed(0)
    ours = [torch.randn(3, 2).double().requires_grad_(), torch.randn(()).double().requires_grad_()]
    theirs = copy.deepcopy(ours)
    groups = [([{"params": [a]}, {"params": [b], "lr": 0.5}]) for a, b in (ours, theirs)]
    adam, reference = Adam(groups[0], lr=0.01), torch.optim.Adam(groups[1], lr=0.01, foreach=False, fused=False)
    step = traced(take_step) if mode == "compiled" else take_step
    for scale in (1.0, 1e3, 1e-6, 0.0, 1.0):
        gradients = [scale * torch.randn_like(parameter) for parameter in ours]
        step(adam, gradients)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
        # the compiled step takes its two corrections of the moments in single precision
        tolerance = dict(rtol=1e-6, atol=1e-9) if mode == "compiled" else dict(rtol=1e-12, atol=0)
        torch.testing.assert_close(ours, theirs, **tolerance)
    for a, b in zip(ours, theirs, strict=True):
        assert adam.state[a]["step"] == reference.state[b]["step"] == 5


def test_what_is_saved_of_it_is_what_torchs_fused_adam_saves():
    """… and a compiled step goes on from what was loaded."""
    parameter = torch.ones(4, requires_grad=True)
    adam, fused = Adam([parameter], lr=0.1), torch.optim.Adam([torch.ones(4, requires_grad=True)], lr=0.1, fused=True)
    for optimizer in (adam, fused):
        minimise(parameters_of(optimizer)[0].square().sum(), optimizer)
    torch.testing.assert_close(adam.state_dict(), fused.state_dict(), rtol=0, atol=0)
    step, saved = traced(take_step), copy.deepcopy(adam.state_dict())
    step(adam, [torch.ones(4)])
    adam.load_state_dict(saved)
    step(adam, [torch.ones(4)])
    assert adam.state[parameter]["step"] == 2
    torch.testing.assert_close(adam.state[parameter]["exp_avg"], torch.full((4,), 0.9 * 0.2 + 0.1))  # gradients 2, 1


@given(seed=st.integers(0, 1_000), rows=st.sampled_from([1, 5]))
@settings(max_examples=20, deadline=None)
def test_a_product_with_something_added(seed, rows):
    """In double precision beside einsum; not compiled it is baddbmm to the bit."""
    torch.manual_seed(seed)
    bias, x, weight = torch.randn(2, rows, 3).double(), torch.randn(2, 5, 4).double(), torch.randn(2, 4, 3).double()
    expected = torch.einsum("nbi,nio->nbo", x, weight) + bias
    torch.testing.assert_close(affine(bias, x, weight), expected)
    torch.testing.assert_close(traced(affine)(bias, x, weight), expected)
    assert torch.equal(affine(bias, x, weight), torch.baddbmm(bias, x, weight))


def test_bf16_is_measured_beside_float32_without_random_numbers(monkeypatch):
    """As a clock of our own says, within a factor of ten: processors without its instructions take 200 times as long.
    By hand: 4 ms in float32 and 1 ms in bfloat16, the fastest of three times each, is 4 times as fast."""

    def seconds(dtype: torch.dtype) -> float:
        x, w, times = torch.ones(64, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype), []
        for _ in range(20):
            begin = time.perf_counter()
            x @ w
            times.append(time.perf_counter() - begin)
        return min(times)

    before = torch.get_rng_state()
    expected = seconds(torch.float32) / seconds(torch.bfloat16)
    assert 0.1 < optimisation.speed_in_bf16(64, torch.device("cpu")) / expected < 10
    assert torch.equal(before, torch.get_rng_state())

    class Timer:
        def __init__(self, statement: str, globals: dict, num_threads: int):
            assert statement == "x @ w" and num_threads == torch.get_num_threads()
            assert (globals["x"] @ globals["w"]).shape == (64, 256)
            times = {torch.float32: [0.006, 0.004, 0.005], torch.bfloat16: [0.001, 0.003, 0.002]}
            self.times = times[globals["x"].dtype]

        def timeit(self, number: int) -> SimpleNamespace:
            return SimpleNamespace(median=self.times.pop())

    monkeypatch.setattr(optimisation, "Timer", Timer)
    assert optimisation.speed_in_bf16(64, torch.device("cpu")) == pytest.approx(4.0)
