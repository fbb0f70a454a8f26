"""What the names of a pattern's groups mean.

step                     the step, believed as it is printed, also when it goes back
epoch, batch, batches    the position, where no step is printed
done                     as many steps were done when what stands before it was printed
loss, loss_<name>        train/loss, train/loss/<name>
norm, norm_<optimizer>   grad/norm/main, grad/norm/<optimizer>; grad_norm is the same
lr, lr_<optimizer>       lr/main, lr/<optimizer>; learning_rate is the same
val_<name>               val/<name>; eval_<name> is the same
parameter, parameter_norm  the gradient norm of one parameter
pairs                    a text such as `loss=2.31, lr=1e-4` or `'loss': 2.3, 'epoch': 0.1`:
                         each name in it is read as if it were a group's
lost                     so many steps had a loss that was no number: above 0 it is NaN
any other                train/<name>
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hpckit.monitor.log.numbers import number, whole
from hpckit.monitor.reading import GATED, LOSS, MAIN, NORM, RATE, SCALE

POSITIONS = ("step", "epoch", "batch", "batches", "done")

# The same thing under other names, as programs print it.
_ALIASES = {
    "grad_norm": "norm",
    "gradient_norm": "norm",
    "learning_rate": "lr",
    "lm_loss": "loss",
    "step_loss": "loss",
    # Lightning shows both, when it is asked to.
    "loss_step": "loss",
    "number_of_nan_iterations": "lost",
}
_NAMES = {
    "loss": LOSS,
    "norm": f"{NORM}/{MAIN}",
    "lr": f"{RATE}/{MAIN}",
    "loss_epoch": f"{LOSS}_epoch",
    "loss_scale": f"{SCALE}/{MAIN}",
    "number_of_skipped_iterations": f"{GATED}/{MAIN}",
}
_PREFIXES = {
    "grad_norm_": NORM,
    "norm_": NORM,
    "loss_": LOSS,
    "lr_": RATE,
    "val_": "val",
    "eval_": "val",
}
# What is printed beside the numbers and says nothing about the training.
_IGNORED = {"epoch", "v_num", "consumed_samples", "consumed_tokens", "global_batch_size"}
_IGNORED_ENDS = ("_runtime", "_per_second", "elapsed_time_per_iteration")

_EQUALS = re.compile(r"(?<![\w./-])([A-Za-z_][\w./-]*+)=\s*+([^\s;|]++)")
_BETWEEN = re.compile(r",\s|\s-\s|\||;")
_COLON = re.compile(r"\s*+[:]\s*+")
_BRACKETS = re.compile(r"\([^)]*+\)")
_NO_NAME = re.compile(r"[^\w./]++")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one line says."""

    position: Mapping[str, int]
    values: Mapping[str, float]
    parameters: Mapping[str, float] = field(default_factory=dict)


def metric(name: str) -> str:
    """The reading's name for a group's: `grad_norm` is grad/norm/main."""
    name = _ALIASES.get(name, name)
    if name in _NAMES:
        return _NAMES[name]
    for prefix, group in _PREFIXES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    rest = name.removeprefix("train_")
    return f"train/{name}" if rest in ("", name) else metric(rest)


def found_in(matches: Iterable[Mapping[str, str]]) -> Found | None:
    """What the matches of one line say together; None where that is nothing."""
    position: dict[str, int] = {}
    values: dict[str, float] = {}
    parameters: dict[str, float] = {}
    for groups in matches:
        for name, text in groups.items():
            if name in POSITIONS:
                if (at := whole(text)) is not None:
                    position[name] = at
            elif name == "pairs":
                for key, value in _pairs(text):
                    _put(values, key, value)
            elif name == "parameter_norm":
                if (value_ := number(text)) is not None:
                    parameters[groups.get("parameter", "")] = value_
            elif name != "parameter":
                _put(values, name, number(text))
    if not (position or values or parameters):
        return None
    return Found(position=position, values=values, parameters=parameters)


def _put(values: dict[str, float], name: str, value: float | None) -> None:
    if value is None or name in _IGNORED or name.endswith(_IGNORED_ENDS):
        return
    if _ALIASES.get(name, name) == "lost":
        if value > 0:
            values[LOSS] = math.nan
        return
    read = metric(name)
    # A program that counts what it skipped has no gate of ours: nothing skipped says nothing.
    if value > 0 or not read.startswith(GATED):
        values[read] = value


def _pairs(text: str) -> Iterator[tuple[str, float | None]]:
    for name, value in _split(text):
        if short := _name(name):
            yield short, number(value)


def _split(text: str) -> Iterator[tuple[str, str]]:
    if "=" in text:
        yield from _EQUALS.findall(text)
        return
    for part in _BETWEEN.split(text):
        name, *value = _COLON.split(part, maxsplit=1)
        if value:
            yield name, value[0]


def _name(printed: str) -> str:
    """`'Grad norm (L2)'` is grad_norm; a slash groups, and is the underscore of a group."""
    plain = _NO_NAME.sub("_", _BRACKETS.sub("", printed).strip().lower()).strip("_")
    return plain.replace("/", "_")
