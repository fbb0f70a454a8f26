"""One declaration, three uses: a frozen dataclass read from YAML nodes, written as JSON, and told
to editors as a JSON Schema."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.kinds import (
    BAD,
    Anything,
    Choice,
    Kind,
    ListOf,
    MapOf,
    Number,
    Schema,
    Text,
    Truth,
    Whole,
    complain,
    described,
    did_you_mean,
)

T = TypeVar("T")


def setting(*, help: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field of a section, with the sentence that editors and documentation show for it."""
    return field(default=default, metadata={"help": help}, **more)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a section, ready for reading."""

    kind: Kind
    required: bool
    help: str


@dataclass(eq=False, repr=False)
class Section(Kind):
    """A mapping with known names: a dataclass."""

    cls: type

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        values = read_fields(self.cls, node, problems, path)
        return BAD if values is None else made(self.cls, values)

    def schema(self) -> Schema:
        fields = fields_of(self.cls)
        found: Schema = {
            "type": "object",
            "properties": {name: _property(each) for name, each in fields.items()},
            "additionalProperties": False,
        }
        required = [name for name, each in fields.items() if each.required]
        return found | ({"required": required} if required else {})

    def write(self, value: Any) -> Any:
        return to_json(value)


def build(cls: type[T], node: yamlio.Node, problems: list[Problem], path: str = "") -> T | None:
    """The dataclass that a node describes, or None; problems are added, all of them."""
    before = len(problems)
    value: Any = BAD
    with contextlib.suppress(yamlio.TooManyProblems):
        value = Section(cls).read(node, problems, path)
    return None if value is BAD or len(problems) > before else value


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass as plain values, from which build makes an equal one."""
    found = {}
    for name, each in fields_of(type(value)).items():
        content = getattr(value, name)
        found[name] = None if content is None else each.kind.write(content)
    return found


def json_schema(cls: type) -> Schema:
    """The JSON Schema of a dataclass and all below it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__,
        **Section(cls).schema(),
    }


def read_fields(
    cls: type, node: yamlio.Node, problems: list[Problem], path: str
) -> dict[str, Any] | None:
    """What was given for each field, BAD where it cannot be used; None where nothing can."""
    fields = fields_of(cls)
    if not isinstance(node, yamlio.Mapping):
        complain(problems, node, path, f"must be a mapping, not {described(node)}")
        return None
    found: dict[str, Any] = {}
    for key, each in node.pairs.items():
        where = f"{path}.{key}" if path else key
        known = fields.get(key)
        if known is None:
            complain(problems, node.keys[key], where, _unknown(key, fields))
        elif not yamlio.is_null(each):
            found[key] = known.kind.read(each, problems, where)
        elif known.required:
            found[key] = complain(problems, node.keys[key], where, "needs a value")
    for name, known in fields.items():
        if known.required and name not in found:
            where = f"{path}.{name}" if path else name
            found[name] = complain(problems, node, where, "is missing")
    return found


def made(cls: type, values: Mapping[str, Any]) -> Any:
    """The dataclass, with the default for what is BAD, so that further checks can go on."""
    given = {name: value for name, value in values.items() if value is not BAD}
    if any(each.required and name not in given for name, each in fields_of(cls).items()):
        return BAD
    return cls(**given)


def fields_of(cls: type) -> dict[str, Field]:
    """The fields of a dataclass with their kinds; resolved on first use, imports stay cheap."""
    if cls not in _FIELDS:
        _FIELDS[cls] = _resolved_fields(cls)
    return _FIELDS[cls]


_FIELDS: dict[type, dict[str, Field]] = {}


def _resolved_fields(cls: type) -> dict[str, Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        each.name: Field(
            kind=kind_of(hints[each.name]),
            required=each.default is dataclasses.MISSING
            and each.default_factory is dataclasses.MISSING,
            help=each.metadata.get("help", ""),
        )
        for each in dataclasses.fields(cls)
    }


def kind_of(hint: Any) -> Kind:
    """The kind that a type hint asks for; a Kind inside Annotated is taken as it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return next(each for each in arguments[1:] if isinstance(each, Kind))
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not types.NoneType)
        return kind_of(inner)
    if origin is typing.Literal:
        return Choice(arguments)
    if origin in (tuple, list):
        return ListOf(item=kind_of(arguments[0]))
    if origin is dict:
        key = kind_of(arguments[0]) if arguments[0] is not str else None
        assert key is None or isinstance(key, (Text, Choice))
        return MapOf(item=kind_of(arguments[1]), key=key)
    if dataclasses.is_dataclass(hint):
        return Section(typing.cast("type", hint))
    return _SIMPLE[hint]


_SIMPLE: dict[Any, Kind] = {
    str: Text(),
    int: Whole(),
    float: Number(),
    bool: Truth(),
    Any: Anything(),
}


def _unknown(key: str, fields: Mapping[str, Field]) -> str:
    homes = [
        name
        for name, each in fields.items()
        if isinstance(each.kind, Section) and key in fields_of(each.kind.cls)
    ]
    if homes:
        return f"unknown key; did you mean '{homes[0]}.{key}'?"
    return "unknown key" + did_you_mean(key, list(fields))


def _property(each: Field) -> Schema:
    """A field's schema; what has a default may also be left empty."""
    found = each.kind.schema()
    if not each.required:
        found = _or_nothing(found)
    return {"description": each.help, **found} if each.help else found


def _or_nothing(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*kinds, "null"]}
    return schema
