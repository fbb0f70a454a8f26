"""hpckit data"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import json_option, print_json
from hpckit.paint import harmless, note, size, table

if TYPE_CHECKING:
    from pathlib import Path

    from hpckit.audio.data.pack import Pack
    from hpckit.audio.data.speech import Recording

to_option = click.option(
    "--to", metavar="FOLDER", help="Where sets live (HPCKIT_DATA; this user's cache by default)."
)


@click.group(invoke_without_command=True)
@click.pass_context
def data(ctx: click.Context) -> None:
    """Fetch sounds to train on, and list what is there."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@data.command()
@to_option
@json_option
def ls(to: str | None = None, as_json: bool = False) -> None:
    """List the sets that are there."""
    from hpckit.audio.data import place, speech

    folder = place.data_folder(to)
    packs = speech.packs(folder / speech.NAME)
    if as_json:
        sets = [_set(speech.NAME, folder / speech.NAME, packs)] if packs else []
        print_json({"folder": str(folder), "sets": sets})
    elif packs:
        _print(folder / speech.NAME, packs)
    else:
        note(f"no sounds under {harmless(str(folder))}: hpckit data speech fetches real speech")


@data.command()
@to_option
@click.option("--only", metavar="LANGUAGES", help="Only these, as en,fr; all are en es fr it ru.")
@click.option("--mirror", metavar="URL", help="A mirror of Debian (HPCKIT_DEBIAN_MIRROR).")
@click.option("--verify", is_flag=True, help="Compare checksums; what is damaged is made anew.")
@json_option
def speech(
    to: str | None, only: str | None, mirror: str | None, verify: bool, as_json: bool
) -> None:
    """Fetch real speech in five languages, recorded in studios.

    Clips of 2 s and more, 16 kHz, mono, FLAC: about 50 MB come, and take 120 MB. What is there
    already is not fetched again, and nothing half is taken for whole: call it again after it was
    cut off. It needs no root. Then, in a training: sounds("speech", ...).
    """
    import os
    import shlex

    from hpckit.audio.data import g722, place
    from hpckit.audio.data import speech as set_

    folder = place.data_folder(to) / set_.NAME
    wanted = set_.chosen(only)
    missing = set_.missing(folder, wanted, verify=verify)
    if missing:
        g722.codecs()
        _show_licences(missing)
    else:
        note(f"all is there{', and as it was written' if verify else ''}")
    for recording in missing:
        set_.make(
            folder,
            recording,
            mirror or os.environ.get("HPCKIT_DEBIAN_MIRROR"),
            note,
            # It looked whole, but for its checksums.
            anew=verify,
        )
    if missing and place.data_folder() != folder.parent:
        note(f"trainings find it by: export HPCKIT_DATA={shlex.quote(str(folder.parent))}")
    languages = {recording.language for recording in wanted}
    packs = [each for each in set_.packs(folder) if each.language in languages]
    if as_json:
        made = [recording.language for recording in missing]
        print_json({**_set(set_.NAME, folder, packs), "made": made})
    else:
        _print(folder, packs)


def _show_licences(recordings: list[Recording]) -> None:
    from hpckit.audio.data.speech import ABOUT

    note(f"speech: {ABOUT}")
    for each in recordings:
        note(f"  {each.language}  {each.licence}, {each.speaker}")
    note("their licence is stored beside them: name the speakers where you publish what is of them")


def _set(name: str, folder: Path, packs: list[Pack]) -> dict[str, Any]:
    return {
        "name": name,
        "folder": str(folder),
        "clips": sum(len(each.clips) for each in packs),
        "minutes": round(sum(each.minutes for each in packs), 1),
        "speakers": sorted({each.speaker for each in packs}),
        "packs": [_pack(folder, each) for each in packs],
    }


def _pack(folder: Path, pack: Pack) -> dict[str, Any]:
    return {
        "language": pack.language,
        "folder": str(folder / pack.language),
        "speaker": pack.speaker,
        "licence": pack.licence,
        "clips": len(pack.clips),
        "minutes": round(pack.minutes, 1),
        "bytes": sum(clip.bytes for clip in pack.clips),
        "package": pack.package,
        "version": pack.version,
        "sha256": pack.package_sha256,
        "from": pack.fetched_from,
    }


def _print(folder: Path, packs: list[Pack]) -> None:
    print(f"{harmless(str(folder))}\n")
    rows = [
        (
            f"speech/{each.language}",
            str(len(each.clips)),
            f"{each.minutes:.1f}",
            size(sum(clip.bytes for clip in each.clips) / 2**20),
            harmless(each.speaker),
            harmless(each.licence),
        )
        for each in packs
    ]
    head = ("set", "clips", "minutes", "size", "speaker", "licence")
    print(table(head, rows, right=(1, 2, 3)))
    clips, minutes = sum(len(each.clips) for each in packs), sum(each.minutes for each in packs)
    print(
        f"\n{clips} clips, {minutes:.1f} minutes, {len({each.speaker for each in packs})} speakers"
    )
