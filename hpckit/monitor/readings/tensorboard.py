"""Readings as TensorBoard's event files, made with the `tensorboard` package alone.

All attempts of a run write into one folder, each a file of its own, and are one curve: where a
run went back, TensorBoard drops the steps that were left. Incidents are texts, in a folder
`incidents` below, where going back drops none of them. Which steps are written, `chosen` says;
the norms of single parameters are not, they would be thousands of curves.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.appender import Appender
from hpckit.monitor.readings.background import Background, Item, breathing, tell
from hpckit.monitor.readings.chosen import Chosen

# What is there for the health rules and for who watches, and is no curve to look at.
NO_CURVES = (
    "data/batch",
    "data/expected",
    "data/size",
    "device/",
    "lr_planned/",
    "progress/",
    "schedule/",
)

_numbers = itertools.count()


class TensorBoardSink(Background):
    """Draws readings in a folder that TensorBoard shows."""

    name = "TensorBoard"

    def __init__(self, folder: Path, *, every: int = 1) -> None:
        self.folder = Path(folder)
        self._chosen = Chosen(every)
        self._last: int | None = None
        self._curves: EventFile | None = None
        self._texts: EventFile | None = None
        super().__init__()

    def consume(self, batch: list[Item]) -> None:
        for item in breathing(batch):
            if isinstance(item, Incident):
                self._texts = self._texts or EventFile(self.folder / "incidents")
                self._texts.text(item)
            else:
                self._curves = self._curves or EventFile(self.folder)
                self._draw(self._curves, item)
        self._save()

    def settle(self) -> None:
        self._save(durable=True)

    def finish(self) -> None:
        for each in (self._curves, self._texts):
            if each is not None and not each.out.save(durable=True):
                tell(f"{each.out.waiting} events did not reach {each.out.path}")

    def _draw(self, curves: EventFile, reading: Reading) -> None:
        if self._last is None or reading.step < self._last:
            curves.start(reading)
        self._last = reading.step
        for each in self._chosen.take(reading):
            curves.scalars(each)

    def _save(self, *, durable: bool = False) -> None:
        for each in (self._curves, self._texts):
            if each is not None:
                each.out.save(durable=durable)


class EventFile:
    """One event file; its name says when and by whom, as TensorBoard wants it."""

    def __init__(self, folder: Path) -> None:
        # Half a second of imports, on the sink's own thread. TensorBoard's own writer would also
        # import TensorFlow where there is one, which takes the GPU's memory.
        proto = "tensorboard.compat.proto"
        self._event = importlib.import_module(f"{proto}.event_pb2")
        self._summary = importlib.import_module(f"{proto}.summary_pb2")
        self._tensor = importlib.import_module(f"{proto}.tensor_pb2")
        self._records = importlib.import_module("tensorboard.summary.writer.record_writer")
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        who = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.out = Appender(folder / f"events.out.tfevents.{int(time.time()):010d}.{who}")
        self._add(self._event.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def start(self, reading: Reading) -> None:
        """From here on the curve begins again: what was drawn of later steps is dropped."""
        session = self._event.SessionLog(status=self._event.SessionLog.START)
        self._add(self._at(reading, session_log=session))

    def scalars(self, reading: Reading) -> None:
        summary = self._summary.Summary()
        for name, value in reading.values.items():
            if name.startswith(NO_CURVES):
                continue
            summary.value.add(tag=name, simple_value=value)
        self._add(self._at(reading, summary=summary))

    def text(self, incident: Incident) -> None:
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self._tensor.TensorProto(dtype="DT_STRING", string_val=[str(incident).encode()])
        summary = self._summary.Summary()
        summary.value.add(
            # A tag of its own: of one tag TensorBoard drops what is later than the newest.
            tag=f"{incident.kind}/step {incident.step}",
            metadata=self._summary.SummaryMetadata(plugin_data=plugin),
            tensor=tensor,
        )
        self._add(self._event.Event(wall_time=time.time(), step=incident.step, summary=summary))

    def _at(self, reading: Reading, **what: Any) -> Any:
        now = time.time() if reading.time is None else reading.time
        return self._event.Event(wall_time=now, step=reading.step, **what)

    def _add(self, event: Any) -> None:
        record = io.BytesIO()
        self._records.RecordWriter(record).write(event.SerializeToString())
        self.out.add(record.getvalue())
