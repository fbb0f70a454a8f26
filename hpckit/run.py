"""The run directory: where a run lives, who it is, and its attempts.

<root>/<name>/<run id>/            a run; its id is <name>/<run id>
<root>/<name>/<sweep id>/<index>/  a point of a sweep: a run that shares its sweep's files
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.clock import iso, seconds_of
from hpckit.errors import NotFound, SpecError, UsageError
from hpckit.files import read_json, write_json
from hpckit.ledger import Event, Ledger, is_cancelled, submission_of

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

IDENTITY = "run.json"
# In a chain's folder: a line for each link that has begun since a worker last came up.
STARTS = "starts"
# In a foreground attempt's folder: the process that it started.
PROGRAM = "program.json"
NEEDED = {"run", "name", "created", "scheduler"}
LAUNCH = re.compile("launch-[0-9]+")
# No vowels and nothing that is mistaken for another sign: an id is read aloud and typed.
ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
LETTERS = "bcdfghjkmnpqrstvwxz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training effort; its directory is the database."""

    dir: Path
    id: str
    name: str
    created: str
    scheduler: str
    host: str = ""
    params: dict[str, Any]
    point: int | None = None
    points: int | None = None
    varied: tuple[str, ...] = ()
    chains: int = 1

    @property
    def home(self) -> Path:
        """Where spec, code and chains stand: the sweep's folder for a point, its own otherwise."""
        return self.dir.parent if self.point is not None else self.dir

    @property
    def home_id(self) -> str:
        """The name of the job in the scheduler's queue."""
        return self.id.rpartition("/")[0] if self.point is not None else self.id

    @property
    def is_sweep(self) -> bool:
        return self.points is not None

    def ledger(self, writer: str | None = None) -> Ledger:
        return Ledger(self.dir / "ledger", writer)

    def home_ledger(self) -> Ledger:
        """Where the submission is written down."""
        return Ledger(self.home / "ledger")

    @property
    def job_names(self) -> list[str]:
        """What the run's jobs are called: a point's later attempts have its own name."""
        return list(dict.fromkeys((self.home_id, self.id)))

    def chain_folder(self, number: int) -> Path:
        """Where the script, the pickle and the workers' logs of one of its arrays stand."""
        own = chain_folder(self.dir, number)
        return own if own.is_dir() else chain_folder(self.home, number)

    def submission(self) -> Event | None:
        """The newest one: what was handed to the scheduler before does nothing any more."""
        return submission_of(self.ledger().events()) or submission_of(self.home_ledger().events())

    def is_cancelled(self) -> bool:
        """Whether a person has said so, and has not started it again since."""
        home = self.home_ledger().events() if self.point is not None else []
        return is_cancelled([*home, *self.ledger().events()])

    def spec(self) -> JobSpec:
        """The resolved spec, with a point's own parameters in it."""
        # yaml comes with the spec; listing runs must not pay for it.
        import dataclasses

        from hpckit.spec import spec_from_json

        path = self.home / "spec.json"
        try:
            spec = spec_from_json(read_text(path))
        except SpecError as error:
            raise NotFound(
                f"{path} cannot be read: {error.problems[0].message}",
                "the run directory is damaged",
            ) from error
        return dataclasses.replace(spec, params=self.params) if self.point is not None else spec

    def point_runs(self) -> list[Run]:
        """The runs of a sweep, in order."""
        return [point_run(self, entry["index"], entry["params"]) for entry in _points(self.dir)]

    def attempts(self) -> list[Attempt]:
        """What has been attempted so far, oldest first."""
        return attempts_in(self.dir)

    @property
    def had(self) -> dict[str, int]:
        """What the cluster gave the first attempt, for which nothing had been changed yet."""
        return next((attempt.has for attempt in self.attempts()), {})

    def is_served_by(self, attempt: int) -> bool:
        """Whether no later attempt has begun: on a node given up for lost a worker may live on."""
        return not served_by_another(self.dir, attempt)

    def claim_attempt(self, about: dict[str, Any]) -> Attempt:
        """Make the next attempt's folder, which only one process can."""
        folder = self.dir / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        number = max((attempt.number for attempt in self.attempts()), default=0) + 1
        while True:
            path = folder / f"{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            (path / "logs").mkdir()
            write_json(path / "attempt.json", {"number": number, **about})
            return Attempt(number=number, dir=path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One scheduler job that serves a run."""

    number: int
    dir: Path

    def about(self) -> dict[str, Any]:
        """What the worker wrote when it began: job id, node, start."""
        found = read_json(self.dir / "attempt.json")
        return found if isinstance(found, dict) else {}

    @property
    def has(self) -> dict[str, int]:
        """What the cluster gave it, whether or not it was asked for."""
        memory = self.about().get("memory")
        return {} if memory is None else {"memory": memory}

    @property
    def job_id(self) -> str:
        """As the scheduler has it."""
        return str(self.about().get("job_id"))

    def ended(self) -> dict[str, Any] | None:
        """How it ended: what was found out after it, else its own word, else nothing."""
        after = self.dir.with_name(f"{self.number + 1:03d}") / "previous.json"
        settled = read_json(after) or read_json(self.dir / "settled.json")
        found = settled or read_json(self.dir / "ended.json")
        return found if isinstance(found, dict) else None

    def program(self) -> dict[str, Any] | None:
        """The process that a foreground run started, as it wrote it down."""
        found = read_json(self.dir / PROGRAM)
        return found if isinstance(found, dict) else None

    def last_sign(self) -> float | None:
        """When the worker last showed that it lives: its heart beats from the first launch on."""
        for name in ("heartbeat", "attempt.json"):
            with contextlib.suppress(OSError):
                return (self.dir / name).stat().st_mtime
        return None

    def last_seen(self) -> float | None:
        """When the worker or its program last wrote anything: its heart beats twice a minute."""
        times = []
        for path in (self.dir / "heartbeat", *self.dir.glob("logs/launch-*/rank-*")):
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times, default=None)

    def launches(self) -> list[Path]:
        """The log folders of the launches, oldest first."""
        return launches_in(self.dir / "logs")


def served_by_another(run: Path, attempt: int, launch: int | None = None) -> bool:
    """Whether a later attempt, or a later launch than a given one of the same, has begun.

    Every process of a run asks before it writes what others go by; a folder that cannot be read
    just now says nothing.
    """
    attempts = run / "attempts"
    with contextlib.suppress(OSError):
        if any(name.isdecimal() and int(name) > attempt for name in os.listdir(attempts)):
            return True
        if launch is None:
            return False
        newest = launches_in(attempts / f"{attempt:03d}" / "logs")[-1:]
        return any(int(path.name.removeprefix("launch-")) > launch for path in newest)
    return False


def attempts_in(run_dir: Path) -> list[Attempt]:
    """What has been attempted of the run in a folder, oldest first."""
    folder = run_dir / "attempts"
    try:
        names = sorted(name for name in os.listdir(folder) if name.isdigit())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Attempt(number=int(name), dir=folder / name) for name in names]


def launches_in(folder: Path) -> list[Path]:
    """A folder's parts by launch, oldest first: launch-10 comes after launch-9.

    The copy that a person has made of one is none of them.
    """
    with contextlib.suppress(OSError):
        found = [path for path in folder.iterdir() if LAUNCH.fullmatch(path.name)]
        return sorted(found, key=lambda path: (len(path.name), path.name))
    return []


def read_text(path: Path) -> str:
    """A file that must be there for a run to be a run."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing", "the run directory is damaged") from error


def _points(sweep: Path) -> list[dict[str, Any]]:
    """The points of a sweep; a run whose list is gone or damaged shows none."""
    listed = read_json(sweep / "sweep.json")
    return list(listed["points"]) if isinstance(listed, dict) and "points" in listed else []


def point_run(sweep: Run, index: int, params: dict[str, Any]) -> Run:
    """The run that is one point of a sweep."""
    return Run(
        dir=sweep.dir / point_name(index),
        id=f"{sweep.id}/{point_name(index)}",
        name=sweep.name,
        created=sweep.created,
        scheduler=sweep.scheduler,
        host=sweep.host,
        params=params,
        point=index,
        varied=sweep.varied,
        chains=sweep.chains,
    )


def chain_folder(home: Path, number: int) -> Path:
    """Where the script, the pickle and the workers' logs of one array stand."""
    return home / "chains" / f"{number:03d}"


def chain_numbers(run: Run) -> list[int]:
    """The chains that were ever announced for a run, or for the sweep that it is a point of."""
    found: set[int] = set()
    for folder in {run.home, run.dir}:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found |= {int(name) for name in os.listdir(folder / "chains") if name.isdigit()}
    return sorted(found)


def point_name(index: int) -> str:
    return f"{index:03d}"


def open_run(folder: Path) -> Run | None:
    """The run in a folder, None where there is none."""
    identity = read_json(folder / IDENTITY)
    if identity is None and (sweep := read_json(folder.parent / IDENTITY)) is not None:
        return _open_point(folder, sweep)
    if not isinstance(identity, dict) or not set(identity) >= NEEDED:
        return None
    if not _is_sound(identity):
        return None
    return Run(
        dir=folder,
        id=identity["run"],
        name=identity["name"],
        created=identity["created"],
        scheduler=identity["scheduler"],
        host=identity.get("host", ""),
        params=identity.get("params", {}),
        points=identity.get("points"),
        varied=tuple(identity.get("varied", ())),
        chains=identity.get("chains", 1),
    )


def _is_sound(identity: dict[str, Any]) -> bool:
    try:
        seconds_of(identity["created"])
    except (ValueError, TypeError, AttributeError):
        return False
    return all(isinstance(identity[key], str) for key in NEEDED)


def _open_point(folder: Path, sweep: dict[str, Any]) -> Run | None:
    if not folder.name.isdigit() or not sweep.get("points"):
        return None
    parent = open_run(folder.parent)
    for entry in _points(folder.parent):
        if parent is not None and point_name(entry["index"]) == folder.name:
            return point_run(parent, entry["index"], entry["params"])
    return None


def new_run_folder(root: Path, name: str) -> Path:
    """Make a folder with an id that nobody has: the month, the day and a few letters."""
    (root / name).mkdir(parents=True, exist_ok=True)
    day = time.strftime("%m%d")
    for length in (3, 3, 3, 4, 5, 6, 8):
        picked = random.choice(LETTERS) + "".join(random.choices(ALPHABET, k=length - 1))
        folder = root / name / f"{day}-{picked}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise UsageError(f"no free run id under {root / name}", "prune old runs: hpckit prune")


def run_folders(root: Path) -> Iterator[Path]:
    """Every folder under a root that may be a run, without opening it."""
    for name in _subfolders(root):
        yield from (Path(entry.path) for entry in _subfolders(Path(name.path)))


def _subfolders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def find(root: Path, wanted: str | None) -> Run:
    """The run that a person means: its id, a unique beginning of it, a folder, or the latest."""
    if wanted == "":
        raise UsageError("an empty name means no run", "without a name the latest is meant")
    if wanted and (os.sep in wanted or wanted in (".", "..")):
        folder = Path(wanted).absolute()
        if (run := open_run(folder)) is not None:
            return run
    folders = list(run_folders(root))
    if wanted is None:
        return _latest(root, folders)
    matches = sorted(f for f in folders if _matches(f, wanted))
    exact = [f for f in matches if wanted in (f"{f.parent.name}/{f.name}", f.name)]
    # A whole name stands before the beginnings of longer ones: `tl` is not `tlx`.
    exact = exact or [f for f in matches if wanted.rstrip("/") == f.parent.name]
    runs = [run for f in exact or matches if (run := open_run(f)) is not None]
    if not runs:
        run = _find_point(root, wanted)
        if run is not None:
            return run
        if exact:
            raise NotFound(f"{exact[0] / IDENTITY} cannot be read", "the run directory is damaged")
        raise NotFound(
            f"no run called {wanted!r} under {root}", "hpckit ls shows the runs there are"
        )
    if len(runs) > 1:
        names = ", ".join(run.id for run in runs[:6])
        names += f" and {len(runs) - 6} more" if len(runs) > 6 else ""
        raise UsageError(f"{wanted!r} could be {len(runs)} runs: {names}", "type more of the name")
    return runs[0]


def _matches(folder: Path, wanted: str) -> bool:
    return f"{folder.parent.name}/{folder.name}".startswith(wanted) or folder.name.startswith(
        wanted
    )


def _find_point(root: Path, wanted: str) -> Run | None:
    parent, slash, index = wanted.rpartition("/")
    if not slash or not index.isdigit():
        return None
    try:
        sweep = find(root, parent)
    except NotFound:
        return None
    return open_run(sweep.dir / point_name(int(index))) if sweep.is_sweep else None


def _latest(root: Path, folders: list[Path]) -> Run:
    for folder in sorted(folders, key=_born_ns, reverse=True):
        if (run := open_run(folder)) is not None:
            return run
    raise NotFound(f"no runs under {root} yet", "start one: hpckit submit job.yaml")


def _born_ns(folder: Path) -> int:
    # The identity is written once: its time orders ten thousand runs without opening them.
    with contextlib.suppress(OSError):
        return os.stat(folder / IDENTITY).st_mtime_ns
    return 0


def identity(
    *, run_id: str, name: str, scheduler: str, params: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """What run.json holds; it is the last file of a run directory to be written."""
    about = {"run": run_id, "name": name, "created": iso(time.time()), "scheduler": scheduler}
    return {**about, "params": params, **more}
