"""The parameters of an optimizer, each once, with the names that their model gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from hpckit.monitor.gradients import are_plain, is_sharded

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


def _made_whole(parameter: Tensor) -> Tensor:
    """A gradient that can be measured and clipped, put in its place if it was not so.

    Repeated rows of a sparse one are added up: clipped apart they would come to more. Parts of a
    sum that are spread over ranks are summed.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse and not gradient.is_coalesced():
        gradient.copy_(gradient.coalesce())
    if is_sharded(gradient):
        sharded: Any = gradient
        if any(each.is_partial() for each in sharded.placements):
            from torch.distributed.tensor import Replicate

            whole = [Replicate() if each.is_partial() else each for each in sharded.placements]
            gradient = parameter.grad = sharded.redistribute(placements=whole)
    return gradient


class Parameters:
    """An optimizer's parameters in order of its groups; one that is listed twice counts once."""

    def __init__(self, *, optimizer: Optimizer, known: dict[int, str]) -> None:
        self.optimizer = optimizer
        self._known = known
        # Those with state: what is born in a gated step would have to go again. Who loads a state
        # has another object there afterwards.
        self._born: set[int] = set()
        self._state: object = None
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
        self._state = None
        self._all_born = False

    def gradients(self) -> Gradients:
        """The gradients there are; a group that was added since is seen."""
        if [len(group["params"]) for group in self.optimizer.param_groups] != self._listed:
            self._collect()
        found = [gradient for each in self.all if (gradient := each.grad) is not None]
        present = None
        if len(found) < len(self.all):
            present = [i for i, each in enumerate(self.all) if each.grad is not None]
        if self._plain is None or self._plain[0] != present:
            self._plain = (present, are_plain(found))
        if not self._plain[1]:
            found = [_made_whole(parameter) for parameter in self.all if parameter.grad is not None]
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
        """Whether every one of them has its state already."""
        state = self.optimizer.state
        if state is not self._state:
            self._state = state
            self._born = {i for i, each in enumerate(self.all) if state.get(each)}
            self._all_born = len(self._born) == len(self.all) or self._has_no_state()
        present = gradients.present
        return self._all_born or (present is not None and self._born.issuperset(present))

    def _has_no_state(self) -> bool:
        """Plain SGD remembers nothing."""
        groups = self.optimizer.param_groups
        return isinstance(self.optimizer, SGD) and not any(group["momentum"] for group in groups)

    def note_born(self, gradients: Gradients) -> None:
        """They have stepped."""
        if self._all_born:
            return
        present = gradients.present
        self._born.update(range(len(self.all)) if present is None else present)
        self._all_born = len(self._born) == len(self.all)
