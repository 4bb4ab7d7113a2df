"""Optimiser steps with gradients that were computed apart."""

import os
import shutil
import sys
from collections.abc import Sequence

import torch
import torch.optim as optim

Gradients = tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]
"""Gradients of an optimiser's parameters, and what to log of the losses."""


def parameters_of(optimizer: optim.Optimizer) -> list[torch.Tensor]:
    """The parameters of all its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def take_step(optimizer: optim.Optimizer, gradients: Sequence[torch.Tensor]) -> None:
    """One step with these gradients of the optimiser's parameters."""
    for parameter, gradient in zip(parameters_of(optimizer), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def minimise(loss: torch.Tensor, optimizer: optim.Optimizer) -> None:
    """One step on the loss, with gradients for the optimiser's parameters and none for what lies between."""
    take_step(optimizer, torch.autograd.grad(loss, parameters_of(optimizer)))


def check_compiler() -> None:
    """Raise ValueError where torch.compile has no C++ compiler to work with."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise ValueError(f"--compile failed: there is no {compiler} here; it needs a C++ compiler such as g++")
