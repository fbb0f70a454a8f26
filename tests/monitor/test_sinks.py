"""Sinks as a training sees them: whatever happens to one, the training goes on."""

from __future__ import annotations

import time

import pytest

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings import background
from hpckit.monitor.readings.background import Background
from hpckit.monitor.readings.mlflow import MlflowSink
from hpckit.monitor.readings.sink import Sink
from hpckit.monitor.readings.wandb import WandbSink

DRIFT = Incident(kind="drift", step=2, answer="tell", said="norm rises")


def reading(step, loss=1.0):
    return Reading(step=step, time=1000.0 + step, values={"train/loss": loss})


class Notebook(Background):
    """Notes what arrives; fails or waits when told to."""

    def __init__(self, error=None, pause_s=0.0):
        self.error, self.pause_s = error, pause_s
        self.seen, self.settled, self.finished = [], 0, 0
        super().__init__()

    def consume(self, batch):
        time.sleep(self.pause_s)
        if self.error and batch:
            raise self.error
        self.seen += batch

    def settle(self):
        self.settled += 1

    def finish(self):
        self.finished += 1


def test_what_was_left_arrives_in_order_and_close_lets_go():
    sink: Sink = Notebook()
    given = [reading(1), reading(2), DRIFT, reading(3)]
    for each in given:
        (sink.incident if isinstance(each, Incident) else sink.write)(each)
    sink.close()
    sink.close()
    sink.write(reading(4))
    sink.incident(DRIFT)
    sink.flush()
    assert sink.seen == given
    assert (sink.settled > 0, sink.finished) == (True, 1)
    assert not sink._thread.is_alive()


def test_a_sink_that_raises_is_told_once_and_dropped(capsys):
    sink = Notebook(error=RuntimeError("no such project"))
    for step in range(5):
        sink.write(reading(step))
        sink.flush()
    assert not sink._items
    sink.close()
    said = "hpckit: sink: RuntimeError: no such project; the training goes on without it\n"
    assert capsys.readouterr().err == said


def test_readings_that_wait_too_long_are_counted_and_take_no_more_memory(monkeypatch, capsys):
    monkeypatch.setattr(background, "MOST", 10)
    sink = Notebook(pause_s=0.2)
    sink.write(reading(0))
    sink.incident(DRIFT)
    time.sleep(0.05)
    for step in range(1, 31):
        sink.write(reading(step))
    sink.incident(DRIFT)
    sink.close()
    assert sink.lost == 20
    assert [each.step for each in sink.seen if isinstance(each, Reading)] == list(range(11))
    assert sink.seen.count(DRIFT) == 2
    assert "20 readings had no room" in capsys.readouterr().err


def test_a_sink_that_hangs_does_not_hold_the_end_for_ever(monkeypatch):
    monkeypatch.setattr(background, "PATIENCE_S", 0.2)
    sink = Notebook(pause_s=1.5)
    sink.write(reading(0))
    begin = time.monotonic()
    sink.close()
    assert time.monotonic() - begin < 1.0


@pytest.mark.parametrize("make", [WandbSink, MlflowSink])
def test_a_package_that_is_not_there_is_told_once(make, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, make.name.lower().replace("&", "and"), None)
    sink = make(id="0720-p7d")
    for step in range(3):
        sink.write(reading(step))
        sink.flush()
    sink.close()
    assert capsys.readouterr().err.count("the training goes on without it") == 1


def test_mlflow_has_one_run_for_all_attempts(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    # Its light distribution has no other store.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    for steps in ([0, 1, 2], [2, 3]):
        sink = MlflowSink(id="0720-p7d", experiment="creative-agent", uri=uri)
        for step in steps:
            sink.write(reading(step, loss=float("nan") if step == 1 else step))
        sink.incident(DRIFT)
        sink.close()
    client = mlflow.MlflowClient(uri)
    number = client.get_experiment_by_name("creative-agent").experiment_id
    (run,) = client.search_runs([number])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({each.step for each in history}) == [0, 1, 2, 3]
    assert run.data.tags["incident 2 drift"] == "step 2: norm rises"
    assert run.info.status == "FINISHED"


def test_wandb_resumes_the_run_of_an_earlier_attempt(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sink = WandbSink(id="0720-p7d", project="hpckit", mode="offline", dir=str(tmp_path))
    for step in (0, 1, 0):
        sink.write(reading(step))
    sink.incident(DRIFT)
    sink.flush()
    assert (sink._run.id, sink._run.settings.resume) == ("0720-p7d", "allow")
    assert sink._run.summary["step"] == 0
    sink.close()
    assert "goes on without it" not in capsys.readouterr().err
    assert list((tmp_path / "wandb").glob("offline-run-*-0720-p7d/*.wandb"))
    assert wandb.run is None
