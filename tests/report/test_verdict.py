"""The verdict on a run, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit.report.changed import summed
from hpckit.report.verdict import verdict
from hpckit.report.words import because, outcome


def run(
    state: str, *incidents: dict[str, Any], reason: str = "", step: int = 600
) -> dict[str, Any]:
    return {"state": state, "reason": reason or state, "step": step, "incidents": list(incidents)}


def incident(step: int, **about: Any) -> dict[str, Any]:
    return {
        "kind": "explosion",
        "step": step,
        "time": f"2026-07-20T10:00:{step % 60:02d}Z",
        "parameter": "output_proj.weight",
        "division": None,
        "optimizer": "main",
        "value": None,
        "usual": None,
        "onset": None,
        "plan": "rollback",
        "plan_sentence": "go back",
        "changed": ["clip 1 -> 0.5", "lr 0.000741181 -> 0.00037059"],
        "applied": True,
        "healed": True,
        "came_back": None,
        "resumed_step": step - 62,
        **about,
    }


def of_generator(*values: float) -> list[str]:
    clip, clipped, lr, lowered = (f"{value:g}" for value in values)
    return [f"clip of generator {clip} -> {clipped}", f"lr of generator {lr} -> {lowered}"]


STOP: dict[str, Any] = {"plan": "stop", "applied": False, "healed": None, "changed": []}
DIVISION = {
    "place": "model.py:134 in Stage.forward (stages.2)",
    "line": "scale = wanted / (loudness + 1e-8)",
    "smallest": 0.0786,
    "largest": "inf",
}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            run("done", incident(411, resumed_step=350, value=430.0, usual=6.6, onset=390)),
            "Done. Gradients exploded at step 411 (65 times the usual norm, growing since step "
            "390), in output_proj.weight. hpckit went back to step 350, tightened the clip from 1 "
            "to 0.5 and lowered the learning rate from 0.000741 to 0.000371, and the training "
            "finished. 62 steps were done again.",
        ),
        (
            run(
                "done",
                incident(535, changed=of_generator(1, 0.5, 0.004, 0.002), came_back=594),
                incident(594, changed=of_generator(0.5, 0.25, 0.002, 0.001)),
            ),
            "Done. Gradients exploded twice, at steps 535 and 594, in output_proj.weight. hpckit "
            "went back both times, tightened generator's clip from 1 to 0.25 and lowered its "
            "learning rate from 0.004 to 0.001, and the training finished. 126 steps were done "
            "again.",
        ),
        (
            run("running", incident(411, resumed_step=350, changed=[])),
            "Running, at step 600. Gradients exploded at step 411, in output_proj.weight. hpckit "
            "went back to step 350, and it has been well for 189 steps since. 62 steps were done "
            "again.",
        ),
        (
            run("running", incident(598, healed=None, changed=[])),
            "Running, at step 600. Gradients exploded at step 598, in output_proj.weight. hpckit "
            "went back to step 536; it is too early to say whether that helped. 63 steps were "
            "done again.",
        ),
        (
            run("running", incident(90, applied=False, healed=None, resumed_step=None)),
            "Running, at step 600. Gradients exploded at step 90, in output_proj.weight. hpckit "
            "asked to go back.",
        ),
        (
            run(
                "stopped",
                incident(388, healed=False, changed=[], parameter="a", came_back=395),
                incident(395, healed=False, changed=[], parameter="b", came_back=408),
                incident(
                    408, **STOP, plan_sentence="stop: went back 2 times: explosion at step 388, a"
                ),
                reason="went back 2 times without progress: a, b, c",
            ),
            "Stopped by hpckit. Gradients exploded 3 times, at steps 388, 395 and 408, first in "
            "a. hpckit went back twice, but it came back each time. It was stopped: went back 2 "
            "times. 126 steps were done again.",
        ),
        (
            run(
                "stopped",
                incident(9, **STOP, plan_sentence="stop: structural: a (step 8: norm 86). Look."),
            ),
            "Stopped by hpckit. Gradients exploded at step 9, in output_proj.weight. No clip and "
            "no learning rate heals that. Look beside this parameter for a division by something "
            "that shrinks.",
        ),
        (
            run(
                "stopped",
                incident(9, **STOP, plan_sentence="stop: structural: a", division=DIVISION),
            ),
            "Stopped by hpckit. Gradients exploded at step 9, in output_proj.weight. No clip and "
            "no learning rate heals that. Look at the division beside this parameter: scale = "
            "wanted / (loudness + 1e-8), model.py:134 in Stage.forward (stages.2), divided by as "
            "little as 0.079 and gave as much as inf. Bound it: a clamp on the quotient, or a "
            "floor under the divisor.",
        ),
        (
            run(
                "done",
                incident(40, changed=["lr 0.1 -> 0.05"]),
                incident(
                    100,
                    kind="node_failure",
                    parameter=None,
                    changed=["n1 excluded"],
                    resumed_step=90,
                ),
            ),
            "Done. Gradients exploded at step 40, in output_proj.weight. hpckit went back to step "
            "-22 and lowered the learning rate from 0.1 to 0.05. A node was lost at step 100. "
            "hpckit went on from step 90 and left out n1, and the training finished. 73 steps "
            "were done again.",
        ),
        (run("done"), "Done. Nothing went wrong that needed help."),
        (run("running"), "Running, at step 600. Nothing has gone wrong so far."),
        (run("failed", reason="exit code 1."), "Failed. Why: exit code 1."),
        (run("cancelled", reason="cancelled by ana"), "Cancelled. Why: cancelled by ana."),
        (
            run("done", {**incident(5), "plan": "skip"}),
            "Done. Nothing went wrong that needed help.",
        ),
    ],
)
def test_a_verdict_tells_state_incident_answer_and_outcome(told: dict[str, Any], said: str) -> None:
    assert verdict(told) == said


def test_a_name_of_a_programs_moves_nobodys_cursor() -> None:
    assert "\x1b" not in verdict(run("failed", reason="\x1b[2Jgone"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        # A schedule goes on between two rollbacks: what hpckit did is the factor.
        (
            ["lr 0.004 -> 0.002", "lr 7.02e-06 -> 3.51e-06"],
            ["made the learning rate 4 times smaller"],
        ),
        (
            ["clip of a 1 -> 0.5", "clip of bs 2 -> 4", "lr of bs 0.1 -> 0.2"],
            [
                "tightened a's clip from 1 to 0.5",
                "widened bs' clip from 2 to 4",
                "raised its learning rate from 0.1 to 0.2",
            ],
        ),
        (
            ["clip none -> 5", "params.width 8 -> 4", "resources.memory 8G -> 12G"],
            [
                "set the clip from none to 5",
                "set params.width from 8 to 4",
                "set resources.memory from 8G to 12G",
            ],
        ),
        (["n1 left out", "n1 left out", "another word"], ["left out n1", "changed another word"]),
    ],
)
def test_changes_are_told_together_from_the_first_value_to_the_last(
    changed: list[str], said: list[str]
) -> None:
    assert summed(changed) == said


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({}, "healed"),
        ({"came_back": 594}, "came back at step 594"),
        ({"healed": False}, "came no further"),
        ({"healed": None}, "too early to say"),
        (STOP, "-"),
    ],
)
def test_an_outcome_is_what_came_of_one_remedy(about: dict[str, Any], said: str) -> None:
    assert outcome(incident(535, **about)) == said


def test_an_attempt_that_was_stopped_says_it_in_short_where_the_incident_has_it_all() -> None:
    ended = {"number": 1, "reason": "structural: a long story"}
    stopped = incident(9, **STOP, attempt=1, plan_sentence="stop: structural: a long story")
    assert because(ended, [stopped]) == "stopped after an explosion"
    assert because(ended, [{**stopped, "attempt": 2}]) == "structural: a long story"
