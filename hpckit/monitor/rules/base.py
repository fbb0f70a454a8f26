"""What a health rule is: a class of a few lines that looks at readings and tells.

A user's own is written the same way and named in the spec:

    class LossTooHigh(Rule):
        '''The loss is above what this model ever showed in health.'''

        above = 10.0
        steps = 5

        def observe(self, reading):
            loss = reading.get("train/loss")
            if loss is not None and self.lasting(loss > self.above, self.steps):
                return self.tell(reading, f"loss {loss:.3g} is above {self.above:g}", value=loss)

    monitor: {rules: {rules.py:LossTooHigh: {above: 8}}}

Public class attributes that are numbers are its settings; whatever else an instance holds is its
memory, goes into checkpoints, and so must be plain: numbers, texts, lists, dicts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from hpckit.monitor.incident import Answer, Incident
from hpckit.monitor.reading import Reading

if TYPE_CHECKING:
    # Programs that are attached may have Python 3.10, whose typing lacks it.
    from typing import Self

# After an alarm so many healthy looks make the next one news again.
CALM = 100


class Rule:
    """Looks at each reading; answers with an incident when something is wrong."""

    # Whether it is on without being named in the spec.
    default: ClassVar[bool] = True
    # What its incidents ask for.
    answer: ClassVar[Answer] = "tell"
    # It is asked only about readings with one of these values; `lr/` is all under lr. Empty: all.
    needs: ClassVar[tuple[str, ...]] = ()

    # Not in __init__: a user's own rule may have one and forget about this.
    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._episodes = {}
        return made

    # By subject: for how many looks it has been wrong, or, below 0, how many healthy looks are
    # still to come after an alarm. A subject in health is not in it.
    _episodes: dict[str, int]

    @classmethod
    def name(cls) -> str:
        """What the spec calls it: LossFlat is loss_flat."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def settings(cls) -> dict[str, int | float]:
        """What the spec may set, with its defaults."""
        found: dict[str, int | float] = {}
        for each in reversed(cls.__mro__):
            for name, value in vars(each).items():
                if type(value) in (int, float) and not name.startswith("_"):
                    found[name] = value
        return found

    def observe(self, reading: Reading) -> Incident | None:
        raise NotImplementedError

    def lasting(self, wrong: bool, steps: float = 1, *, of: str = "", calm: float = CALM) -> bool:
        """Whether now is the time to tell: once it was wrong for `steps` looks running, and not
        again before `calm` healthy looks running. `of` keeps several subjects apart."""
        running = self._episodes.get(of, 0)
        if not wrong:
            if running < -1:
                self._episodes[of] = running + 1
            elif running:
                del self._episodes[of]
            return False
        if running >= 0 and running + 1 < steps:
            self._episodes[of] = running + 1
            return False
        self._episodes[of] = -max(1, int(calm))
        return running >= 0

    def tell(
        self,
        reading: Reading,
        said: str,
        *,
        answer: Answer | None = None,
        value: float | None = None,
        usual: float | None = None,
        onset: int | None = None,
        optimizer: str | None = None,
    ) -> Incident:
        """The incident that a rule answers with."""
        return Incident(
            kind=self.name(),
            step=reading.step,
            answer=answer or self.answer,
            said=said,
            value=value,
            usual=usual,
            onset=onset,
            optimizer=optimizer,
        )

    def went_back(self) -> None:
        """The run was rolled back: an act that did not help must be asked for again."""
        if self.answer == "act":
            self._episodes.clear()

    def state_dict(self) -> dict[str, Any]:
        # Settings stay out of it: a resumed run may have others.
        settings = self.settings()
        return copy.deepcopy({k: v for k, v in vars(self).items() if k not in settings})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(copy.deepcopy(state))


class Watch(Rule):
    """A rule about one value, or about each value under a prefix; it never sees a non-finite one.

    Facts are values that may be given once: the last finite one of each is in `known`.
    """

    # `train/loss`, or `lr/` for lr/<anything>.
    value: ClassVar[str]
    facts: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made.known = {}
        made._windows = {}
        return made

    known: dict[str, float]
    # By subject: how many values, and their sum.
    _windows: dict[str, list[float]]

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        """Judge one value; `of` is what comes after the prefix."""
        raise NotImplementedError

    def observe(self, reading: Reading) -> Incident | None:
        for name in covered(self.facts, reading.values):
            self.learn(name, reading.values[name])
        found = None
        for name in covered((self.value,), reading.values):
            value = reading.values[name]
            # False for infinities and NaN.
            if value - value == 0:
                found = self.look(reading, value, name[len(self.value) :]) or found
        return found

    def learn(self, name: str, value: float) -> None:
        if value - value == 0:
            self.known[name] = value

    def mean(self, value: float, looks: float, of: str = "") -> float | None:
        """The mean of every so many values, at the last of them."""
        window = self._windows.get(of)
        if window is None:
            window = self._windows[of] = [0, 0.0]
        window[0] += 1
        window[1] += value
        if window[0] < looks:
            return None
        del self._windows[of]
        return window[1] / window[0]


def covered(wanted: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """The names that are wanted, as they are or by a prefix with a slash at its end."""
    exact, prefixes = set(wanted), tuple(each for each in wanted if each.endswith("/"))
    return (name for name in names if name in exact or (prefixes and name.startswith(prefixes)))
