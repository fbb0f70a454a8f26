"""Writes docs/healing-table.md: what is done about each kind of trouble, by the policy itself."""

from __future__ import annotations

from pathlib import Path

from hpckit.heal import Past, Plan, Rules, decide
from hpckit.heal.rules import DEFAULTS
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE

MOST = 5
WORDS = {"rollback": "back in process", "relaunch": "new processes", "resubmit": "new attempt"}


def text() -> str:
    """The whole file."""
    rows = [_row(kind) for kind in DEFAULTS]
    head = "| kind | 1st time | 2nd | 3rd | 4th | changes | from | progress refills |"
    rule = "|---|---|---|---|---|---|---|---|"
    note = "Made by `python docs/make_healing.py` from `hpckit.heal.decide`; do not edit.\n"
    return "\n".join([note, head, rule, *rows, ""])


def _row(kind: str) -> str:
    """One trouble that comes back again and again, each time a little later."""
    rules, history, plans = Rules(), [], []
    for number in range(4):
        plan = decide(_incident(kind, 1000 + 150 * number), history, rules)
        plans.append(plan)
        history = [*history, _past(kind, plan, 1000 + 150 * number)]
        if plan.do == "stop":
            break
    cells = [WORDS.get(plan.do, plan.do) for plan in plans]
    cells += [""] * (4 - len(cells))
    first = plans[0]
    changes = ", ".join(f"{name} x{each.times:g}" for name, each in first.changes.items())
    state = "newest intact state" if first.intact else "newest good state of before"
    limited = rules.remedy(kind).limit is not None
    refills = f"after {rules.refill_steps} healthy steps" if limited else "bound by limits only"
    return f"| `{kind}` | {' | '.join(cells)} | {changes or '-'} | {state} | {refills} |"


def _incident(kind: str, step: int) -> Incident:
    return Incident(kind=kind, step=step, answer="act", said="so")


def _past(kind: str, plan: Plan, step: int) -> Past:
    gained = 100 if kind in INFRASTRUCTURE else None
    return Past(incident=_incident(kind, step), plan=plan, step=step, healthy=50, gained=gained)


if __name__ == "__main__":
    Path(__file__).with_name("healing-table.md").write_text(text(), encoding="utf-8")
