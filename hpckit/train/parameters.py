"""The parameters of an optimizer, each once, with the names that their model gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from hpckit.monitor.gradients import are_plain

# What torch.compile and DataParallel put before a name is no part of it.
WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")


def names_of(models: Iterable[nn.Module]) -> dict[int, str]:
    """Names by the identity of a parameter; one that is tied has its first name."""
    found: dict[int, str] = {}
    for model in models:
        for name, parameter in model.named_parameters():
            found.setdefault(id(parameter), plain_name(name))
    return found


def plain_name(name: str) -> str:
    """A parameter's name as its author wrote it."""
    for wrapper in WRAPPERS:
        if name.startswith(wrapper):
            name = name.removeprefix(wrapper)
        name = name.replace(f".{wrapper}", ".") if wrapper != "module." else name
    return name


class Gradients(NamedTuple):
    """The gradients there are, of which parameters (None: of all), and whether all are plain."""

    values: list[Tensor]
    present: Sequence[int] | None
    plain: bool


def _coalesced(gradient: Tensor) -> Tensor:
    """Repeated rows added up, in the gradient itself: clipped apart they would add up to more."""
    if gradient.is_sparse and not gradient.is_coalesced():
        gradient.copy_(gradient.coalesce())
    return gradient


class Parameters:
    """An optimizer's parameters in order of its groups; one that is listed twice counts once."""

    def __init__(self, *, optimizer: Optimizer, known: dict[int, str]) -> None:
        self.optimizer = optimizer
        self._known = known
        # Those with state: what is born in a gated step would have to go again.
        self._born: set[int] = set()
        self._collect()

    def _collect(self) -> None:
        self.all: list[Tensor] = []
        self.names: list[str] = []
        # Where each group's parameters begin and end in `all`.
        self._groups: list[range] = []
        seen = set[int]()
        self._listed = [len(group["params"]) for group in self.optimizer.param_groups]
        for number, group in enumerate(self.optimizer.param_groups):
            begin = len(self.all)
            for index, parameter in enumerate(group["params"]):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    self.all.append(parameter)
                    name = self._known.get(id(parameter), f"group {number}, {index}")
                    self.names.append(name)
            self._groups.append(range(begin, len(self.all)))
        self.numbers = sum(each.numel() for each in self.all)
        # Whether the gradients are of the simplest kind, and of which parameters that was found.
        self._plain: tuple[Sequence[int] | None, bool] | None = None
        self._all_born = False

    def gradients(self) -> Gradients:
        """The gradients there are; a group that was added since is seen."""
        if [len(group["params"]) for group in self.optimizer.param_groups] != self._listed:
            self._collect()
        found: list[Tensor] = []
        absent = False
        for parameter in self.all:
            gradient = parameter.grad
            if gradient is None:
                absent = True
            else:
                found.append(gradient)
        present = None
        if absent:
            present = [i for i, each in enumerate(self.all) if each.grad is not None]
        if self._plain is None or self._plain[0] != present:
            self._plain = (present, are_plain(found))
        if not self._plain[1]:
            found = [_coalesced(gradient) for gradient in found]
        return Gradients(found, present, self._plain[1])

    def of(self, gradients: Gradients) -> list[Tensor]:
        """The parameters that have these gradients."""
        present = gradients.present
        return self.all if present is None else [self.all[index] for index in present]

    def names_of(self, gradients: Gradients) -> list[str]:
        present = gradients.present
        return self.names if present is None else [self.names[index] for index in present]

    def group_names(self) -> list[str]:
        """A group's `name` where it has one, else its number."""
        return [
            str(group.get("name", index)) for index, group in enumerate(self.optimizer.param_groups)
        ]

    def by_group(self, gradients: Gradients) -> Iterator[tuple[str, list[int]]]:
        """The name of each group that has gradients, and where in the list they are."""
        present = range(len(self.all)) if gradients.present is None else gradients.present
        for name, members in zip(self.group_names(), self._groups, strict=True):
            mine = [place for place, index in enumerate(present) if index in members]
            if mine:
                yield name, mine

    def are_born(self, gradients: Gradients) -> bool:
        """Whether every one of them has stepped before, and so has its state."""
        return self._all_born or (
            gradients.present is not None and self._born.issuperset(gradients.present)
        )

    def note_born(self, gradients: Gradients) -> None:
        if gradients.present is None:
            self._all_born = True
        else:
            self._born.update(gradients.present)
