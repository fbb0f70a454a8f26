"""hpckit as one file that any Python can run, beside a run.

The program's environment may hold no hpckit, and see nothing of the worker's: another virtual
environment, a container. It does see the run's folder. `python <archive> train.py` runs the script
with hpckit at hand; one file is also what a thousand ranks find fastest on a shared filesystem.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from hpckit.files import write_atomic

PACKAGE = Path(__file__).parents[1]
STARTER = Path(__file__).with_name("start_python.py")
# Times would make another file of the same content.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def bring(folder: Path) -> Path:
    """The archive in a folder, made where it is not there; another hpckit's has another name."""
    content = archive()
    path = folder / f"hpckit-{hashlib.sha256(content).hexdigest()[:12]}.zip"
    if not path.exists():
        write_atomic(path, content)
    return path


def archive() -> bytes:
    """All modules of hpckit, and the starter as what runs."""
    sources = sorted(PACKAGE.rglob("*.py"))
    files = {f"hpckit/{path.relative_to(PACKAGE).as_posix()}": path for path in sources}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, path in {"__main__.py": STARTER, **files}.items():
            about = zipfile.ZipInfo(name, LONG_AGO)
            made.writestr(about, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()
