"""Divisions in the program's own code: where each stands, and how small what it divides by became.

While a training that exploded may do so again, each pass of its loop is looked at from within: of
every place that divides, the smallest divisor and the largest quotient are kept, on the device.
The place beside the parameter to blame is then named. At all other times nothing of this is there.
"""

from __future__ import annotations

import linecache
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import hpckit
from hpckit.monitor.incident import Division
from hpckit.train.parameters import plain_name

# Code in these is nobody's own.
OURS = tuple(f"{Path(each).parent}{os.sep}" for each in (torch.__file__, hpckit.__file__))
BY_OTHER = {"div", "div_", "divide", "divide_", "true_divide", "true_divide_"}
BY_ITSELF = {"__rdiv__", "__rtruediv__", "reciprocal", "reciprocal_"}
ROOTS = {"rsqrt", "rsqrt_"}
POWERS = {"pow", "pow_", "float_power", "float_power_"}
# Of torch.nn.functional, whose own division is within.
BY_ITS_NORM = {"normalize"}
DIVIDE = BY_OTHER | BY_ITSELF | ROOTS | POWERS | BY_ITS_NORM
# More places than a model has; a program that makes code as it goes must not fill the memory.
MOST_PLACES = 2000
LONGEST_LINE = 160
Name = tuple[int, str]
# Where the modes of a thread are; torch's own way in takes off whatever is on top.
STACK: Any = torch._C


@dataclass(slots=True)
class _Place:
    """Where something is divided, in one module; the rest is on the device."""

    code: CodeType
    line: int
    # Which of the models, and the module's name in it; None outside of all.
    module: Name | None
    first: Tensor
    smallest: Tensor
    largest: Tensor

    @property
    def shrunk(self) -> float:
        """The smallest divisor by the one that was seen first."""
        first = float(self.first)
        return float(self.smallest) / first if first > 0 else 1.0

    @property
    def is_known(self) -> bool:
        """Whether it ever divided by a number."""
        return not math.isnan(float(self.smallest))

    def told(self) -> Division:
        named = f" ({self.module[1]})" if self.module is not None and self.module[1] else ""
        file = os.path.basename(self.code.co_filename)
        line = linecache.getline(self.code.co_filename, self.line).strip()
        largest = float(self.largest)
        return Division(
            place=f"{file}:{self.line} in {self.code.co_qualname}{named}",
            line=line[:LONGEST_LINE],
            smallest=float(self.smallest),
            largest=math.inf if math.isnan(largest) else largest,
        )


class Divisions(TorchFunctionMode):
    """Looks at divisions between `begin` and `end`; trouble of its own switches it off."""

    def __init__(self, models: Mapping[str, nn.Module], tell: Callable[[str], None]) -> None:
        super().__init__()
        self._models = list(models.values())
        self._names: dict[int, Name] = {
            id(module): (number, plain_name(f"{name}.").removesuffix("."))
            for number, model in enumerate(self._models)
            for name, module in model.named_modules()
        }
        self._tell = tell
        self._places: dict[tuple[CodeType, int, Name | None], _Place] = {}
        self._is_off = any(map(is_compiled, self._models))
        self._is_there = False

    def begin(self) -> None:
        """A pass begins."""
        if not self._is_off and not anything_compiled():
            self._guarded(self._push)

    def _push(self) -> None:
        self.end()
        STACK._push_on_torch_function_stack(self)
        self._is_there = True

    def end(self) -> None:
        """It is over: nothing is looked at, whatever the program has put on top meanwhile."""
        if not self._is_there:
            return
        self._is_there = False
        above = []
        for _ in range(STACK._len_torch_function_stack()):
            if (top := STACK._pop_torch_function_stack()) is self:
                break
            above.append(top)
        for each in reversed(above):
            STACK._push_on_torch_function_stack(each)

    def forget(self) -> None:
        """The state was put back: what is seen from now on is another approach."""
        self._places.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in DIVIDE or self._is_off or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        # First: a division in place may change what it divides by.
        divided = self._guarded(lambda: _divided(name, args, kwargs))
        found = func(*args, **kwargs)
        if divided is not None:
            self._guarded(lambda: self._note(divided, found))
        return found

    def _guarded(self, look: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad():
                return look()
        except Exception as error:
            self._is_off = True
            self._places.clear()
            what = f"{type(error).__name__}: {str(error)[:200]}"
            self._tell(f"divisions are not looked at any more: {what}")
            return None

    def _note(self, smallest: Tensor, quotient: Any) -> None:
        if not isinstance(quotient, Tensor) or not quotient.requires_grad:
            return
        frame = _program(sys._getframe(1))
        if frame is None:
            return
        largest = quotient.detach().abs().amax()
        key = frame.f_code, frame.f_lineno, self._module(frame)
        known = self._places.get(key)
        if known is not None:
            # These two pass over a NaN.
            known.smallest = torch.fmin(known.smallest, smallest)
            known.largest = torch.fmax(known.largest, largest)
        elif len(self._places) < MOST_PLACES:
            self._places[key] = _Place(*key, smallest, smallest, largest)

    def _module(self, frame: FrameType | None) -> Name | None:
        """The innermost module whose code is running."""
        while frame is not None:
            code = frame.f_code
            if "self" in code.co_varnames or "self" in code.co_freevars:
                name = self._names.get(id(frame.f_locals.get("self")))
                if name is not None:
                    return name
            frame = frame.f_back
        return None

    def beside(self, parameter: str | None, of: Iterable[Tensor]) -> Division | None:
        """The division next to a parameter of these: in its own module or the nearest around.

        Of several the one whose divisor has shrunk the most since it was seen first.
        """
        found = self._guarded(lambda: self._beside(parameter, {id(each) for each in of}))
        return found if isinstance(found, Division) else None

    def _beside(self, parameter: str | None, of: set[int]) -> Division | None:
        if parameter is None:
            return None
        model = self._model_of(parameter, of)
        path = parameter.split(".")[:-1]
        places = [each for each in self._places.values() if each.is_known]
        places.sort(key=lambda each: (*_far(each.module, model, path), each.shrunk))
        return places[0].told() if places else None

    def _model_of(self, parameter: str, of: set[int]) -> int | None:
        """Several models may have a parameter of this name."""
        for number, model in enumerate(self._models):
            for name, each in model.named_parameters():
                if id(each) in of and plain_name(name) == parameter:
                    return number
        return None


def _far(module: Name | None, model: int | None, path: list[str]) -> tuple[int, int]:
    """How far a module is from a parameter: what they share of their paths, and what is beyond.

    What stands in a module, and in one that is right beneath it, is equally near to what is in it.
    """
    if module is None or module[0] != model:
        return 1, 0
    own = module[1].split(".") if module[1] else []
    pairs = enumerate(zip(own, path, strict=False))
    shared = next((n for n, (a, b) in pairs if a != b), min(len(own), len(path)))
    beyond = len(own) - shared
    return -shared, 0 if shared and beyond <= 1 else beyond


def _divided(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The smallest of what a call divides by; None where it is by no tensor."""
    first = args[0] if args else kwargs.get("input")
    second = args[1] if len(args) > 1 else kwargs.get("exponent", kwargs.get("other"))
    if name in BY_OTHER:
        return _smallest(second)
    if name in BY_ITSELF:
        return _smallest(first)
    if name in ROOTS:
        return _smallest(first, 0.5)
    if name in BY_ITS_NORM:
        return _smallest(_norm(*args, **kwargs))
    if name in POWERS and isinstance(second, (int, float)) and second < 0:
        return _smallest(first, -float(second))
    return None


def _norm(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Any:
    """What `normalize` divides by, which takes these."""
    return input.norm(p, dim).clamp_min(eps) if _can_look(input) else None


def _smallest(divisor: Any, power: float = 1.0) -> Tensor | None:
    """By size, and with a power; None of what is no plain tensor."""
    if type(divisor) not in (Tensor, nn.Parameter) or not _can_look(divisor):
        return None
    smallest: Tensor = divisor.detach().abs().amin()
    return smallest if power == 1.0 else smallest**power


def _can_look(divisor: Tensor) -> bool:
    if not divisor.is_floating_point() or not divisor.numel() or divisor.layout != torch.strided:
        return False
    if divisor.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    # Within torch.func tensors are not themselves.
    return torch._C._functorch.peek_interpreter_stack() is None


def _program(frame: FrameType | None) -> FrameType | None:
    """The nearest frame of the program's own code."""
    while frame is not None and frame.f_code.co_filename.startswith((*OURS, "<frozen")):
        frame = frame.f_back
    return frame


def is_compiled(model: nn.Module) -> bool:
    """Whether a part of it is: it would be compiled anew for being looked at."""
    return any(
        hasattr(each, "_orig_mod") or getattr(each, "_compiled_call_impl", None) is not None
        for each in model.modules()
    )


def anything_compiled() -> bool:
    """Whether a function of this process was, which nobody registers."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counters.get("frames"))
