"""Writes that a dying machine cannot tear."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from hpckit.errors import CannotWrite
from hpckit.files import append_line, read_json, read_lines, told_apart, write_atomic, write_json


def test_a_torn_last_line_is_passed_over_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, {"n": 1})
    append_line(path, {"n": 2})
    with open(path, "ab") as stream:
        stream.write(b'{"n": 3, "te')
    assert [line["n"] for line in read_lines(path)] == [1, 2]


def test_a_file_that_is_missing_or_half_is_nothing(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    assert read_json(tmp_path / "half.json") is None
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_failed_write_leaves_the_old_text_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "null"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no plain file"):
        write_atomic(pipe, "new")
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["null"]


@pytest.mark.parametrize("place", ["no/such/a.html", "file/a.html", "folder"])
def test_a_file_that_cannot_be_written_is_called_by_its_own_name(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite) as caught, told_apart(tmp_path):
        write_atomic(tmp_path / place, "new")
    assert str(caught.value).startswith(f"cannot write {tmp_path / place}: ")


def test_a_refusal_to_write_names_the_place_and_what_to_do(tmp_path):
    with pytest.raises(CannotWrite) as caught, told_apart(tmp_path):
        (tmp_path / "no" / "such").mkdir()
    assert str(tmp_path / "no" / "such") in str(caught.value)
    assert "HPCKIT_ROOT" in str(caught.value)


def test_a_reader_never_sees_half_a_file_while_its_writer_is_killed(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"n": -1, "pad": "x" * 200_000})
    code = (
        "import sys; from pathlib import Path; from hpckit.files import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    write_json(Path(sys.argv[1]), {'n': n, 'pad': 'x' * 200_000}); n += 1\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            assert len(json.loads(path.read_text())["pad"]) == 200_000
        writer.kill()
        writer.wait()
        assert len(json.loads(path.read_text())["pad"]) == 200_000


def test_a_line_that_does_not_fit_leaves_no_half_of_it(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    append_line(path, {"kind": "one"})
    write = os.write

    def full(descriptor, data):
        if len(data) > 5:
            return write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for place in (path, tmp_path / "new.jsonl"):
        with pytest.raises(OSError, match="No space"):
            append_line(place, {"kind": "two"})
    monkeypatch.undo()
    assert not (tmp_path / "new.jsonl").exists()
    append_line(path, {"kind": "three"})
    assert [line["kind"] for line in read_lines(path)] == ["one", "three"]
