"""hpckit init"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from hpckit.errors import UsageError
from hpckit.files import told_apart

TEMPLATES = Path(__file__).parent.parent / "templates" / "job"


@click.command()
@click.argument("folder", default=".", type=click.Path())
def init(folder: str) -> None:
    """Write a job into FOLDER (here by default): a spec and a training that run as they stand."""
    from hpckit.paint import note

    if not folder:
        raise UsageError("an empty name means no folder", "without a name it is this one")
    target = Path(folder)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", target.absolute().name).strip("-._")[:64] or "job"
    # A dot in front would keep the file out of a wheel.
    names = {
        path: path.name.replace("hpckitignore", ".hpckitignore") for path in TEMPLATES.iterdir()
    }
    templates = {name: path.read_text(encoding="utf-8") for path, name in names.items()}
    standing = [file for file in templates if (target / file).exists()]
    if standing:
        raise UsageError(f"{target / standing[0]} is already there", "choose an empty folder")
    with told_apart(target, "choose another folder"):
        target.mkdir(parents=True, exist_ok=True)
        for file, text in templates.items():
            # "x": whoever else creates it in this moment keeps theirs.
            with open(target / file, "x", encoding="utf-8") as stream:
                stream.write(text.replace("NAME", name, 1) if file == "job.yaml" else text)
    for file in sorted(templates):
        print(target / file)
    there = f"./{folder}" if folder.startswith("-") else folder
    where = "" if folder == "." else f"cd {shlex.quote(there)} && "
    note(f"next\n  {where}hpckit submit --follow")
