"""Real speech: prompts of the Asterisk telephone exchange, read by people in studios."""

from __future__ import annotations

from pathlib import Path

from hpckit.audio.data import pack
from hpckit.audio.data.pack import Pack

NAME = "speech"
LANGUAGES = ("en", "es", "fr", "it", "ru")


def packs(folder: Path) -> list[Pack]:
    """What is there and whole, by language."""
    found = (pack.read(folder / language) for language in LANGUAGES)
    return [each for each in found if each is not None]
