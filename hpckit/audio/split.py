"""Which sounds are for training and which for validation: by their names alone.

Neither the seed, nor the crop's length, nor which files turn out to be broken moves a sound from
one part to the other: scores of several trainings are of the same sounds, and none has trained on
what it is validated with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

Part = Literal["train", "validation"]


def number_of(*words: object) -> int:
    """A number that looks random, and is the same for the same words on every machine."""
    text = "\0".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass")).digest()[:8], "big")


def validation(groups: Sequence[str], share: float) -> set[int]:
    """The places of those for validation; what is of one group, as a speaker, stays together.

    As many groups as come nearest to the share, one at least, and one at least is left.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    order = sorted(members, key=lambda group: (number_of("split", group), group))
    wanted = share * len(groups)
    found: set[int] = set()
    for group in order[:-1] if share > 0 else []:
        more = len(members[group])
        # The next group brings it further past the share than it is away from it.
        if found and len(found) + more - wanted > wanted - len(found):
            break
        found.update(members[group])
    return found
