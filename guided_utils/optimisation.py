"""Optimiser steps with gradients that were computed apart, and what makes an update worth compiling."""

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.optim as optim
from torch.utils.benchmark import Timer

Logs = dict[str, torch.Tensor]
"""What to log of an update, by name, without gradients."""
Gradients = tuple[tuple[torch.Tensor, ...], Logs]
"""Gradients of an optimiser's parameters, and what to log of the losses."""


class Adam(optim.Adam):
    """torch's fused Adam, whose state is there from the beginning, so that `take_step` can be compiled.

    torch's own methods import torch's compiler, a third of a run's start: what they do is called without them.
    """

    def __init__(self, params: Iterable, lr: float):
        super().__init__(params, lr=lr, fused=True)
        self._lay_out()

    def _lay_out(self) -> None:
        """The state of parameters that have none, as torch's first step makes it."""
        for parameter in parameters_of(self):
            if parameter not in self.state:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; parameters that the saved one did not have begin anew."""
        super().load_state_dict(state_dict)
        self._lay_out()

    def add_param_group(self, param_group: dict) -> None:
        """As torch's."""
        optim.Optimizer.add_param_group.__wrapped__(self, param_group)

    @torch.no_grad()
    def step(self) -> None:
        """What torch's own calls in the end, to the bit, without what it looks at before: 40 µs less."""
        for group in self.param_groups:
            parameters, (beta1, beta2) = group["params"], group["betas"]
            states = [self.state[parameter] for parameter in parameters]
            steps, means, squares = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                parameters, [parameter.grad for parameter in parameters], means, squares, [], steps, lr=group["lr"],
                beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip


def parameters_of(optimizer: optim.Optimizer) -> list[torch.Tensor]:
    """The parameters of all its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def take_step(optimizer: Adam, gradients: Sequence[torch.Tensor]) -> None:
    """One step with these gradients of the optimiser's parameters (Kingma & Ba 2015, Algorithm 1, with torch's ε).

    In compiled code Adam is written out, since torch's own ends a graph: the compiler joins it, and the soft update of
    the targets, into one pass over each weight.
    """
    parameters = parameters_of(optimizer)
    if not torch.compiler.is_compiling():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return
    rates = [group["lr"] for group in optimizer.param_groups for _ in group["params"]]
    (beta1, beta2), eps = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]
    with torch.no_grad():
        torch._foreach_add_([optimizer.state[parameter]["step"] for parameter in parameters], 1)
        t = optimizer.state[parameters[0]]["step"].double()  # that of all
        # 1 / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ), written as exponentials: these the compiler computes once and keeps, powers
        # it computes anew for every 16 numbers of a weight, which takes longer than all the rest
        scale = torch.exp(-torch.log1p(-torch.exp(t * math.log(beta1)))).float()
        root = torch.exp(-0.5 * torch.log1p(-torch.exp(t * math.log(beta2)))).float()
        for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
            m, v = optimizer.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg_sq"]
            m.lerp_(gradient, 1 - beta1)
            v.lerp_(gradient.square(), 1 - beta2)
            parameter.sub_(rate * scale * m / (v.sqrt() * root + eps))


def minimise(loss: torch.Tensor, optimizer: optim.Optimizer) -> None:
    """One step on the loss, with gradients for the optimiser's parameters and none for what lies between."""
    take_step(optimizer, torch.autograd.grad(loss, parameters_of(optimizer)))


def affine(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """bias + x W of a batch of matrices: (N, 1 or B, out), (N, B, in), (N, in, out) → (N, B, out).

    `baddbmm` first copies the bias into its result. The compiler instead joins the addition with what comes after it,
    which rounds otherwise.
    """
    return torch.bmm(x, weight) + bias if torch.compiler.is_compiling() else torch.baddbmm(bias, x, weight)


def speed_in_bf16(batch: int, device: torch.device, width: int = 256) -> float:
    """How many times as fast as in float32 a product (batch, width) × (width, width) is in bfloat16; takes some ms."""

    def seconds(dtype: torch.dtype) -> float:
        x, w = (
            torch.ones(batch, width, dtype=dtype, device=device),
            torch.ones(width, width, dtype=dtype, device=device),
        )
        timer = Timer("x @ w", globals={"x": x, "w": w}, num_threads=torch.get_num_threads())
        return min(timer.timeit(10).median for _ in range(3))

    return seconds(torch.float32) / seconds(torch.bfloat16)


def compiler(wanted: bool) -> Callable:
    """Turns a function, which may take gradients, into one graph of one size; with False it leaves it as it is."""
    if not wanted:
        return lambda function: function
    torch._dynamo.config.trace_autograd_ops = True
    return partial(torch.compile, dynamic=False, fullgraph=True)


def check_compiler() -> None:
    """Raise ValueError where torch.compile has no C++ compiler to work with."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise ValueError(f"--compile failed: there is no {compiler} here; it needs a C++ compiler such as g++")
