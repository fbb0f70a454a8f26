"""A training to subclass: build what is trained, say what its loss is; the rest is here.

    class Spiral(hpckit.train.Trainer):
        epochs = 20

        def build(self):
            self.model = self.prepare(nn.Linear(2, 3))
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.params["lr"])
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs)
            self.loader = self.make_loader(dataset, batch_size=64)

        def loss(self, batch):
            points, arms = batch
            return nn.functional.cross_entropy(self.model(points), arms)

        def validate(self):
            return {"loss": ...}

Models, optimizers and schedules that are attributes are registered by their names. A GAN has two
optimizers and overrides `step`:

        def step(self, batches):
            self.update(self.opt_d, self.discriminator_loss, batches)
            self.update(self.opt_g, self.generator_loss, batches)

The order within a step: gradients zeroed, loss and backward for each part of an accumulation, then
measured, gated, clipped, stepped; then the schedules that move by step; then a validation that is
due. After an epoch: a validation, then the schedules that move by epoch. A ReduceLROnPlateau moves
with each validation. State is saved, and gone back to, between steps only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, distributed, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from hpckit.errors import UsageError
from hpckit.train.attaching import attach
from hpckit.train.best import Mode

Losses = Tensor | Mapping[str, Tensor]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """One training; `params` of a run go over the settings of the same name."""

    epochs: int = 1
    # Batches that make one step.
    accumulate: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    # The gradient norm to clip to, or one by optimizer; the spec's monitor.optimizers is above it.
    clip: Any = None
    # In steps; None: after each epoch.
    validate_every: int | None = None
    # Of what validate() returns; the best state is kept.
    best: str = "loss"
    mode: Mode = "min"
    schedule_every: Literal["epoch", "step"] = "epoch"
    seed: int | None = 0
    progress: bool = True

    SETTINGS: ClassVar[tuple[str, ...]] = (
        "epochs", "accumulate", "precision", "clip", "validate_every", "best", "mode",
        "schedule_every", "seed", "progress",
    )  # fmt: skip

    model: Any
    optimizer: Optimizer
    loader: Any

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.session = attach(params)
        self.params = self.session.params
        for name in self.SETTINGS:
            if name in self.params:
                setattr(self, name, self.params[name])
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UsageError(f"precision must be one of {known}, not {self.precision!r}")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        self.scaler = GradScaler(self.device.type, enabled=self.precision == "float16")

    # What a subclass says.

    def build(self) -> None:
        """Make self.model, self.optimizer, self.loader, and what else there is."""
        raise NotImplementedError

    def loss(self, batch: Any) -> Losses:
        """The loss of a batch; of several by name, `loss` counts, or else their sum."""
        raise NotImplementedError

    def validate(self) -> Mapping[str, float]:
        """What a validation finds; gradients are off, and modules in eval.

        Over several processes the mean of what each finds in its part of the data counts.
        """
        return {}

    def step(self, batches: Sequence[Any]) -> None:
        """One step, of as many batches as are accumulated."""
        self.update(self.optimizer, self.loss, batches)

    # What a subclass uses.

    def prepare(self, module: nn.Module) -> Any:
        """A model on its device; over several processes its gradients are averaged."""
        module = module.to(self.device)
        if self.session.world_size == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def make_loader(
        self, dataset: Dataset[Any], *, shuffle: bool | None = None, **settings: Any
    ) -> DataLoader[Any]:
        """A DataLoader, shuffled unless told otherwise; each process has its part of the data.

        A stream, and a sampler of one's own, say themselves what comes when, and in which process.
        Data that make not one batch are refused.
        """
        samplers = (settings.get(name) for name in ("sampler", "batch_sampler"))
        if isinstance(dataset, IterableDataset) or any(each is not None for each in samplers):
            return DataLoader(dataset, shuffle=shuffle, **settings)
        shuffle = shuffle is not False
        if self.session.world_size > 1:
            settings["sampler"] = DistributedSampler(
                dataset, self.session.world_size, self.session.rank, shuffle=shuffle
            )
            shuffle = False
        loader = DataLoader(dataset, shuffle=shuffle, **settings)
        if not len(loader):
            parts = self.session.world_size
            share = f" in {parts} parts" if parts > 1 else ""
            count = len(dataset)  # type: ignore[arg-type]
            raise UsageError(
                f"make_loader: {count} samples{share} do not make one batch of {loader.batch_size}",
                "more data, or a smaller batch_size, or no drop_last",
            )
        return loader

    def update(
        self, optimizer: Optimizer, loss: Callable[[Any], Losses], batches: Sequence[Any]
    ) -> None:
        """Backward for each batch, then one step of an optimizer."""
        optimizer.zero_grad(set_to_none=True)
        total: Any = 0.0
        for number, batch in enumerate(batches, start=1):
            with self._unsynchronised(number < len(batches)), self._autocast():
                part = self._whole(loss(batch)) / len(batches)
                self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            total = total + part.detach()
        scaler = self.scaler if self.scaler.is_enabled() else None
        self.session.step(optimizer, loss=total, scaler=scaler)

    def log(self, **values: float | Tensor) -> None:
        """Add numbers to this step's reading."""
        self.session.log(**values)

    # The rest.

    def run(self) -> None:
        """Train from where the run stands to its end."""
        with self._processes():
            if self.seed is not None:
                torch.manual_seed(self.seed)
            self.build()
            self._register()
            if self.validate_every is not None:
                self.session.log(**{"every/validation": float(self.validate_every)})
            self._train()

    def _train(self) -> None:
        session = self.session
        for _ in session.epochs(self.epochs):
            batches = session.batches(
                self.loader, accumulate=self.accumulate, progress=self.progress
            )
            for taken in batches:
                self.step([self._moved(b) for b in (taken if self.accumulate > 1 else [taken])])
                if self.schedule_every == "step":
                    self._move_schedules()
                every = self.validate_every
                if every is not None and (session.step_number + 1) % every == 0:
                    self._validate()
            if self.validate_every is None:
                self._validate()
            if self.schedule_every == "epoch":
                self._move_schedules()

    def _register(self) -> None:
        kinds = (nn.Module, Optimizer, LRScheduler)
        found: dict[str, Any] = {
            name: each for name, each in vars(self).items() if isinstance(each, kinds)
        }
        if self.scaler.is_enabled():
            found["scaler"] = self.scaler
        self.session.register(clip=self.clip, **found)

    def _validate(self) -> None:
        modules = [each for each in vars(self).values() if isinstance(each, nn.Module)]
        training = [(each, each.training) for module in modules for each in module.modules()]
        for module in modules:
            module.eval()
        try:
            with torch.no_grad(), self._autocast():
                mine = {name: float(value) for name, value in self.validate().items()}
        finally:
            for module, was in training:
                module.training = was
        # Each must decide alike: by a number of its own its learning rate would be its own, too.
        found = _means(self.session.ranks.gathered(mine))
        self.session.log(**{f"val/{name}": value for name, value in found.items()})
        if self.best in found:
            self.session.best(found[self.best], mode=self.mode, name=self.best)
            for each in vars(self).values():
                if isinstance(each, ReduceLROnPlateau):
                    each.step(found[self.best])

    def _move_schedules(self) -> None:
        for each in vars(self).values():
            if isinstance(each, LRScheduler) and not isinstance(each, ReduceLROnPlateau):
                each.step()

    def _whole(self, loss: Losses) -> Tensor:
        if isinstance(loss, Tensor):
            return loss
        parts = {name: value for name, value in loss.items() if name != "loss"}
        self.session.log(**{name: value.detach() for name, value in parts.items()})
        found: Any = loss["loss"] if "loss" in loss else sum(parts.values())
        whole: Tensor = found
        return whole

    def _moved(self, batch: Any) -> Any:
        """A batch on the device, whatever it is packed in."""
        if isinstance(batch, Tensor):
            return batch.to(self.device, non_blocking=True)
        if isinstance(batch, Mapping):
            return {key: self._moved(value) for key, value in batch.items()}
        if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
            return type(batch)(self._moved(each) for each in batch)
        return batch

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = PRECISIONS[self.precision]
        if kind is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=kind)

    @contextlib.contextmanager
    def _unsynchronised(self, wanted: bool) -> Iterator[None]:
        """Gradients of all but the last part stay on their rank."""
        with contextlib.ExitStack() as stack:
            for each in vars(self).values():
                if wanted and isinstance(each, DistributedDataParallel):
                    stack.enter_context(each.no_sync())
            yield

    @contextlib.contextmanager
    def _processes(self) -> Iterator[None]:
        """The process group, where there are several processes and nobody has made it."""
        mine = self.session.ranks.started > 1 and not distributed.is_initialized()
        if mine:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            distributed.init_process_group(backend)
        self.session.ranks.join()
        try:
            yield
        finally:
            if mine:
                self.session.close()
                distributed.destroy_process_group()


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name, over those that have it."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: fmean(each[name] for each in found if name in each) for name in names}
