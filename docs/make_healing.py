"""Writes the table in docs/healing.md: what is done about each kind of trouble, by the policy."""

from __future__ import annotations

from pathlib import Path

from hpckit.heal import Past, Plan, Rules, decide
from hpckit.heal.rules import DEFAULTS
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE

PAGE = Path(__file__).with_name("healing.md")
BEGIN, END = "<!-- made by docs/make_healing.py from hpckit.heal.decide -->\n", "<!-- end -->"
TIMES = 4
WORDS = {"rollback": "back, in process", "relaunch": "new processes", "resubmit": "new attempt"}


def text() -> str:
    """The whole page with a fresh table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def table() -> str:
    head = "| kind | 1st | 2nd | 3rd | 4th | changes | goes on from | the budget |"
    rule = "|---|---|---|---|---|---|---|---|"
    return "\n".join([head, rule, *map(_row, DEFAULTS), ""])


def _row(kind: str) -> str:
    """One trouble that comes back again and again, each time a little later."""
    plans = _story(kind)
    cells = [WORDS.get(plan.do, plan.do) for plan in plans]
    cells += [""] * (TIMES - len(cells))
    changes = ", ".join(f"{name} x{each.times:g}" for name, each in plans[0].changes.items())
    state = "newest intact state" if plans[0].intact else "newest good state of before"
    rules = Rules()
    refilled = f"refilled by {rules.refill_steps} healthy steps"
    budget = refilled if rules.remedy(kind).limit is not None else "only `limits`"
    return f"| `{kind}` | {' | '.join(cells)} | {changes or '-'} | {state} | {budget} |"


def _story(kind: str) -> list[Plan]:
    history: list[Past] = []
    plans: list[Plan] = []
    while len(plans) < TIMES and (not plans or plans[-1].do != "stop"):
        incident = Incident(kind=kind, step=1000 + 150 * len(plans), answer="act", said="so")
        plans.append(decide(incident, history, Rules()))
        gained = 100 if kind in INFRASTRUCTURE else None
        history.append(
            Past(incident=incident, plan=plans[-1], step=incident.step, healthy=50, gained=gained)
        )
    return plans


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
