"""The append-only history of a run."""

from __future__ import annotations

from hpckit.ledger import Ledger, final, last


def test_writers_have_files_of_their_own_and_are_merged_by_time(tmp_path):
    one, other = Ledger(tmp_path, "one"), Ledger(tmp_path, "other")
    one.write("submit", chains=[1])
    other.write("attempt", number=1)
    one.write("submitted", job_id="7")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "other.jsonl"]
    events = Ledger(tmp_path).events()
    assert [event.kind for event in events] == ["submit", "attempt", "submitted"]
    assert last(events, "attempt").writer == "other"


def test_a_writer_that_died_in_the_middle_of_a_line_spoils_nothing(tmp_path):
    Ledger(tmp_path, "one").write("submit")
    (tmp_path / "two.jsonl").write_bytes(b'{"time":"2026-01-01T00:00:00.000Z","kind":"fin')
    assert [event.kind for event in Ledger(tmp_path).events()] == ["submit"]


def test_the_first_end_counts_until_the_run_is_submitted_again(tmp_path):
    ledger = Ledger(tmp_path, "one")
    ledger.write("submit")
    assert final(ledger.events()) is None
    ledger.write("finished", state="done")
    ledger.write("finished", state="cancelled")
    assert final(ledger.events()).data["state"] == "done"
    ledger.write("submit")
    assert final(ledger.events()) is None


def test_a_worker_that_lives_on_after_its_node_was_lost_ends_nothing(tmp_path):
    ledger = Ledger(tmp_path, "one")
    ledger.write("submit")
    ledger.write("attempt", number=1)
    ledger.write("attempt", number=2)
    ledger.write("finished", state="done", attempt=1)
    assert final(ledger.events()) is None
    ledger.write("finished", state="failed", attempt=2)
    assert final(ledger.events()).data["state"] == "failed"


def test_two_writers_never_choose_the_same_name(tmp_path):
    assert Ledger(tmp_path).writer != Ledger(tmp_path).writer


def test_a_folder_that_is_not_there_has_no_events(tmp_path):
    assert Ledger(tmp_path / "none").events() == []


def test_a_worker_whose_clock_is_behind_ends_its_run_all_the_same(tmp_path):
    early = '{"time":"2020-01-01T00:00:00.000000Z","kind":"finished","state":"done","chain":1}\n'
    (tmp_path / "worker.jsonl").write_text(early)
    ledger = Ledger(tmp_path, "login")
    ledger.write("submit", chains=[1])
    assert final(ledger.events()).data["state"] == "done"
    ledger.write("submit", chains=[2])
    assert final(ledger.events()) is None


def test_a_line_in_which_a_count_is_no_number_is_passed_over(tmp_path):
    ledger = Ledger(tmp_path, "one")
    ledger.write("attempt", number="x")
    ledger.write("resumed", attempt=1, step=[])
    ledger.write("finished", state="done", attempt=1)
    assert [event.kind for event in ledger.events()] == ["finished"]
    assert final(ledger.events()).data["state"] == "done"
