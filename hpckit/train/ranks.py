"""The processes of a training, and the few words that they exchange outside of its steps."""

from __future__ import annotations

import os
from typing import Any

from torch import distributed

from hpckit.errors import UsageError


class Ranks:
    """Who we are; alone, every exchange is with oneself."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = 1
        self.started = int(os.environ.get("WORLD_SIZE", "1"))

    def join(self) -> None:
        """By now the process group is there, where there is to be one."""
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        elif self.started > 1:
            raise UsageError(
                f"{self.started} processes were started, and torch.distributed is not initialised",
                "call torch.distributed.init_process_group() before run.batches, "
                "or ask for one process",
            )

    def told(self, value: Any) -> Any:
        """Rank 0's value, on every rank; all must call it at the same point."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found
