"""Where torch tells what a program does; whatever goes wrong in listening, the program goes on."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from hpckit.integrations.attached.attached import Attached
from hpckit.monitor.readings.background import tell


class Guard:
    """Keeps the program from one part of what listens: it fails once, is told, and is off."""

    def __init__(self, what: str, undo: Callable[[], None] = lambda: None) -> None:
        self._what = what
        self._undo = undo
        self._is_off = False
        # A process that was forked, a data loader's, is none of ours.
        self._process = os.getpid()

    def __call__(self, act: Callable[..., Any], *args: Any) -> Any:
        if self._is_off or os.getpid() != self._process:
            return None
        try:
            return act(*args)
        except Exception as error:
            self._is_off = True
            tell(f"attach: {self._what}: {type(error).__name__}: {error}; the program goes on")
            with contextlib.suppress(Exception):
                self._undo()
            return None


class Hooks:
    """Torch's own hooks where it has them; elsewhere the function that everybody calls."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._steps = Guard("optimizers are not watched any more", attached.undo)
        self._losses = Guard("losses are not seen any more")
        self._clips = Guard("the program's own clipping is not seen any more")

    def bind(self) -> None:
        atexit.register(self._finish)
        self._attached.meeting.when_begun = self._finish_first
        self._bind_steps()
        self._bind_scaler()
        self._bind_backward()
        self._bind_clipping()

    def _finish(self) -> None:
        self._steps(self._attached.finish)

    def _finish_first(self) -> None:
        """Before the sinks, which have been made by now, and end by themselves."""
        atexit.unregister(self._finish)
        atexit.register(self._finish)

    def _bind_steps(self) -> None:
        attached, guard = self._attached, self._steps

        # What a program compiles is compiled without us: we are no part of its graph.
        is_compiling = torch.compiler.is_compiling

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            if is_compiling():
                return None
            return guard(attached.before, optimizer, args, kwargs, guard)

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if not is_compiling():
                guard(attached.after, optimizer)

        register_optimizer_step_pre_hook(before)
        register_optimizer_step_post_hook(after)

    def _bind_scaler(self) -> None:
        attached, guard = self._attached, self._steps
        step = GradScaler.step

        @functools.wraps(step)
        def scaled_step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_enabled():
                return step(self, optimizer, *args, **kwargs)
            guard(attached.scaling, self, optimizer)
            found = step(self, optimizer, *args, **kwargs)
            guard(attached.scaled)
            return found

        GradScaler.step = scaled_step  # type: ignore[method-assign]

    def _bind_backward(self) -> None:
        attached, guard = self._attached, self._losses
        backward = torch.autograd.backward

        @functools.wraps(backward)
        def heard(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
            if not torch.compiler.is_compiling():
                guard(attached.heard.backward, tensors, grad_tensors)
            backward(tensors, grad_tensors, *args, **kwargs)

        torch.autograd.backward = heard

    def _bind_clipping(self) -> None:
        attached, guard = self._attached, self._clips
        clip = torch.nn.utils.clip_grad_norm_

        @functools.wraps(clip)
        def clipped(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            mine = [parameters] if isinstance(parameters, torch.Tensor) else parameters
            if iter(mine) is mine:
                # It can be gone through once.
                mine = list(mine)
                parameters = (each for each in mine)
            total = clip(parameters, max_norm, *args, **kwargs)
            guard(attached.heard.clipped, mine, max_norm, total)
            return total

        torch.nn.utils.clip_grad_norm_ = clipped
        torch.nn.utils.clip_grad.clip_grad_norm_ = clipped
