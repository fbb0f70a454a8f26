"""What a training finds around it: the run, its spec, and what to make of both."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.checkpoint.store import Store
from hpckit.errors import HpckitError, NotFound
from hpckit.files import read_json
from hpckit.ledger import Event, Ledger
from hpckit.run import IDENTITY, Run, open_run
from hpckit.spec import JobSpec

if TYPE_CHECKING:
    from hpckit.monitor.lookout import Lookout
    from hpckit.monitor.readings.sink import Sink
    from hpckit.train.healing import Healer
    from hpckit.train.keeper import Keeper
    from hpckit.train.ranks import Ranks
    from hpckit.train.telling import Teller


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """A run's directory, and which launch of which attempt we are."""

    run_dir: Path
    attempt: int
    launch: int
    params_file: Path | None

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> Surroundings | None:
        """By the environment that a launch gives its ranks; None outside a run."""
        folder = environ.get("HPCKIT_RUN_DIR")
        if not folder:
            return None
        params = environ.get("HPCKIT_PARAMS")
        return cls(
            run_dir=Path(folder),
            attempt=int(environ.get("HPCKIT_ATTEMPT", "1")),
            launch=int(environ.get("HPCKIT_LAUNCH", "1")),
            params_file=Path(params) if params else None,
        )

    @cached_property
    def run(self) -> Run:
        run = open_run(self.run_dir)
        if run is None:
            raise NotFound(
                f"HPCKIT_RUN_DIR names {self.run_dir}, which is no run",
                "unset it to run without hpckit",
            )
        return run

    @cached_property
    def spec(self) -> JobSpec:
        return self.run.spec()

    @property
    def params(self) -> dict[str, Any]:
        """As they are by now; who launched us has written them down so."""
        if self.params_file is None:
            from hpckit.checkpoint.lineage import believed
            from hpckit.heal.in_force import params_in_force, plans_in_force

            return params_in_force(self.spec.params, plans_in_force(believed(self.events())))
        found = json.loads(self.params_file.read_text(encoding="utf-8"))
        return dict(found)

    @property
    def segment(self) -> Segment:
        return Segment(self.attempt, self.launch)

    @property
    def store(self) -> Store:
        return Store.of_run(self.run_dir)

    @property
    def attempt_dir(self) -> Path:
        return self.run_dir / "attempts" / f"{self.attempt:03d}"

    def events(self) -> list[Event]:
        return self.run.ledger().events()

    def fork(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """The checkpoint of another run that this one begins with, where it does."""
        about = read_json(self.run.home / IDENTITY) or {}
        source = about.get("fork")
        if not isinstance(source, dict):
            return None
        where = f"{source['checkpoint']}, which this run was forked from,"
        try:
            found = manifest.load(Path(source["checkpoint"]))
        except manifest.GONE:
            raise NotFound(f"{where} is not there any more", "fork anew") from None
        except OSError as error:
            raise HpckitError(f"{where} cannot be read: {manifest.unread(error)}") from error
        except ValueError:
            raise NotFound(f"{where} is damaged: its manifest makes no sense") from None
        wrong = manifest.problem(found)
        if wrong is not None:
            raise NotFound(f"{where} is damaged: {wrong}")
        tell(f"forked from {source['run']} at step {found.step}")
        return dataclasses.replace(found, changes=0)

    def lookout(self) -> Lookout:
        from hpckit.monitor.lookout import Lookout

        return Lookout.of(self.spec.monitor, self.run_dir / "work")

    def sinks(self, ranks: Ranks) -> list[Sink]:
        """Rank 0 writes readings: into its launch's folder, and one curve over all attempts."""
        if ranks.rank != 0:
            return []
        from hpckit.monitor.readings.writer import ReadingsWriter
        from hpckit.train.environment import write_down

        write_down(self.attempt_dir / "environment", self.launch, ranks.size)
        launch = f"launch-{self.launch}"
        sinks: list[Sink] = [ReadingsWriter(self.attempt_dir / "readings" / launch)]
        # The environment of a program that was not written for hpckit may lack it.
        if importlib.util.find_spec("tensorboard") is not None:
            from hpckit.monitor.readings.tensorboard import TensorBoardSink

            sinks.append(TensorBoardSink(self.run_dir / "tensorboard"))
        return sinks

    def teller(self, ranks: Ranks) -> Teller:
        from hpckit.train.progress import Progress
        from hpckit.train.telling import Teller

        ledger: Ledger = self.run.ledger(f"attempt-{self.attempt:03d}-launch-{self.launch}")
        return Teller(ledger, speaks=ranks.rank == 0, progress=Progress(wanted=False))

    def healer(self, defaults: Mapping[str, Any]) -> Healer:
        from hpckit.heal import Rules
        from hpckit.train.healing import Healer
        from hpckit.train.params import Params, merged

        params = Params(merged(defaults, self.params))
        healer = Healer(Rules.of(self.spec), params)
        healer.remember(self.events())
        return healer

    def keeper(self, ranks: Ranks, teller: Teller) -> Keeper:
        from hpckit.train.keeper import Keeper

        return Keeper(
            store=self.store,
            settings=self.spec.checkpoint,
            segment=self.segment,
            rank=ranks.rank,
            world_size=ranks.size,
            tell=lambda text: teller.say_of_rank(ranks.rank, text),
        )
