"""What is done about an incident, and when it is no use any more."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from typing import Any, get_args

import pytest

from hpckit.errors import UsageError
from hpckit.heal import Past, Plan, Rules, decide
from hpckit.heal.rules import ONE_TROUBLE
from hpckit.monitor import Incident
from hpckit.monitor.incident import Answer
from hpckit.spec import Change, Remedy, spec_from_json
from hpckit.spec.parts import KINDS
from tests.heal.conftest import answered, explosion, other

HALVED = {"clip": Change(times=0.5), "lr": Change(times=0.5)}


def past(incident: Incident, *, healthy: int = 50, step: int = 8000, **plan: Any) -> Past:
    fields: dict[str, Any] = {"do": "rollback", "reason": "", "changes": HALVED, **plan}
    return Past(incident=incident, plan=Plan(**fields), step=step, healthy=healthy)


# One incident, nothing before it: whether it acts, what the spec says, and what is done.
FIRST: list[tuple[str, Incident, dict[str, Remedy], dict[str, Any]]] = [
    ("told only", other("drift", answer="tell"), {}, {"do": "tell"}),
    ("one bad batch", other("bad_batch", answer="skip"), {}, {"do": "skip"}),
    (
        "one bad batch of a kind that has a remedy",
        other("non_finite", answer="skip"),
        {"non_finite": Remedy(do="stop")},
        {"do": "skip"},
    ),
    (
        "told, whatever the spec says",
        other("drift", answer="tell"),
        {"drift": Remedy(do="rollback")},
        {"do": "tell"},
    ),
    (
        "an explosion",
        explosion(),
        {},
        {"do": "rollback", "changes": HALVED, "of": ("main",), "skip_batches": 100, "before": 8097},
    ),
    (
        "non-finite, nobody to blame, no onset",
        other("non_finite"),
        {},
        {"do": "rollback", "changes": HALVED, "of": None, "skip_batches": 100, "before": 8123},
    ),
    (
        "a lost loss",
        other("loss_lost", optimizer="generator", onset=8000),
        {},
        {"do": "rollback", "changes": HALVED, "of": ("generator",), "skip_batches": 100}
        | {"before": 8000},
    ),
    (
        "no data",
        other("steps_without_data", optimizer="main"),
        {},
        {"do": "rollback", "changes": {}, "of": None, "skip_batches": 1, "before": 8123},
    ),
    (
        "a rule of the user's own",
        other("loss_too_high"),
        {},
        {"do": "rollback", "changes": {}, "of": None, "skip_batches": 1, "before": 8123},
    ),
    ("watch only", explosion(), {"explosion": Remedy(do="tell")}, {"do": "tell"}),
    (
        "another kind's remedy",
        explosion(),
        {"loss_lost": Remedy(do="tell")},
        {"do": "rollback", "changes": HALVED, "of": ("main",), "skip_batches": 100, "before": 8097},
    ),
    (
        "the spec's own change, the rest by default",
        explosion(),
        {"explosion": Remedy(change={"lr": Change(times=0.1, min=0.01)})},
        {"do": "rollback", "changes": {"lr": Change(times=0.1, min=0.01)}, "of": ("main",)}
        | {"skip_batches": 100, "before": 8097},
    ),
    (
        "no batch skipped, all changed",
        explosion(),
        {"explosion": Remedy(skip_batches=0, of="all")},
        {"do": "rollback", "changes": HALVED, "of": None, "skip_batches": 0, "before": 8097},
    ),
    (
        "an optimizer by name",
        explosion(),
        {"explosion": Remedy(of="discriminator")},
        {"do": "rollback", "changes": HALVED, "of": ("discriminator",), "skip_batches": 100}
        | {"before": 8097},
    ),
    (
        "a parameter, which is nobody's",
        explosion(),
        {"explosion": Remedy(change={"params.w": Change(to=0.1)})},
        {"do": "rollback", "changes": {"params.w": Change(to=0.1)}, "of": None}
        | {"skip_batches": 100, "before": 8097},
    ),
    (
        "new processes",
        other("scores_nan"),
        {"scores_nan": Remedy(do="relaunch")},
        {"do": "relaunch", "changes": {}, "of": None, "skip_batches": 1, "before": 8123},
    ),
    (
        "a new attempt",
        explosion(),
        {"explosion": Remedy(do="resubmit")},
        {"do": "resubmit", "changes": HALVED, "of": ("main",), "skip_batches": 100, "before": 8097},
    ),
]


@pytest.mark.parametrize(("incident", "heal", "expected"), [case[1:] for case in FIRST],
                         ids=[case[0] for case in FIRST])  # fmt: skip
def test_a_first_incident_is_answered_by_its_answer_its_kind_and_the_spec(
    incident: Incident, heal: dict[str, Remedy], expected: dict[str, Any]
) -> None:
    plan = decide(incident, [], Rules(remedies=heal))
    # The reason is words, which other tests read.
    assert plan == Plan(**expected, reason=plan.reason)


def test_every_kind_with_every_answer_has_a_plan() -> None:
    for kind in KINDS:
        for answer in get_args(Answer):
            plan = decide(other(kind, answer=answer), [], Rules())
            acts = Rules().remedy(kind).do
            assert plan.do == {"tell": "tell", "skip": "skip", "act": acts}[answer]
            assert plan.reason


def test_do_stop_stops_at_once_and_says_what_it_saw() -> None:
    plan = decide(explosion(), [], Rules(remedies={"explosion": Remedy(do="stop")}))
    assert plan.do == "stop"
    assert plan.diagnosis == (
        "explosion at step 8123, gradient norm 1.6e6, 230000 times its usual 6.9, "
        "worst parameter cascade_stages.2.output_proj.weight"
    )


def test_a_name_that_no_optimizer_has_is_refused_as_soon_as_they_are_known() -> None:
    rules = Rules(remedies={"loss_lost": Remedy(do="tell", of="adm")})
    with pytest.raises(UsageError) as refused:
        dataclasses.replace(rules, optimizers=("adam", "sgd"))
    assert refused.value.message == "heal.loss_lost.of: no optimizer is registered as adm"
    assert refused.value.hint == "write blamed, all, or one of these: adam, sgd"
    for of in ("sgd", "all", "blamed", None):
        Rules(remedies={"explosion": Remedy(of=of)}, optimizers=("adam", "sgd"))


def test_the_only_optimizer_may_be_called_what_a_script_calls_it() -> None:
    rules = Rules(remedies={"explosion": Remedy(of="optimizer")}, optimizers=("main",))
    assert decide(explosion(), [], rules).of == ("main",)
    with pytest.raises(UsageError, match="registered as optimizer"):
        dataclasses.replace(rules, optimizers=("adam", "sgd"))


def test_the_rules_are_the_specs() -> None:
    spec = spec_from_json(
        {
            "name": "a",
            "program": "python train.py",
            "checkpoint": {"confirm_steps": 20},
            "monitor": {"optimizers": {"generator": {"clip": 1}, "discriminator": {}}},
            "heal": {"explosion": {"change": {"clip": "x0.25"}, "of": "generator", "limit": 1}},
        }
    )
    rules = Rules.of(spec)
    assert rules.optimizers == ("generator", "discriminator")
    assert (rules.confirm_steps, rules.refill_steps) == (20, 1000)
    plan = decide(explosion(), [], rules)
    assert (plan.changes, plan.of) == ({"clip": Change(times=0.25)}, ("generator",))
    assert decide(explosion(), [past(explosion())], rules).do == "stop"


def test_progress_is_ten_times_what_confirms_and_at_least_a_thousand_steps() -> None:
    assert Rules(confirm_steps=0).refill_steps == 1000
    assert Rules(confirm_steps=100).refill_steps == 1000
    assert Rules(confirm_steps=500).refill_steps == 5000


# Kinds, one after the other, each soon after the restart before; what is done about them.
STORIES = [
    (["explosion"] * 4, ["rollback"] * 3 + ["stop"]),
    (["explosion", "non_finite", "loss_lost", "explosion"], ["rollback"] * 3 + ["stop"]),
    (["scores_nan"] * 4, ["rollback"] * 3 + ["stop"]),
    (["scores_nan", "explosion", "scores_nan", "explosion"], ["rollback"] * 4),
    (["scores_nan", "steps_without_data"] * 3, ["rollback"] * 6),
]


@pytest.mark.parametrize(("kinds", "done"), STORIES)
def test_a_trouble_that_returns_is_worth_three_restarts(kinds: list[str], done: list[str]) -> None:
    incidents = [other(kind, 8100 + n) for n, kind in enumerate(kinds)]
    plans, _ = answered(incidents, Rules())
    assert [plan.do for plan in plans] == done


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_the_specs_limit_is_how_often_it_is_tried(limit: int) -> None:
    rules = Rules(remedies={"loss_lost": Remedy(limit=limit)})
    plans, _ = answered([other("loss_lost", 8100 + n) for n in range(limit + 1)], rules)
    assert [plan.do for plan in plans] == ["rollback"] * limit + ["stop"]


def test_progress_refills_the_budget_of_what_was_before_it() -> None:
    before = [past(other("loss_lost"), healthy=each) for each in (50, 999, 50)]
    assert decide(other("loss_lost"), before, Rules()).do == "stop"
    before[1] = dataclasses.replace(before[1], healthy=1000)
    plan = decide(other("loss_lost"), before, Rules())
    assert plan.do == "rollback"
    assert plan.reason == "loss_lost at step 8123: restart 2 of 3; " + (
        "the one from step 8000 came no further than before"
    )


def test_progress_after_another_troubles_restart_is_progress_too() -> None:
    spent = [past(other("loss_lost"))] * 3
    healthy = past(other("scores_nan"), healthy=1000)
    assert decide(other("loss_lost"), [*spent, healthy], Rules()).do == "rollback"
    assert decide(other("loss_lost"), [healthy, *spent], Rules()).do == "stop"


def test_what_was_only_told_or_skipped_is_not_spent() -> None:
    told = past(other("loss_lost"), do="tell", changes={}, healthy=5000)
    skipped = past(other("non_finite"), do="skip", changes={}, healthy=5000)
    spent = [past(other("loss_lost"))] * 2
    plan = decide(other("loss_lost"), [told, skipped] * 3 + spent, Rules())
    assert plan.reason.startswith("loss_lost at step 8123: restart 3 of 3")
    # Nor is it progress that the run stood well after one.
    assert decide(other("loss_lost"), [*spent, spent[0], told], Rules()).do == "stop"


def test_a_person_who_starts_a_stopped_run_again_gives_it_a_new_budget() -> None:
    spent = [past(other("loss_lost"))] * 3
    stopped = past(other("loss_lost"), do="stop", changes={})
    assert decide(other("loss_lost"), [*spent, stopped], Rules()).do == "rollback"


def test_a_spent_budget_tells_what_was_tried_and_what_it_looked_like() -> None:
    losses = [other("loss_lost", step, said=f"loss {step}") for step in (8100, 8200, 8300)]
    plans, _ = answered(losses, Rules(remedies={"loss_lost": Remedy(limit=2)}))
    assert plans[-1].reason == "heal.loss_lost.limit of 2 is spent"
    assert plans[-1].diagnosis == (
        "went back 2 times without lasting progress, and heal.loss_lost.limit is 2: "
        "loss_lost at step 8100, loss 8100 -> went on from step 8000, clip x0.5, lr x0.5; "
        "loss_lost at step 8200, loss 8200 -> went on from step 8000, clip x0.5, lr x0.5; "
        "now loss_lost at step 8300, loss 8300"
    )


def test_of_many_restarts_the_last_three_are_told() -> None:
    rules = Rules(remedies={"scores_nan": Remedy(limit=9)})
    plans, _ = answered([other("scores_nan", 8000 + n) for n in range(10)], rules)
    told = plans[-1].diagnosis or ""
    assert "went back 9 times" in told
    assert "is 9: 6 more before these; scores_nan at step 8006" in told
    assert told.count("nothing changed") == 3


def test_a_limit_of_zero_says_that_nothing_was_tried() -> None:
    plan = decide(other("scores_nan"), [], Rules(remedies={"scores_nan": Remedy(limit=0)}))
    assert plan.diagnosis == (
        "scores_nan at step 8123, so. heal.scores_nan.limit is 0, so nothing was tried"
    )


# The former incident was at step 8123, after which the run went back to 8000.
BACK = [
    ("again at the same step", 8123, 123, 1),
    ("before the state could prove itself", 8050, 50, 1),
    ("a little past the former incident", 8223, 223, 1),
    ("well past the former incident", 8224, 224, 0),
    ("well past by count, with few healthy steps", 8224, 99, 1),
    ("after progress", 8123, 1000, 0),
]


@pytest.mark.parametrize(
    ("step", "healthy", "back"), [case[1:] for case in BACK], ids=[case[0] for case in BACK]
)
def test_it_goes_further_back_when_it_came_no_further(step: int, healthy: int, back: int) -> None:
    history = [past(other("loss_lost"), healthy=healthy)]
    assert decide(other("loss_lost", step), history, Rules()).back == back


def test_each_restart_that_comes_no_further_goes_one_state_further_back() -> None:
    rules = Rules(remedies={"loss_lost": Remedy(limit=5)})
    plans, _ = answered([other("loss_lost", step) for step in (8123, 8110, 8150, 9000)], rules)
    assert [plan.back for plan in plans] == [0, 1, 2, 3]
    plans, _ = answered(
        [other("loss_lost", step) for step in (8123, 8110, 8150, 9000)], rules, healthy=100
    )
    assert [plan.back for plan in plans] == [0, 1, 2, 0]


# Where trouble shows at step 8123, and is said to have begun; before which a state is wanted.
NEAR = [
    ("with a jump", 8123, 8123),
    ("a little earlier", 8050, 8050),
    ("as far back as a first restart looks", 7998, 7998),
    ("farther: most of that has done no harm", 7000, 7998),
]


@pytest.mark.parametrize(
    ("onset", "before"), [case[1:] for case in NEAR], ids=[case[0] for case in NEAR]
)
def test_a_first_restart_does_not_replay_a_long_growth(onset: int, before: int) -> None:
    assert decide(other("explosion", onset=onset), [], Rules()).before == before


def test_trouble_that_comes_back_at_once_leads_to_before_the_oldest_onset() -> None:
    long_ago = [other("explosion", 8123, onset=7000), other("loss_lost", 8110, onset=8100)]
    plans, history = answered([*long_ago, other("explosion", 8150)], Rules())
    assert [(plan.before, plan.back) for plan in plans] == [(7998, 0), (7000, 1), (7000, 2)]
    # One that came well past them has nothing to do with where those began.
    history = [past(each, healthy=500) for each in long_ago]
    plan = decide(other("explosion", 9000, onset=8990), history, Rules())
    assert (plan.before, plan.back) == (8990, 0)


def test_only_troubles_that_came_back_one_after_the_other_lead_back_together() -> None:
    first = past(other("explosion", 8123, onset=7000), healthy=500)
    second = past(other("explosion", 8900, onset=8890), healthy=50)
    plan = decide(other("explosion", 8905, onset=8901), [first, second], Rules())
    assert (plan.before, plan.back) == (8890, 1)


def test_another_trouble_does_not_send_it_further_back() -> None:
    assert decide(other("scores_nan"), [past(other("loss_lost"))], Rules()).back == 0


def random_story(seed: int) -> tuple[list[Incident], list[int], Rules]:
    luck = random.Random(seed)
    kinds = [*ONE_TROUBLE, "scores_nan", "drift"]
    incidents = [
        other(
            luck.choice(kinds),
            luck.randrange(8000, 9000),
            answer=luck.choice(["act", "act", "act", "skip", "tell"]),
            parameter=luck.choice([None, "a.weight"]),
            value=luck.choice([None, 1e6, 10.0, float("inf")]),
            usual=luck.choice([None, 5.0]),
            onset=luck.choice([None, 7990]),
        )
        for _ in range(30)
    ]
    healthy = [luck.choice([0, 50, 500, 1000]) for _ in incidents]
    remedies = {kind: Remedy(limit=luck.randrange(5)) for kind in kinds if luck.random() < 0.5}
    return incidents, healthy, Rules(remedies=remedies, confirm_steps=luck.choice([0, 10, 100]))


@pytest.mark.parametrize("seed", range(50))
def test_no_history_leads_to_more_restarts_than_the_limit(seed: int) -> None:
    incidents, healthy, rules = random_story(seed)
    history: list[Past] = []
    restarts = dict.fromkeys(["numeric", "scores_nan", "drift"], 0)
    for incident, since in zip(incidents, healthy, strict=True):
        plan = decide(incident, history, rules)
        history.append(Past(incident=incident, plan=plan, step=7990, healthy=since))
        trouble = "numeric" if incident.kind in ONE_TROUBLE else incident.kind
        if plan.restarts:
            restarts[trouble] += 1
            assert restarts[trouble] <= (rules.remedy(incident.kind).limit or 0)
        if plan.do == "stop" or (plan.restarts and since >= rules.refill_steps):
            restarts = dict.fromkeys(restarts, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_history_out_of_the_ledger_decides_the_same(seed: int) -> None:
    incidents, _, rules = random_story(seed)
    plans, history = answered(incidents, rules)

    def reread(each: Past) -> Past:
        written = json.dumps([each.incident.to_json(), each.plan.to_json()], allow_nan=False)
        incident, plan = json.loads(written)
        return dataclasses.replace(
            each, incident=Incident.from_json(incident), plan=Plan.from_json(plan)
        )

    again = [reread(each) for each in history]
    for number, incident in enumerate(incidents):
        assert decide(incident, again[:number], rules) == plans[number]


def test_deciding_needs_no_torch_and_is_there_with_hpckit_alone() -> None:
    code = "import sys, hpckit; hpckit.heal.decide; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    lazy = "import sys, hpckit; assert 'hpckit.heal' not in sys.modules"
    subprocess.run([sys.executable, "-c", lazy], check=True)
