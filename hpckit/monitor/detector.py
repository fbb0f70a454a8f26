"""Judges one optimizer's gradient norms and losses, step by step, and never cries wolf lightly.

Two decisions. The *gate* (`limit`) holds back single updates: it may err now and then, a skipped
step costs nothing. To *act* is to go back to a checkpoint, and it needs proof that the weights,
not the data, are bad: values that are non-finite after a growth or twice running, a norm far above
its usual on different batches while loss and norm grow, a loss that is gone for good. A norm that
jumps to a new level and stays there (a curriculum, a restart) is told, gets through after a few
steps, and becomes usual.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import Any

from hpckit.monitor.incident import Answer, Incident, number
from hpckit.monitor.loss import LossWatch
from hpckit.monitor.memory import Memory
from hpckit.monitor.norms import NormWatch
from hpckit.monitor.saturation import Saturation

# Below this scale a float16 training's overflow is no matter of calibration any more.
LEAST_SCALE = 1.0
# Overflows in a row at the start that a scale of 2^16 may need to come down.
CALIBRATION = 24
# Overflows in a row that a float16 training may have later: its scale is halved at each.
OVERFLOWS = 8
# A run of broken steps that is rarer than this comes from the weights, not from the data.
CHANCE = 1e-6
EARLY = 64
# A loss that breaks in the first steps was never good; going back costs nothing.
BIRTH = 8
# So many steps without any gradient are no accident.
DEAD = 16
# Acts of a kind are one event while nothing has been done about them.
AGAIN = 100


class Detector(Memory):
    """One optimizer's watchman."""

    settings = frozenset({"optimizer"})

    def __init__(
        self,
        *,
        optimizer: str | None = None,
        window: int = 256,
        warm: int = 64,
        sigmas: float = 6.0,
        times: float = 8.0,
        explodes: float = 1000.0,
        patience: int = 8,
        clip: float | None = None,
    ) -> None:
        """The gate shuts `sigmas` spreads and `times` the usual norm above it.

        `window`: accepted steps that make the usual, judged from the `warm`-th on. `explodes`:
        times the usual that no single batch explains. `patience`: steps that a gate may stay shut.
        `clip`: the norm that is clipped to, where readings do not tell the factor.
        """
        self.optimizer = optimizer
        self.norms = NormWatch(
            window=window,
            warm=warm,
            sigmas=sigmas,
            times=times,
            explodes=explodes,
            patience=patience,
        )
        self.loss = LossWatch()
        self.saturation = Saturation(clip)
        # Non-finite: how many running, and which of the last were.
        self.broken = 0
        self.breaks: deque[bool] = deque(maxlen=512)
        self.seen = 0
        # Steps running whose gradient was exactly zero.
        self.dead = 0
        # The run began with overflows: it trains in float16.
        self.calibrates = False
        self.gone = False
        self.acted: dict[str, int] = {}
        # The next norm must not be above this to be applied.
        self.limit = math.inf

    def observe(
        self,
        *,
        step: int,
        loss: float | None = None,
        norm: float | None = None,
        gated: bool | None = None,
        factor: float | None = None,
        scale: float | None = None,
    ) -> Incident | None:
        """Take in one step's reading; answer with what is wrong, if anything is.

        `gated` says whether the update was held back, where a gate is at work; without one the
        detector's own `limit` says what it would have done. `factor` is what clipping multiplied
        by, `scale` a float16 training's loss scale.
        """
        loss_broken = loss is not None and not math.isfinite(loss)
        norm_broken = norm is not None and not math.isfinite(norm)
        self.breaks.append(loss_broken or norm_broken)
        if loss_broken:
            return self._once(self._broken(step, f"loss {number(loss)}", True, None, scale))
        if norm_broken:
            what = f"gradient norm {number(norm)}"
            return self._once(self._broken(step, what, False, loss, scale))
        self.broken = 0
        self.seen += 1
        if norm is None or norm <= 0:
            return self._once(self._loss_alone(step, loss, norm))
        self.dead = 0
        held = gated if gated is not None else not norm <= self.limit
        bad = self.norms.take(step, math.log(norm), held)
        if loss is not None:
            self.loss.observe(step, loss, accepted=not held)
        incident = None
        if bad:
            incident = self._held(step, norm)
        elif not held:
            incident = self._accepted(step, norm, loss, factor)
        self.limit = self.norms.limit
        return self._once(incident)

    @property
    def usual(self) -> float:
        """The norm that is usual now; NaN where it is too early to tell."""
        usual = self.norms.usual
        return math.exp(min(usual.level, 700.0)) if usual.ready else math.nan

    def went_back(self, step: int) -> None:
        """The run goes on from a step of before: what led away from it is not what comes now."""
        self.norms.went_back(step)
        self.loss.went_back(step)
        self.broken = 0
        self.breaks.clear()
        self.acted.clear()
        self.gone = False
        self.limit = self.norms.limit

    def _broken(
        self, step: int, what: str, loss_broken: bool, loss: float | None, scale: float | None
    ) -> Incident | None:
        """A value that is not finite; `loss` is the step's, where that one is."""
        self.broken += 1
        # float16 finds its scale by overflowing: an overflow alone says nothing there.
        scaling = scale is not None and scale > LEAST_SCALE
        if self.seen == 0 and not loss_broken:
            self.calibrates = True
            patient = self.broken < CALIBRATION and (scale is None or scaling)
        else:
            float16 = scaling or (scale is None and self.calibrates)
            unusual = self._was_unusual() or (loss is not None and self.loss.is_absurd(loss))
            if float16 and loss is not None and not self.loss.is_above(loss):
                # A larger gradient is what overflows: only the loss tells.
                unusual = False
            patient = float16 and not loss_broken and not unusual and self.broken < OVERFLOWS
            if not patient and (unusual or self._is_no_accident(loss_broken)):
                return self._incident(step, "non_finite", "act", self._running(what))
        if patient:
            return None if scale is not None else self._incident(step, "non_finite", "skip", what)
        answer: Answer = "act" if self.seen == 0 and not loss_broken else "skip"
        return self._incident(step, "non_finite", answer, self._running(what))

    def _running(self, what: str) -> str:
        return what if self.broken == 1 else f"{what}, {self.broken} steps running"

    def _was_unusual(self) -> bool:
        return self.norms.was_unusual(self.loss) or self.loss.is_worse()

    def _is_no_accident(self, loss_broken: bool) -> bool:
        """Whether it is more than one bad batch."""
        if self.seen == 0:
            return self.broken >= 3
        if self.seen <= BIRTH and loss_broken:
            return True
        often = sum(islice(reversed(self.breaks), 32)) > 16
        return often or self.broken >= max(2 if loss_broken else 3, self._by_chance())

    def _by_chance(self) -> int:
        """How many running are no chance any more, by how often one was broken before."""
        earlier = sum(self.breaks) - self.broken
        if earlier <= 0:
            return 0
        share = (1 + earlier) / (1 + max(len(self.breaks) - self.broken, EARLY))
        return math.ceil(math.log(CHANCE) / math.log(min(share, 0.5)))

    def _held(self, step: int, norm: float) -> Incident:
        said, usual = self._times_usual(norm, self.norms.usual.level)
        answer = self.norms.weigh(self.loss)
        if answer == "tell":
            said += f": on {self.norms.running} different batches, so it is its new level"
            self.norms.let_through()
        kind = {"skip": "bad_batch", "act": "explosion", "tell": "drift"}[answer]
        return self._incident(step, kind, answer, said, value=norm, usual=usual)

    def _times_usual(self, norm: float, level: float) -> tuple[str, float]:
        usual = math.exp(level)
        times = number(norm / usual)
        return f"gradient norm {number(norm)}, {times} times its usual {number(usual)}", usual

    def _accepted(
        self, step: int, norm: float, loss: float | None, factor: float | None
    ) -> Incident | None:
        self.norms.accept(math.log(norm))
        anchor = self.norms.anchor
        if self.norms.has_left_for_good(self.loss) and anchor is not None:
            said, usual = self._times_usual(norm, anchor)
            return self._incident(step, "explosion", "act", said, value=norm, usual=usual)
        saturates = self.saturation.observe(norm, factor)
        if loss is not None and self._is_gone():
            return self._loss_gone(step, loss)
        return self._saturated(step, norm) if saturates else self._drift(step, norm)

    def _loss_alone(self, step: int, loss: float | None, norm: float | None) -> Incident | None:
        if loss is None:
            return None
        self.loss.observe(step, loss, accepted=True)
        self.dead = self.dead + 1 if norm is not None else 0
        # Data that got harder has gradients; what is lost without them does not come back.
        lost = self.dead >= DEAD and self.loss.is_forgotten() and not self.gone
        self.gone = self.gone or lost
        return self._loss_gone(step, loss) if lost or self._is_gone() else None

    def _is_gone(self) -> bool:
        """Whether the loss is gone: said once, until it has come back."""
        if self.loss.far == 0:
            self.gone = False
        if self.gone or not self.loss.is_gone(saturated=self.saturation.told):
            return False
        self.gone = True
        return True

    def _loss_gone(self, step: int, loss: float) -> Incident:
        usual = self.loss.usual.level
        said = (
            f"loss {number(loss)} for {self.loss.far} steps, usually {number(usual)}, "
            "while the gradient norm is finite"
        )
        return self._incident(step, "loss_lost", "act", said, value=loss, usual=usual)

    def _saturated(self, step: int, norm: float) -> Incident:
        said = (
            f"nearly every one of the last {len(self.saturation.last)} steps was clipped: "
            "the clip sets the size of the steps, and a growing norm will not show in them"
        )
        return self._incident(step, "clip_saturation", "tell", said, value=norm)

    def _drift(self, step: int, norm: float) -> Incident | None:
        level = self.norms.drifted_from()
        if level is None:
            return None
        usual = math.exp(level)
        now = math.exp(self.norms.told_at or level)
        said = f"gradient norm drifted from {number(usual)} to {number(now)}"
        return self._incident(step, "drift", "tell", said, value=norm, usual=usual)

    def _incident(
        self,
        step: int,
        kind: str,
        answer: Answer,
        said: str,
        **known: Any,
    ) -> Incident:
        grew = answer == "act" or kind == "drift"
        return Incident(
            kind=kind,
            step=step,
            answer=answer,
            said=said,
            optimizer=self.optimizer,
            onset=self._onset(step) if grew else None,
            **known,
        )

    def _onset(self, step: int) -> int:
        """When norm or loss, whichever was first, began to rise."""
        begin = self.norms.onset(step)
        risen = self.loss.far > 0 or (self.loss.excess or 0.0) > 4.0
        return min(begin, self.loss.onset(step)) if risen else begin

    def _once(self, incident: Incident | None) -> Incident | None:
        """An act that was asked for is not asked for again at once."""
        if incident is None or not incident.acts:
            return incident
        last = self.acted.get(incident.kind)
        # A step that went back begins anew: a log's, or a run's.
        if last is not None and last <= incident.step < last + AGAIN:
            return None
        self.acted[incident.kind] = incident.step
        return incident
