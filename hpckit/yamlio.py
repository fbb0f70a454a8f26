"""Strict YAML: nodes that know their line and column; nothing is ever constructed or run."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import NotFound, Problem, SpecError, UsageError

if TYPE_CHECKING:
    import yaml

SIZE_LIMIT = 512 * 1024
DEPTH_LIMIT = 64
ALIAS_LIMIT = 100_000
NUMBER_LENGTH = 400
# A hostile file can have a problem in each of its bytes; nobody reads beyond the first page.
PROBLEMS_LIMIT = 100

UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WHOLE = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*(?:_[0-9]+)*)|0x[0-9a-fA-F]+|0o[0-7]+)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
)
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
# One object, so that two specs that carry it compare equal.
_NAN = float("nan")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN", "NaN"), _NAN),
    # How Python writes JSON, which must read back as what it was.
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}


class Node:
    """One value of a YAML file and where it stands; lines and columns count from 1."""

    __slots__ = ("column", "file", "line")

    def __init__(self, file: str, line: int, column: int) -> None:
        self.file = file
        self.line = line
        self.column = column


class Scalar(Node):
    """A word or number as written; plain is False where it was quoted."""

    __slots__ = ("plain", "text")

    def __init__(self, file: str, line: int, column: int, text: str, plain: bool) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.text = text
        self.plain = plain


class Sequence(Node):
    """A list of nodes."""

    __slots__ = ("items",)

    def __init__(self, file: str, line: int, column: int) -> None:
        super().__init__(file, line, column)
        self.items: list[Node] = []


class Mapping(Node):
    """Named nodes in the order of the file, and the nodes of their names."""

    __slots__ = ("keys", "pairs")

    def __init__(self, file: str, line: int, column: int) -> None:
        super().__init__(file, line, column)
        self.pairs: dict[str, Node] = {}
        self.keys: dict[str, Scalar] = {}


class TooManyProblems(Exception):
    """So much is wrong that looking on would only take time."""


def add_problem(problems: list[Problem], problem: Problem) -> None:
    """Write a problem down; TooManyProblems once a page is full."""
    problems.append(problem)
    if len(problems) >= PROBLEMS_LIMIT:
        raise TooManyProblems


def resolve(node: Scalar) -> str | int | float | bool | None:
    """What a scalar stands for by YAML 1.2's core rules; ValueError where no number can hold it."""
    text = node.text
    if not node.plain:
        return text
    if text in _WORDS:
        return _WORDS[text]  # type: ignore[no-any-return]
    if text[0] not in "0123456789+-.":
        return text
    if _WHOLE.fullmatch(text):
        _refuse_long(text)
        return int(text, 10 if text.lstrip("+-")[1:2] not in ("x", "o") else 0)
    if _FLOAT.fullmatch(text):
        _refuse_long(text)
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large for a number: write .inf if you mean infinity")
        return value
    if _INFINITE.fullmatch(text):
        return float("-inf") if text[0] == "-" else float("inf")
    return text


def is_null(node: Node) -> bool:
    """Whether nothing is given: an empty value, `null` or `~`."""
    return (
        isinstance(node, Scalar)
        and node.plain
        and node.text in _WORDS
        and _WORDS[node.text] is None
    )


def read(path: Path) -> Node:
    """The node of a whole file; SpecError carries what is wrong in it."""
    return parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes, but never much more than a spec may have."""
    try:
        # A pipe would be read once and never again, and may never end.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(f"{path} is no regular file", "write the spec into a file")
        with path.open("rb") as stream:
            return stream.read(SIZE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no file {path}", "name the spec, such as jobs/train.yaml") from None
    except IsADirectoryError:
        raise UsageError(
            f"{path} is a folder, not a file", f"name the spec: {path}/job.yaml"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {path}: {reason}") from None


def parse(source: str | bytes, file: str) -> Node:
    """The node of a text; SpecError with every problem found."""
    problems: list[Problem] = []
    node = None
    with contextlib.suppress(TooManyProblems):
        node = compose(source, file, problems)
    if node is None or problems:
        raise SpecError(problems)
    return node


def compose(source: str | bytes, file: str, problems: list[Problem]) -> Node | None:
    """The node of a text, or None where it is too broken to go on; problems are added."""
    # Resolved specs are JSON: whoever reads these alone may have no yaml.
    import yaml

    text = ""
    try:
        text = _decoded(source, file)
        return _compose(text, file, problems)
    except _Broken as broken:
        add_problem(problems, broken.problem)
    except yaml.YAMLError as error:
        add_problem(problems, _readable(error, file, text))
    return None


class _Broken(Exception):
    def __init__(self, file: str, line: int, column: int, message: str) -> None:
        self.problem = Problem(file, line, column, "", message)


def _decoded(source: str | bytes, file: str) -> str:
    if len(source) > SIZE_LIMIT:
        raise _Broken(file, 1, 1, f"the file is larger than {SIZE_LIMIT // 1024} KiB")
    if isinstance(source, bytes):
        source = _utf8(source, file)
    if found := UNPRINTABLE.search(source):
        line = source.count("\n", 0, found.start()) + 1
        column = found.start() - source.rfind("\n", 0, found.start())
        raise _Broken(file, line, column, f"character {found[0]!r} may not stand in YAML")
    return source


def _utf8(data: bytes, file: str) -> str:
    if b"\0" in data:
        raise _Broken(file, 1, 1, "the file is not text (it has NUL bytes); save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise _Broken(file, line, column, "the file is not UTF-8 text") from None


def _compose(text: str, file: str, problems: list[Problem]) -> Node:
    import yaml

    # The pure parser gives the same events, some ten times slower.
    events: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    source = events(text)
    builder = _Builder(file, problems)
    documents = 0
    try:
        while True:
            event = source.get_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                builder.scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                builder.open(event, kind is yaml.MappingStartEvent)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                builder.close()
            elif kind is yaml.AliasEvent:
                builder.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    mark = event.start_mark
                    message = "a second document begins here: a spec is one document"
                    raise _Broken(file, mark.line + 1, 1, message)
            elif kind is yaml.StreamEndEvent:
                return builder.root or Scalar(file, 1, 1, "", True)
    finally:
        source.dispose()


class _Frame:
    """A collection that is still open; size and height count its aliases in full."""

    __slots__ = ("anchor", "height", "key", "merges", "node", "size")

    def __init__(self, node: Mapping | Sequence, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Scalar | None = None
        self.merges: list[Mapping] = []
        self.size = 1
        self.height = 1


class _Builder:
    """Builds nodes from events with a stack of its own, so that no nesting overflows Python's."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        self.root: Node | None = None
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.expanded = 0

    def scalar(self, event: Any) -> None:
        mark = event.start_mark
        plain = not event.style
        node = Scalar(self.file, mark.line + 1, mark.column + 1, event.value, plain)
        if event.tag is not None:
            self._refuse_tag(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, 1, 0)
        self._add(node, 1, 0)

    def open(self, event: Any, is_mapping: bool) -> None:
        mark = event.start_mark
        kind = Mapping if is_mapping else Sequence
        node = kind(self.file, mark.line + 1, mark.column + 1)
        if event.tag is not None:
            self._refuse_tag(event)
        self.stack.append(_Frame(node, event.anchor))
        self._check_depth(node, 0)

    def close(self) -> None:
        frame = self.stack.pop()
        if frame.merges:
            _merge(frame)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.node, frame.size, frame.height)
        self._add(frame.node, frame.size, frame.height)

    def alias(self, event: Any) -> None:
        mark, name = event.start_mark, event.anchor
        here = Node(self.file, mark.line + 1, mark.column + 1)
        if any(frame.anchor == name for frame in self.stack):
            raise self._broken(here, f"the alias *{name} stands inside what it names")
        if name not in self.anchors:
            raise self._broken(
                here, f"the alias *{name} names nothing: no &{name} stands before it"
            )
        node, size, height = self.anchors[name]
        self.expanded += size
        if self.expanded > ALIAS_LIMIT:
            raise self._broken(here, f"the aliases stand for more than {ALIAS_LIMIT:,} values")
        self._check_depth(here, height)
        self._add(node, size, height)

    def _add(self, node: Node, size: int, height: int) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.size += size
        if height >= frame.height:
            frame.height = height + 1
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node)
        else:
            key, frame.key = frame.key, None
            if key.text == "<<" and key.plain:
                self._take_merge(frame, key, node)
            else:
                self._pair(frame.node, key, node)

    def _key(self, node: Node) -> Scalar:
        if isinstance(node, Scalar):
            if not node.text:
                self._complain(node, "a name is missing before the colon")
            elif "\0" in node.text:
                self._complain(node, "a name must not hold a NUL character")
            return node
        self._complain(node, "a name must be a word, not a list or a mapping")
        return Scalar(self.file, node.line, node.column, "?", False)

    def _pair(self, mapping: Mapping, key: Scalar, node: Node) -> None:
        first = mapping.keys.get(key.text)
        if first is None:
            mapping.keys[key.text] = key
            mapping.pairs[key.text] = node
        else:
            self._complain(key, f"{key.text!r} is given twice, first in line {first.line}")

    def _take_merge(self, frame: _Frame, key: Scalar, node: Node) -> None:
        sources = node.items if isinstance(node, Sequence) else [node]
        if frame.merges:
            self._complain(key, "'<<' is given twice: write one, with a list")
        for source in sources:
            if isinstance(source, Mapping):
                frame.merges.append(source)
            else:
                self._complain(key, "'<<' takes a mapping, or a list of mappings")
                return

    def _refuse_tag(self, event: Any) -> None:
        mark = event.start_mark
        tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
        message = f"the tag {tag} is refused: a spec holds plain values only, nothing is run"
        self._complain(Node(self.file, mark.line + 1, mark.column + 1), message)

    def _check_depth(self, node: Node, height: int) -> None:
        if len(self.stack) + height > DEPTH_LIMIT:
            raise self._broken(node, f"nested deeper than {DEPTH_LIMIT} levels")

    def _complain(self, node: Node, message: str) -> None:
        add_problem(self.problems, Problem(self.file, node.line, node.column, "", message))

    def _broken(self, node: Node, message: str) -> _Broken:
        return _Broken(self.file, node.line, node.column, message)


def _merge(frame: _Frame) -> None:
    node = frame.node
    assert isinstance(node, Mapping)
    pairs: dict[str, Node] = {}
    keys: dict[str, Scalar] = {}
    # What stands first wins over later sources, and what the mapping says itself over all.
    for source in (*reversed(frame.merges), node):
        pairs.update(source.pairs)
        keys.update(source.keys)
    node.pairs, node.keys = pairs, keys


def _refuse_long(text: str) -> None:
    if len(text) > NUMBER_LENGTH:
        raise ValueError(f"a number of {len(text)} digits is too long: put it in quotes as text")


def _readable(error: yaml.YAMLError, file: str, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = str(getattr(error, "problem", None) or error)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines() or [""]
    told = f"not valid YAML: {_explained(what, error, line)}"
    if line > len(lines):
        # The end of the text is told where an editor can go.
        line, column = len(lines), len(lines[-1]) + 1
    if "${" in lines[line - 1]:
        told += "; inside {} or [] a value with ${...} must stand in quotes"
    return Problem(file, line, column, "", told)


def _explained(what: str, error: yaml.YAMLError, line: int) -> str:
    if "tab" in what or "cannot start any token" in what:
        return (
            "a tab cannot indent (use spaces), and a value that begins with @, ` or % "
            "must stand in quotes"
        )
    if what.startswith("mapping values are not allowed"):
        return "an unexpected ': ' (put the value in quotes, or check the indentation)"
    start = getattr(error, "context_mark", None)
    context = str(getattr(error, "context", None) or "").removeprefix("while ")
    if start is not None and start.line + 1 != line:
        return f"{what} ({context} that begins in line {start.line + 1})"
    return f"{what} ({context})" if context else what


def find(node: Node, *steps: str) -> Node:
    """The node under a chain of names, or the nearest one above it that exists."""
    for step in steps:
        if not isinstance(node, Mapping) or step not in node.pairs:
            return node
        node = node.pairs[step]
    return node


def from_json(source: Any, file: str, problems: list[Problem]) -> Node | None:
    """The nodes of JSON text, or of the value in it."""
    try:
        value = json.loads(source) if isinstance(source, (str, bytes)) else source
        return _from_value(value, file, 0)
    except json.JSONDecodeError as error:
        told = f"not valid JSON: {error.msg}"
        add_problem(problems, Problem(file, error.lineno, error.colno, "", told))
    except (RecursionError, UnicodeDecodeError) as error:
        add_problem(problems, Problem(file, 1, 1, "", f"not valid JSON: {error}"))
    except _Broken as broken:
        add_problem(problems, broken.problem)
    return None


def _from_value(value: Any, file: str, depth: int) -> Node:
    if depth > 2 * DEPTH_LIMIT:
        raise _Broken(file, 1, 1, f"nested deeper than {2 * DEPTH_LIMIT} levels")
    if isinstance(value, dict):
        mapping = Mapping(file, 1, 1)
        for key, each in value.items():
            mapping.keys[str(key)] = Scalar(file, 1, 1, str(key), False)
            mapping.pairs[str(key)] = _from_value(each, file, depth + 1)
        return mapping
    if isinstance(value, (list, tuple)):
        sequence = Sequence(file, 1, 1)
        sequence.items = [_from_value(each, file, depth + 1) for each in value]
        return sequence
    if isinstance(value, str):
        return Scalar(file, 1, 1, value, False)
    return Scalar(file, 1, 1, json.dumps(value), True)
