"""What remembers: its state goes into a checkpoint as plain lists and numbers, and comes back."""

from __future__ import annotations

from collections import deque
from typing import Any


class Memory:
    """Every attribute is state; settings are given anew when it is made, and stay."""

    # Attributes that are settings: a resumed run may have others.
    settings: frozenset[str] = frozenset()

    def state_dict(self) -> dict[str, Any]:
        return {
            name: _plain(value) for name, value in vars(self).items() if name not in self.settings
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in vars(self).items():
            if name not in state:
                continue
            if isinstance(value, Memory):
                value.load_state_dict(state[name])
            else:
                setattr(self, name, _like(value, state[name]))


def _plain(value: Any) -> Any:
    if isinstance(value, Memory):
        return value.state_dict()
    if isinstance(value, deque | list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def _like(old: Any, new: Any) -> Any:
    """A saved value in the shape of the attribute that it fills."""
    if isinstance(old, deque):
        return deque((_item(item) for item in new), old.maxlen)
    if isinstance(old, dict):
        return dict(new)
    return [_item(item) for item in new] if isinstance(old, list) else new


def _item(item: Any) -> Any:
    # Rows are tuples here, and lists after a checkpoint.
    return tuple(item) if isinstance(item, list) else item
