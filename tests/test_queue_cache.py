"""Asking Slurm, but not too often."""

from __future__ import annotations

import pytest

from hpckit.errors import SchedulerSilent
from hpckit.scheduler.base import Cause
from hpckit.status import queue_cache
from hpckit.status.queue_cache import QueueCache
from tests.test_outcome import status


class Counting:
    """A scheduler that counts how often it is asked."""

    kind = "slurm"

    def place(self):
        return "/etc/slurm/slurm.conf"

    def __init__(self):
        self.queues = self.histories = 0
        self.silent = False

    def queue(self):
        self.queues += 1
        if self.silent:
            raise SchedulerSilent("squeue gave no answer in 20 s")
        return [status(None)]

    def history(self, names, since):
        self.histories += 1
        return [status(Cause.NODE_FAIL)] if "a/b" in names else []


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1_000.0

        def time(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(queue_cache, "time", found)
    return found


def test_squeue_is_asked_at_most_once_in_half_a_minute_by_all_commands_together(tmp_path, clock):
    slurm = Counting()
    for _ in range(50):
        # Each is what another command, in another terminal, would make.
        assert QueueCache(slurm, tmp_path).queue() == [status(None)]
    assert slurm.queues == 1
    clock.now += 30
    QueueCache(slurm, tmp_path).queue()
    assert slurm.queues == 2


def test_sacct_is_asked_at_most_once_in_five_minutes_and_never_again_for_what_it_has_told(
    tmp_path, clock
):
    slurm = Counting()
    for _ in range(5):
        (found,), unheard = QueueCache(slurm, tmp_path).history(["a/b"], "")
        assert (found.cause, unheard) == (Cause.NODE_FAIL, {})
    assert slurm.histories == 1
    found, unheard = QueueCache(slurm, tmp_path).history(["a/b", "c/d"], "")
    assert [status.name for status in found] == ["a/b"]
    assert unheard == {"c/d": "accounting was asked less than five minutes ago"}
    clock.now += 300
    assert QueueCache(slurm, tmp_path).history(["a/b", "c/d"], "")[1] == {}
    assert slurm.histories == 2
    # That accounting does not know a name is an answer too: states must not flap.
    assert QueueCache(slurm, tmp_path).history(["a/b", "c/d"], "")[1] == {}
    assert slurm.histories == 2


def test_commands_that_look_in_the_same_moment_do_not_all_ask(tmp_path, clock):
    slurm = Counting()
    QueueCache(slurm, tmp_path).queue()
    clock.now += 60
    asked = []

    class Slow(Counting):
        def queue(self):
            # While this one asks, another command looks.
            asked.append(QueueCache(slurm, tmp_path).queue())
            return []

    assert QueueCache(Slow(), tmp_path).queue() == []
    assert (len(asked), slurm.queues) == (1, 1)


def test_a_time_that_is_yet_to_come_means_nothing(tmp_path, clock):
    slurm = Counting()
    QueueCache(slurm, tmp_path).queue()
    clock.now -= 500
    QueueCache(slurm, tmp_path).queue()
    assert slurm.queues == 2


def test_what_we_changed_ourselves_is_asked_anew(tmp_path, clock):
    slurm = Counting()
    QueueCache(slurm, tmp_path).queue()
    QueueCache(slurm, tmp_path).forget()
    QueueCache(slurm, tmp_path).queue()
    assert slurm.queues == 2


def test_silence_is_remembered_so_that_nothing_hangs_twice(tmp_path, clock):
    slurm = Counting()
    slurm.silent = True
    for _ in range(5):
        with pytest.raises(SchedulerSilent, match="no answer"):
            QueueCache(slurm, tmp_path).queue()
    assert slurm.queues == 1
    slurm.silent = False
    clock.now += 31
    assert QueueCache(slurm, tmp_path).queue() == [status(None)]


def test_a_cache_that_cannot_be_written_asks_each_time(clock):
    slurm = Counting()
    for _ in range(3):
        QueueCache(slurm, queue_cache.Path("/proc/nowhere")).queue()
    assert slurm.queues == 3
