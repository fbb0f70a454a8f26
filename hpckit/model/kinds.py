"""What one value of a spec may be: how it is read, written as JSON, and told to editors."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpckit import units, yamlio
from hpckit.errors import Problem

Schema = dict[str, Any]

# Beyond so many names, comparing takes longer than it helps.
SUGGESTIONS_LIMIT = 300

# Kinds are dataclasses without comparison and repr: those would be compiled at every start.


class _Bad:
    """Stands for a value that could not be read; the problem has been written down."""

    def __repr__(self) -> str:
        return "BAD"


BAD: Any = _Bad()


def complain(problems: list[Problem], node: yamlio.Node, path: str, message: str) -> Any:
    """Write a problem down where it stands; gives BAD."""
    yamlio.add_problem(problems, Problem(node.file, node.line, node.column, path, message))
    return BAD


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A suggestion such as `; did you mean 'time'?`, or what is known, or nothing."""
    if len(known) > SUGGESTIONS_LIMIT:
        return ""
    close = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def nearly(word: str, known: Sequence[str]) -> str:
    """What to say of a new parameter whose name is nearly a known one: most often that is meant."""
    close = difflib.get_close_matches(word[:80], known[:SUGGESTIONS_LIMIT], n=1, cutoff=0.6)
    if not close:
        return ""
    return f"names no parameter; did you mean {close[0]!r}? A new one needs a value under params"


def described(node: yamlio.Node) -> str:
    """What a node is, for a message."""
    if isinstance(node, yamlio.Mapping):
        return "a mapping"
    if isinstance(node, yamlio.Sequence):
        return "a list"
    assert isinstance(node, yamlio.Scalar)
    if yamlio.is_null(node):
        return "nothing"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    return text if node.plain and "\n" not in text else json.dumps(text, ensure_ascii=False)


class Kind:
    """How one type of value is read from a node, written as JSON and described as a schema."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        raise NotImplementedError

    def schema(self) -> Schema:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        return value


@dataclass(kw_only=True, eq=False, repr=False)
class Text(Kind):
    """Text as written: `007` and `off` stay what they are."""

    pattern: str = ""
    expected: str = "text"
    empty: bool = False
    one_line: bool = False

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Scalar) or yamlio.is_null(node):
            return complain(problems, node, path, f"must be {self.expected}, not {described(node)}")
        if message := self.complaint(node.text):
            return complain(problems, node, path, message)
        return node.text

    def complaint(self, text: str) -> str:
        """What is wrong with a text, or nothing."""
        if "\0" in text:
            return "must not hold a NUL character"
        if self.one_line and _CONTROL.search(text):
            return "must be one line without control characters"
        if not text and not self.empty:
            return "must not be empty"
        if self.pattern and not re.fullmatch(self.pattern, text):
            return f"must be {self.expected}, not {_quoted(text)}"
        return ""

    def schema(self) -> Schema:
        if self.pattern:
            return {**_spellings(self.pattern), "pattern": anchored(self.pattern)}
        found: Schema = {"type": ["string", "number", "boolean"]}
        if not self.empty:
            found["minLength"] = 1
        return found | {"pattern": anchored(r"[^\x00-\x1f\x7f]*" if self.one_line else r"[^\x00]*")}


@dataclass(kw_only=True, eq=False, repr=False)
class Whole(Kind):
    """A whole number."""

    min: int | None = None
    max: int | None = None

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = _resolved(node, problems, path)
        if value is BAD:
            return BAD
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return complain(problems, node, path, f"must be a whole number, not {described(node)}")
        return _within(value, self.min, self.max, node, problems, path)

    def schema(self) -> Schema:
        return {"type": "integer", **_bounds(self.min, self.max)}


@dataclass(kw_only=True, eq=False, repr=False)
class Number(Kind):
    """A finite number; above is a bound that it must be greater than."""

    above: float | None = None

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = _resolved(node, problems, path)
        if value is BAD:
            return BAD
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
            return complain(problems, node, path, f"must be a number, not {described(node)}")
        if self.above is not None and value <= self.above:
            return complain(problems, node, path, f"must be more than {self.above:g}, not {value}")
        return value

    def schema(self) -> Schema:
        bound = {} if self.above is None else {"exclusiveMinimum": self.above}
        return {"type": "number", **bound}


class Truth(Kind):
    """true or false, also as on and off, yes and no."""

    words: typing.ClassVar[dict[str, bool]] = {
        "on": True, "yes": True, "off": False, "no": False
    }  # fmt: skip

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = _resolved(node, problems, path)
        if isinstance(value, bool):
            return value
        if value is not BAD and isinstance(value, str) and value in self.words:
            return self.words[value]
        if value is BAD:
            return BAD
        return complain(problems, node, path, f"must be true or false, not {described(node)}")

    def schema(self) -> Schema:
        return {"enum": [True, False, *self.words]}


@dataclass(eq=False, repr=False)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar) and node.text in self.words:
            return node.text
        message = f"must be one of {', '.join(self.words)}, not {described(node)}"
        if isinstance(node, yamlio.Scalar):
            close = did_you_mean(node.text, self.words)
            message += close if "mean" in close else ""
        return complain(problems, node, path, message)

    def complaint(self, text: str) -> str:
        return "" if text in self.words else "unknown" + did_you_mean(text, self.words)

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


@dataclass(kw_only=True, eq=False, repr=False)
class Duration(Kind):
    """A duration such as `1h30m`, kept in seconds."""

    min: int = 0

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = _measured(units.parse_duration, "a duration such as 24h", node, problems, path)
        if value is not BAD and value < self.min:
            least = units.format_duration(self.min)
            return complain(
                problems, node, path, f"must be at least {least}, not {described(node)}"
            )
        return value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": anchored(units.DURATION_PATTERN)}

    def write(self, value: Any) -> Any:
        return units.format_duration(value)


class Size(Kind):
    """A size such as `64G`, kept in megabytes."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = _measured(units.parse_size, "a size such as 64G", node, problems, path)
        if value is not BAD and value < 1:
            return complain(problems, node, path, "must be at least 1M")
        return value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": anchored(units.SIZE_PATTERN)}

    def write(self, value: Any) -> Any:
        return units.format_size(value)


class Anything(Kind):
    """Whatever YAML holds: numbers, words, lists and mappings; None where it cannot be held."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Mapping):
            pairs = node.pairs.items()
            return {key: self.read(each, problems, f"{path}.{key}") for key, each in pairs}
        if isinstance(node, yamlio.Sequence):
            return [self.read(each, problems, f"{path}[{n}]") for n, each in enumerate(node.items)]
        value = _resolved(node, problems, path)
        if isinstance(value, str) and "\0" in value:
            value = complain(problems, node, path, "must not hold a NUL character")
        return None if value is BAD else value

    def schema(self) -> Schema:
        return {}


class Plain(Anything):
    """One word or number."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar):
            return super().read(node, problems, path)
        return complain(problems, node, path, f"must be one value, not {described(node)}")

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"]}


@dataclass(kw_only=True, eq=False, repr=False)
class ListOf(Kind):
    """A list; kept as a tuple."""

    item: Kind
    least: int = 0

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Sequence):
            message = f"must be a list, not {described(node)}"
            if isinstance(node, yamlio.Scalar) and not yamlio.is_null(node):
                message += f": write [{described(node)}]"
            return complain(problems, node, path, message)
        if len(node.items) < self.least:
            return complain(problems, node, path, "must not be an empty list")
        read = self.item.read
        found = [read(each, problems, f"{path}[{n}]") for n, each in enumerate(node.items)]
        # Without the bad ones the others would stand at a wrong place.
        return BAD if any(each is BAD for each in found) else tuple(found)

    def schema(self) -> Schema:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), **least}

    def write(self, value: Any) -> Any:
        return [self.item.write(each) for each in value]


@dataclass(kw_only=True, eq=False, repr=False)
class MapOf(Kind):
    """A mapping from names to values of one kind."""

    item: Kind
    key: Text | Choice | None = None

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Mapping):
            return complain(problems, node, path, f"must be a mapping, not {described(node)}")
        found = {}
        for key, each in node.pairs.items():
            where = f"{path}.{key}" if path else key
            message = self.key.complaint(key) if self.key is not None else ""
            if message:
                complain(problems, node.keys[key], where, message)
            else:
                value = self.item.read(each, problems, where)
                if value is not BAD:
                    found[key] = value
        return found

    def schema(self) -> Schema:
        found: Schema = {"type": "object", "additionalProperties": self.item.schema()}
        if isinstance(self.key, Choice):
            found["propertyNames"] = self.key.schema()
        elif self.key is not None:
            found["propertyNames"] = {"pattern": anchored(self.key.pattern)}
        return found

    def write(self, value: Any) -> Any:
        return {key: self.item.write(each) for key, each in value.items()}


@dataclass(eq=False, repr=False)
class Either(Kind):
    """A short spelling for one field of a section, or the section in full."""

    short: Kind
    full: Kind
    name: str

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar):
            node = in_full(node, self.name)
        return self.full.read(node, problems, path)

    def schema(self) -> Schema:
        return {"anyOf": [self.short.schema(), self.full.schema()]}

    def write(self, value: Any) -> Any:
        return self.full.write(value)


def in_full(node: yamlio.Node, name: str) -> yamlio.Mapping:
    """A mapping that holds a value under a name, where the value stood alone."""
    mapping = yamlio.Mapping(node.file, node.line, node.column)
    mapping.pairs[name] = node
    mapping.keys[name] = yamlio.Scalar(node.file, node.line, node.column, name, True)
    return mapping


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def short(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def anchored(pattern: str) -> str:
    """A pattern that holds for a whole text, also where `$` would let a last newline pass."""
    return rf"^(?:{pattern})$(?!\n)"


def _spellings(pattern: str) -> Schema:
    """The types whose text can match: YAML reads `name: 7` as a number, we as the text 7."""
    kinds = ["string"]
    if re.fullmatch(pattern, "true"):
        kinds.append("boolean")
    if not re.fullmatch(pattern, "1"):
        return {"type": kinds}
    found: Schema = {"type": [*kinds, "number"]}
    return found if re.fullmatch(pattern, "-1") else {**found, "minimum": 0}


def _resolved(node: yamlio.Node, problems: list[Problem], path: str) -> Any:
    if not isinstance(node, yamlio.Scalar):
        return _NOT_SCALAR
    try:
        return yamlio.resolve(node)
    except ValueError as error:
        return complain(problems, node, path, str(error))


_NOT_SCALAR = object()


def _measured(
    parse: Any, expected: str, node: yamlio.Node, problems: list[Problem], path: str
) -> Any:
    if not isinstance(node, yamlio.Scalar):
        return complain(problems, node, path, f"must be {expected}, not {described(node)}")
    try:
        return parse(node.text)
    except ValueError as error:
        return complain(problems, node, path, str(error))


def _within(
    value: int,
    least: int | None,
    most: int | None,
    node: yamlio.Node,
    problems: list[Problem],
    path: str,
) -> Any:
    if least is not None and value < least:
        return complain(problems, node, path, f"must be at least {least}, not {described(node)}")
    if most is not None and value > most:
        return complain(problems, node, path, f"must be at most {most}, not {described(node)}")
    return value


def _bounds(least: int | None, most: int | None) -> Schema:
    low = {} if least is None else {"minimum": least}
    return low | ({} if most is None else {"maximum": most})


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
