"""The verdict on a run, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit.report.words import verdict


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
        "plan": "rollback",
        "plan_sentence": "go back",
        "changed": ["clip 1 -> 0.5", "lr 0.000741181 -> 0.00037059"],
        "applied": True,
        "healed": True,
        "resumed_step": step - 62,
        **about,
    }


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            run("done", incident(411, resumed_step=350)),
            "Done. Gradients exploded once, at step 411, in output_proj.weight; hpckit went back "
            "to step 350 with clip 1 → 0.5 and lr 0.000741 → 0.000371, and it finished; 62 steps "
            "were done again.",
        ),
        (
            run("running", incident(411, resumed_step=350, changed=[])),
            "Running, at step 600. Gradients exploded once, at step 411, in output_proj.weight; "
            "hpckit went back to step 350, and it has been well for 189 steps since; 62 steps "
            "were done again.",
        ),
        (
            run("running", incident(598, healed=None, changed=[])),
            "Running, at step 600. Gradients exploded once, at step 598, in output_proj.weight; "
            "hpckit went back to step 536, and it is too early to say whether that helped; 63 "
            "steps were done again.",
        ),
        (
            run("running", incident(90, applied=False, healed=None, resumed_step=None)),
            "Running, at step 600. Gradients exploded once, at step 90, in output_proj.weight; "
            "hpckit asked to go back.",
        ),
        (
            run(
                "stopped",
                incident(388, healed=False, changed=[], parameter="a"),
                incident(395, healed=False, changed=[], parameter="b"),
                incident(
                    408,
                    plan="stop",
                    applied=False,
                    plan_sentence="stop: went back 2 times: explosion at step 388, a -> b",
                ),
                reason="went back 2 times without progress: a, b, c",
            ),
            "Stopped by hpckit. Gradients exploded twice, at steps 388 and 395, first in a; hpckit "
            "went back to steps 326 and 333, and it came back; 126 steps were done again. The last "
            "one was an explosion in output_proj.weight at step 408: went back 2 times.",
        ),
        (
            run(
                "stopped",
                incident(
                    9,
                    plan="stop",
                    applied=False,
                    plan_sentence="stop: structural: the same growth in a (step 8: norm 86; step "
                    "9: norm 90). Clipping cannot heal that. Look beside this parameter.",
                ),
            ),
            "Stopped by hpckit. The last one was an explosion in output_proj.weight at step 9: "
            "structural: the same growth in a. Clipping cannot heal that.",
        ),
        (
            run(
                "done",
                incident(100, kind="node_failure", parameter=None, changed=[], resumed_step=90),
            ),
            "Done. A node was lost once, at step 100; hpckit went on from step 90, and it "
            "finished; 10 steps were done again.",
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
