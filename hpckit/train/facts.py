"""What health rules want to know of a training, and that it knows of itself."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, ReduceLROnPlateau, StepLR

from hpckit.train.registry import Registry
from hpckit.train.stepper import Stepper


def of_devices(stepper: Stepper, gpus_asked: int) -> dict[str, float]:
    """GPUs that were asked for, and those that hold parameters of this process."""
    parameters = [each for one in stepper.watched.values() for each in one.parameters.all]
    used = {each.device for each in parameters if each.is_cuda}
    return {"device/asked": float(gpus_asked), "device/used": float(len(used))}


def of_schedules(registry: Registry) -> dict[str, float]:
    """Within how many of its steps each optimizer's schedule first changes the rate."""
    found = {}
    for name, optimizer in registry.of_kind("optimizer").items():
        schedule = schedule_of(registry, optimizer)
        if schedule is not None and not isinstance(schedule, ReduceLROnPlateau):
            found[f"schedule/{name}"] = float(_first_change(schedule))
    return found


class Planned:
    """The rates that schedules plan: read before a pass, for by its end they have moved on."""

    def __init__(self, registry: Registry, stepper: Stepper) -> None:
        self._all = [
            (f"lr_planned/{name}", schedule, watched)
            for name, watched in stepper.watched.items()
            if (schedule := schedule_of(registry, watched.optimizer)) is not None
        ]
        self.now: dict[str, float] = {}
        self.look()

    def look(self) -> None:
        """What is planned for the pass that begins, healing's own factor included."""
        for key, schedule, watched in self._all:
            rate = schedule.get_last_lr()[0]
            # An optimizer may find its rate by itself, and a schedule wait to lower it.
            if rate is not None:
                self.now[key] = float(rate) * watched.rate


def schedule_of(registry: Registry, optimizer: Any) -> LRScheduler | None:
    """The schedule of an optimizer; of several the last, which knows what came of all."""
    found = None
    for each in registry.of_kind("schedule").values():
        if each.optimizer is optimizer:
            found = each
    return found


def _first_change(schedule: LRScheduler) -> int:
    if isinstance(schedule, StepLR):
        return int(schedule.step_size)
    if isinstance(schedule, MultiStepLR):
        return int(min(schedule.milestones, default=1))
    return 1
