"""How many steps a training will have done at its end, by the batches that are left."""

from __future__ import annotations

from hpckit.train.place import Place


class Total:
    """Learns how many batches a step takes; batches that are left out correct it as they come."""

    def __init__(self) -> None:
        self._used = 0
        # Whether that was a whole step: an epoch's last one may have fewer batches, and its first
        # may have been begun by the epoch before.
        self._is_whole = False

    def after(
        self, step: int, place: Place, *, first: int, length: int | None, epochs: int | None
    ) -> int | None:
        """By the step that has used the batches from `first` on; None where nobody knows."""
        if not length or not epochs:
            return None
        used = max(1, place.taken - first)
        is_whole = place.taken < length and (first > 0 or place.epoch == 0)
        # One that comes after batches left out seems to have more.
        is_fewer = used < self._used and is_whole == self._is_whole
        if not self._used or (is_whole and not self._is_whole) or is_fewer:
            self._used, self._is_whole = used, is_whole
        in_epoch = -(-(length - place.taken) // self._used)
        of_epoch = -(-length // self._used)
        return step + max(0, in_epoch + (epochs - place.epoch - 1) * of_epoch)
