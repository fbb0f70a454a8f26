"""The copy of a job's folder that a run keeps, so that later edits do not reach a queued run."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from hpckit.checkpoint.put_aside import FOLDER as ASIDE
from hpckit.checkpoint.put_aside import put_aside
from hpckit.errors import UsageError
from hpckit.files import read_json, write_json
from hpckit.submission.ignore import Rule, ignored, inherited_rules, read_rules
from hpckit.submission.origin import commit_of

LARGE_MB = 20
TOTAL_MB = 500
MANY_FILES = 20_000
# Never copied, never linked: nobody's program reads them from its working folder.
JUNK = {".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A file or folder that is linked, not copied."""

    path: str
    why: str
    size_mb: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What of a folder is copied and what is left out."""

    source: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    size_mb: float
    commit: str | None = None

    def summary(self) -> dict[str, Any]:
        left = [{"path": item.path, "why": item.why, "mb": item.size_mb} for item in self.left_out]
        return {
            "source": str(self.source),
            "files": len(self.files) + len(self.links),
            "mb": round(self.size_mb, 3),
            "left_out": left,
            "commit": self.commit,
        }

    def leads_out(self, folder: str) -> LeftOut | None:
        """What of a folder's path will be a link out of the working folder, if anything."""
        linked = [
            LeftOut(path=path, why="it is a link")
            for path in self.links
            if os.path.isabs(_link_target(self.source, path))
        ]
        places = {folder, *map(str, PurePath(folder).parents)}
        return next((each for each in (*self.left_out, *linked) if each.path in places), None)


def look(source: Path, *, exclude: Path) -> Snapshot:
    """Decide what to copy; `exclude` is the run root, which is never part of a job."""
    if exclude.resolve() == source.resolve():
        raise UsageError(f"the run root is the job's own folder, {source}", "choose another --root")
    survey = _Survey(source, exclude.resolve())
    survey.walk("", inherited_rules(source))
    return Snapshot(
        source=source,
        files=tuple(sorted(survey.files)),
        folders=tuple(sorted(survey.folders)),
        links=tuple(sorted(survey.links)),
        left_out=tuple(sorted(survey.left_out, key=lambda item: item.path)),
        size_mb=survey.size / 1e6,
        commit=commit_of(source),
    )


class _Survey:
    """One walk over a job's folder."""

    def __init__(self, source: Path, exclude: Path) -> None:
        self.source = source
        self.exclude = exclude
        self.files: list[str] = []
        self.folders: list[str] = []
        self.links: list[str] = []
        self.left_out: list[LeftOut] = []
        self.size = 0

    def walk(self, below: str, rules: list[Rule]) -> None:
        folder = self.source / below
        rules = rules + read_rules(folder, below=below)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                self._take(entry, below + entry.name, rules)

    def _take(self, entry: os.DirEntry[str], path: str, rules: list[Rule]) -> None:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in JUNK or (is_folder and self._is_of_runs(Path(entry.path))):
            return
        if ignored(path, is_folder, rules):
            self._leave(path, "ignored")
        elif entry.is_symlink():
            self.links.append(path)
        elif is_folder:
            self._enter(entry, path, rules)
        else:
            self._weigh(entry, path)

    def _is_of_runs(self, folder: Path) -> bool:
        """The run root in use, or a run under another: copies of copies would grow for ever."""
        return folder.resolve() == self.exclude or (
            (folder / "run.json").exists() and (folder / "ledger").is_dir()
        )

    def _enter(self, entry: os.DirEntry[str], path: str, rules: list[Rule]) -> None:
        if (Path(entry.path) / "pyvenv.cfg").exists():
            self._leave(path, "virtual environment")
        elif not os.access(entry.path, os.R_OK | os.X_OK):
            self._leave(path, "not readable")
        else:
            self.folders.append(path)
            self.walk(path + "/", rules)

    def _weigh(self, entry: os.DirEntry[str], path: str) -> None:
        about = entry.stat()
        if not stat.S_ISREG(about.st_mode):
            self._leave(path, "not a plain file")
        elif not os.access(entry.path, os.R_OK):
            self._leave(path, "not readable")
        elif about.st_size > LARGE_MB * 1e6:
            self._leave(path, f"larger than {LARGE_MB} MB", about.st_size / 1e6)
        else:
            self.files.append(path)
            self.size += about.st_size
            self._guard()

    def _leave(self, path: str, why: str, size_mb: float | None = None) -> None:
        rounded = None if size_mb is None else round(size_mb, 1)
        self.left_out.append(LeftOut(path=path, why=why, size_mb=rounded))

    def _guard(self) -> None:
        if self.size > TOTAL_MB * 1e6 or len(self.files) > MANY_FILES:
            raise UsageError(
                f"{self.source} holds more than {TOTAL_MB} MB or {MANY_FILES:,} files of code",
                "name data and results in .hpckitignore: they are linked then, not copied",
            )


def copy(snapshot: Snapshot, target: Path) -> None:
    """Copy what was decided; what was left out is listed beside it, for the working folder."""
    target.mkdir()
    try:
        for folder in snapshot.folders:
            (target / folder).mkdir()
        for path in snapshot.files:
            _copy_file(snapshot.source / path, target / path)
        for path in snapshot.links:
            os.symlink(_link_target(snapshot.source, path), target / path)
        write_json(target.with_name(f"{target.name}.json"), snapshot.summary())
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _copy_file(source: Path, target: Path) -> None:
    try:
        shutil.copy2(source, target)
    except FileNotFoundError as error:
        if source.exists():
            raise
        raise UsageError(f"{source} vanished while it was copied", "try again") from error


def _link_target(source: Path, path: str) -> str:
    """A link's text; one that leaves the folder is made absolute, or it would point elsewhere."""
    text = os.readlink(source / path)
    if os.path.isabs(text):
        return text
    landed = Path(os.path.normpath((source / path).parent / text))
    return text if landed.is_relative_to(source) else str(landed)


def make_work_folder(home: Path, work: Path) -> None:
    """The folder a program works in: a copy of the code, with links to what was left out."""
    if work.exists():
        return
    partial = work.with_name(f".{work.name}.{os.getpid()}.{os.urandom(3).hex()}.tmp")
    shutil.copytree(home / "code", partial, symlinks=True)
    _link_left_out(home / "code.json", partial)
    try:
        partial.rename(work)
    except OSError:
        # A worker whose node was given up for lost may have made it meanwhile.
        shutil.rmtree(partial, ignore_errors=True)
        if not work.exists():
            raise
    # An attempt that was killed while it copied has left its half.
    for half in work.parent.glob(f".{work.name}.*.tmp"):
        shutil.rmtree(half, ignore_errors=True)


def _link_left_out(summary: Path, work: Path) -> None:
    about = read_json(summary) or {"source": "", "left_out": []}
    for item in about["left_out"]:
        link = work / item["path"]
        if not os.path.lexists(link):
            link.symlink_to(Path(about["source"]) / item["path"])


def renew_work_folder(run: Path, work: Path, code: str) -> None:
    """Put a newer snapshot's files over those of the working folder, once.

    What the program has written stays; what the newer snapshot does not have any more, too: it
    cannot be told from that.
    """
    mark = run / "work.json"
    if (read_json(mark) or {}).get("code") == code:
        return
    for path in sorted((run / code).rglob("*")):
        name = path.relative_to(run / code)
        target = work / name
        if os.path.lexists(target) and _is_folder(target) != _is_folder(path):
            # A link to what was left out before, too: through it we would write into the source.
            what = "a folder" if _is_folder(path) else "a file"
            put_aside(work, [[str(name)]], run / ASIDE, {"why": f"in {code} it is {what}"})
        if _is_folder(path):
            target.mkdir(exist_ok=True)
            continue
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copy2(path, partial, follow_symlinks=False)
        os.replace(partial, target)
    _link_left_out(run / f"{code}.json", work)
    write_json(mark, {"code": code})


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
