"""Patterns for what programs print: the ready sets by name, and what is wrong with others.

It is cheap to import: a spec is checked with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Patterns:
    """Regular expressions with named groups; hpckit.monitor.log.groups says what a name means."""

    expressions: tuple[str, ...]
    # Ready ones are known to take their time from the length of a line alone.
    ready: bool = False
    # A progress bar shows what was measured once again and again.
    redrawn: bool = False
    # The program prints on its last rank, not on its first.
    last_rank: bool = False


# What stands for a number; whether it is one, is seen later.
_V = r"[^\s|;\]}]{1,64}+"
# Bars of other loops than the training's.
_NOT_TRAINING = (
    r"^(?![^|]*?\b(?i:val(?:id\w*)?|test\w*|eval\w*|sanity|predict\w*|sampling)\b[^|]*+\|)"
)


def _bar(count: str) -> tuple[str, ...]:
    """The drawings of a training's bar that show numbers, and the epoch it may be labelled with."""
    shown = r"[^\],]{1,40}+, (?P<pairs>[^\]]*+)\]"
    return (
        rf"{_NOT_TRAINING}.*?\b(?P<batch>{count})/(?P<batches>\d++) "
        r"\[[^\]<,]{1,20}+<[^\],]{1,20}+, ?" + shown,
        # Of a loop whose length nobody knows.
        rf"{_NOT_TRAINING}.*?\b(?P<batch>{count}) ?[A-Za-z]*+ " r"\[[\d:]{1,20}+, ?" + shown,
        _EPOCH,
    )


_EPOCH = r"\b[Ee]poch[\s:\[#]{0,3}(?P<epoch>\d++)"
_SETS = {
    "founding": Patterns(
        ready=True,
        expressions=(
            _EPOCH,
            r"\b(?:[Bb]atch|[Ss]tep|[Ii]ter(?:ation)?)[\s:\[#]{0,3}(?P<batch>\d[\d,]*+)"
            r"(?:\s?/\s?(?P<batches>\d[\d,]*+))?",
            r"(?:^|[\d,|;:({\]\[)-]|\b[Tt]rain(?:ing)?|\b[Tt]otal|\b[Aa]v(?:g|erage)|\b[Mm]ean)\s{0,4}+"
            rf"[Ll]oss(?:\s?+[:=]\s*+|\s)(?P<loss>{_V})",
            rf"\b[Vv]al(?:idation)?[\s_][Ll]oss\s?+[:=]\s*+(?P<val_loss>{_V})",
            rf"\b[Gg]rad(?:ient)?[\s_][Nn]orm(?:\s?+[:=]\s*+|\s)(?P<norm>{_V})",
            rf"\b(?:lr|LR|[Ll]earning[\s_][Rr]ate)\s?+[:=]\s*+(?P<lr>{_V})",
            r"^\W{0,8}(?P<parameter>[A-Za-z_]\w*+(?:\.\w++)++)\s?+[:=]\s*+"
            rf"(?P<parameter_norm>{_V})$",
        ),
    ),
    "tqdm": Patterns(ready=True, redrawn=True, expressions=_bar(r"\d++")),
    # At 0 it shows the end of the epoch before.
    "lightning": Patterns(ready=True, redrawn=True, expressions=_bar(r"[1-9]\d*+")),
    "huggingface": Patterns(
        ready=True,
        expressions=(
            r"\{(?P<pairs>(?=[^{}]*?'(?:loss|grad_norm|eval_\w++)': )[^{}]++)\}",
            # What is printed goes before the bar, which is then drawn anew, as it is by now.
            r"^\s*+\d{1,3}%\|[^|]*+\| (?P<done>\d++)/\d++ \[",
        ),
    ),
    "keras": Patterns(
        ready=True,
        expressions=(
            r"^Epoch (?P<epoch>\d++)/\d++$",
            # With and without a bar in the middle, in Keras 3, in Keras 2 and before.
            r"^(?P<batch>\d++)/(?P<batches>\d++) (?:-|\[[=>.]*+\]|[━\s]*+)[^:]*?(?:: [^-]{1,20}?)?"
            r" - (?P<pairs>[A-Za-z_]\w*+: .*+)$",
        ),
    ),
    "megatron": Patterns(
        ready=True,
        last_rank=True,
        expressions=(
            r"\biteration\s++(?P<step>\d++)/\s*+\d++ \|(?P<pairs>.*+)$",
            r"\bvalidation loss at iteration (?P<step>\d++)\b[^|]*+\| lm loss value: "
            rf"(?P<val_loss>{_V})",
        ),
    ),
}
READY: tuple[str, ...] = tuple(_SETS)


def patterns_of(name_or_list: str | Sequence[str]) -> Patterns:
    """A ready set by its name, or the user's own patterns."""
    if isinstance(name_or_list, str):
        return _SETS[name_or_list]
    return Patterns(expressions=tuple(name_or_list))
