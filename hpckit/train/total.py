"""How many steps a training will have done at its end, by the batches that are left."""

from __future__ import annotations

from hpckit.train.place import Place


class Total:
    """Learns how many batches a step takes; batches that are left out correct it as they come."""

    def __init__(self) -> None:
        self._used: int | None = None

    def after(
        self, step: int, place: Place, *, first: int, length: int | None, epochs: int | None
    ) -> int | None:
        """By the step that has used the batches from `first` on; None where nobody knows."""
        if not length or not epochs:
            return None
        used = max(1, place.taken - first)
        # An epoch's last step may have fewer; one that comes after batches left out seems to have
        # more.
        if self._used is None or (used < self._used and place.taken < length):
            self._used = used
        in_epoch = -(-(length - place.taken) // self._used)
        of_epoch = -(-length // self._used)
        return step + max(0, in_epoch + (epochs - place.epoch - 1) * of_epoch)
