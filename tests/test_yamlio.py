"""Strict YAML with line and column."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpckit import yamlio
from hpckit.errors import NotFound, SpecError, UsageError
from hpckit.model.kinds import Anything


def value(text: str | bytes) -> Any:
    problems: list[Any] = []
    found = Anything().read(yamlio.parse(text, "job.yaml"), problems, "")
    assert problems == []
    return found


def refusals(text: str | bytes) -> list[str]:
    with pytest.raises(SpecError) as refused:
        yamlio.parse(text, "job.yaml")
    return [str(problem) for problem in refused.value.problems]


@pytest.fixture(params=["libyaml", "pure Python"])
def any_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure Python":
        monkeypatch.setattr(yaml, "__with_libyaml__", False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("2e4", 20_000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1_000),
        ("1_000.5", 1_000.5),
        ("0x1F", 31),
        ("0o17", 15),
        ("-0", 0),
        ("+12", 12),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("Infinity", math.inf),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("False", False),
        *((word, word) for word in ("on", "off", "yes", "no", "No", "y", "n")),
        *((word, word) for word in ("0123", "007", "12:00:00", "01:30:00", "2026-07-20", "1_")),
        *((word, word) for word in ("1e", "e5", "0b1", "0x", "1__0", "-x", "+", ".", "1.2.3", "٣")),
    ],
)
def test_a_plain_word_means_what_a_person_expects(text: str, expected: Any) -> None:
    found = value(f"key: {text}")["key"]
    assert (found, type(found)) == (expected, type(expected))


def test_a_value_that_is_no_number_is_one_and_the_same_so_that_specs_compare_equal() -> None:
    assert value("[.nan]") == value("[NaN]")


@pytest.mark.parametrize("text", ["'1e-3'", '"null"', "'true'", "|-\n  12"])
def test_a_quoted_word_stays_text(text: str) -> None:
    assert isinstance(value(f"key: {text}")["key"], str)


def test_names_are_text_as_written() -> None:
    assert value("on: 1\n1: 2\nnull: 3\nyes: 4") == {"on": 1, "1": 2, "null": 3, "yes": 4}


def test_a_number_that_no_machine_holds_is_refused_at_its_place() -> None:
    problems: list[Any] = []
    Anything().read(yamlio.parse(f"a: 1e999\nb: {'9' * 5_000}", "f"), problems, "")
    assert [(each.line, each.column) for each in problems] == [(1, 4), (2, 4)]


@pytest.mark.usefixtures("any_parser")
def test_every_node_knows_its_line_and_column() -> None:
    root = yamlio.parse("# first\nñé:\n  - x\n  - {b: 'ü', c: d}\n", "job.yaml")
    assert isinstance(root, yamlio.Mapping)
    items = root.pairs["ñé"]
    assert isinstance(items, yamlio.Sequence)
    inner = items.items[1]
    assert isinstance(inner, yamlio.Mapping)
    found = [(each.line, each.column) for each in (root, items, inner, inner.keys["c"])]
    assert found == [(2, 1), (3, 3), (4, 5), (4, 14)]


@pytest.mark.usefixtures("any_parser")
def test_line_ends_of_windows_and_a_byte_order_mark_change_nothing() -> None:
    assert value("\ufeffa: 1\r\nb:\r\n  - x\r\n".encode()) == {"a": 1, "b": ["x"]}


def test_json_is_yaml() -> None:
    assert value('{"a": [1, 2.5, null, true, "x\\n"]}') == {"a": [1, 2.5, None, True, "x\n"]}


def test_an_empty_file_is_nothing() -> None:
    assert yamlio.is_null(yamlio.parse("", "f"))
    assert yamlio.is_null(yamlio.parse("# only a comment\n", "f"))


@pytest.mark.usefixtures("any_parser")
def test_a_name_given_twice_is_refused_with_the_line_of_the_first() -> None:
    assert refusals("a: 1\nb: 2\na: 3\n") == ["job.yaml:3:1: 'a' is given twice, first in line 1"]


def test_all_names_given_twice_are_told_at_once() -> None:
    assert len(refusals("a: 1\na: 2\nb: {c: 1, c: 2}\n")) == 2


def test_merge_keys_fill_in_what_a_mapping_does_not_say_itself() -> None:
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nall: {c: 3, <<: [*one, *two]}"
    assert value(text)["all"] == {"a": 1, "b": 1, "c": 3}


def test_a_quoted_merge_sign_is_an_ordinary_name() -> None:
    assert value("'<<': {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize("merged", ["1", "[1]", "[[{}]]"])
def test_only_mappings_can_be_merged(merged: str) -> None:
    assert "'<<' takes a mapping" in refusals(f"<<: {merged}")[0]


@pytest.mark.usefixtures("any_parser")
@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("!!python/object/apply:os.system ['touch FILE']", "!!python/object/apply:os.system"),
        ("!!python/name:os.system ''", "!!python/name:os.system"),
        ("!!str 1", "!!str"),
        ("!!binary aGk=", "!!binary"),
        ("!mine {a: 1}", "!mine"),
        ("! x", "!"),
    ],
)
def test_tags_are_refused_by_name_and_nothing_runs(tag: str, told: str, tmp_path: Path) -> None:
    (refusal,) = refusals(f"a: {tag.replace('FILE', str(tmp_path / 'made'))}\n")
    assert refusal.startswith(f"job.yaml:1:4: the tag {told} is refused")
    assert list(tmp_path.iterdir()) == []


def laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


def tall_aliases() -> str:
    """Each alias adds 50 levels: shallow as text, far too deep as a tree."""
    lines = ["a0: &a0 x"]
    lines += [f"a{n}: &a{n} {'[' * 50}*a{n - 1}{']' * 50}" for n in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (laughs(), "stand for more than 100,000 values"),
        (tall_aliases(), "nested deeper than 64 levels"),
        ("a: &a [*a]", "stands inside what it names"),
        ("a: *b", "names nothing"),
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("{a: " * 100_000, "nested deeper than 64 levels"),
        ("- " * 100_000, "nested deeper than 64 levels"),
        ("a: 1\n" * 2_000_000, "larger than 512 KiB"),
        (b"a: 1\n" * 2_000_000, "larger than 512 KiB"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "not text"),
        (b"a: \xff\xfe", "not UTF-8"),
        ("a: 1".encode("utf-16"), "not text"),
        ("a: \x07", "may not stand in YAML"),
        ("a: \ud800", "may not stand in YAML"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("a:\n\t- b", "a tab cannot indent"),
        ("a: b: c", "an unexpected ': '"),
        ("a: [1, 2\nb: 3", "begins in line 1"),
        ("a: 'x", "not valid YAML"),
        ("a: @x", "must stand in quotes"),
        ("? [1, 2]\n: 3", "a name must be a word"),
        ("'': 3", "a name is missing"),
        ("%", "not valid YAML"),
        ("a: |99\n x", "not valid YAML"),
        ('"a\\0b": 1', "NUL"),
    ],
)
def test_hostile_input_gets_one_clear_error_at_once(source: str | bytes, told: str) -> None:
    start = time.process_time()
    (refusal,) = refusals(source)
    assert told in refusal
    assert len(refusal) < 300
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "fill", ["a: 1\n", "[", "- ", "&a ", "*a ", "? ", "'", "\t", "#", "{", "!!x ", "\n", "a "]
)
def test_half_a_megabyte_of_anything_is_read_or_refused_in_a_moment(fill: str) -> None:
    text = (fill * (yamlio.SIZE_LIMIT // len(fill)))[: yamlio.SIZE_LIMIT]
    start = time.process_time()
    with contextlib.suppress(SpecError):
        yamlio.parse(text, "f")
    assert time.process_time() - start < 5


def test_aliases_within_the_limit_are_fine() -> None:
    assert value("a: &a [1, 2]\nb: *a\nc: [*a, *a]")["c"] == [[1, 2], [1, 2]]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        yamlio.read(tmp_path / "no.yaml")
    with pytest.raises(NotFound, match="no file"):
        yamlio.read(Path(os.devnull) / "no.yaml")


def test_a_folder_and_a_path_that_cannot_be_opened_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        yamlio.read(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        yamlio.read(Path("x" * 5_000))
    with pytest.raises(UsageError, match="cannot read"):
        yamlio.read(Path("a\0b"))


def test_what_is_no_regular_file_is_not_read_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (Path("/dev/zero"), tmp_path / "pipe.yaml"):
        with pytest.raises(UsageError, match="no regular file"):
            yamlio.read(path)
