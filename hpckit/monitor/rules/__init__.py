"""The health rules that come with hpckit, by name, and what they read.

A rule looks at values by name, and a reading without them is no news. *Facts* do not change: they
may be given once, in any reading. Everything is a number; yes is 1 and no is 0.

    value                         what it is                                        read by
    lr/<optimizer>                learning rate in force             learning_rate_stuck and others
    lr_planned/<optimizer>        what the schedule says it is,      learning_rate_off_schedule
                                  hpckit's own factor included
    schedule/<optimizer>          fact: epochs within which the      learning_rate_stuck
                                  schedule first changes the rate,
                                  0: it has none
    lr_base/<optimizer>           fact: the rate that the warm-up    learning_rate_after_warmup
                                  leads to
    warmup/<optimizer>            fact: its length in steps          learning_rate_after_warmup
    epoch                         epochs so far, as 2 or as 2.25     learning_rate_stuck, same_batch
    data/size                     items in the batch, 0: empty       steps_without_data,
                                                                     target_spread_zero
    data/batch                    fingerprint of the batch           same_batch
    data/expected                 fact: batches of an epoch          same_batch, epoch_incomplete
    data/batches                  once an epoch, at its end: the     epoch_incomplete
                                  batches it had, also those before
                                  a resume
    data/classes                  fact: classes of the prediction,   first_loss
                                  for a model that begins anew
    features/non_finite           share of features                  features_non_finite
    time/step, time/data          seconds                            data_time_share
    weights/update/<optimizer>    size of update over weights; not   weights_still
                                  in steps that only accumulate, or
                                  with updates/<optimizer>
    grad/gated/<optimizer>        1 where the update was held back   weights_still
    updates/<optimizer>           updates so far                     discriminator_not_updated,
                                                                     weights_still
    updates_planned/<optimizer>   fact: updates a step               discriminator_not_updated
    train/loss                    the loss                           loss_flat
    train/cross_entropy           of all classes, unweighted         first_loss
    early/<name>                  what must fall by a fifth early    loss_not_falling
    train/discriminator/<sub>     least-squares loss of each         discriminator_winning
    train/adversarial             the generator's                    discriminator_winning
    targets/spread                of the batch's targets             target_spread_zero
    predictions/largest_class     share of the most frequent         one_class
    targets/largest_class         likewise; may be a fact            one_class
    scale/estimate_over_clean     rms over rms as the loss sees it   scale_mismatch
    codebook/usage                perplexity over size               codebook_unused
    scores/failed                 share of the batch's items         scores_failed
    scores/failed/<reason>        of these                           scores_failed
    scores/mean                   of the scores in use               scores_nan
    val/<name>                    what a validation found            validation_overdue,
                                                                     pesq_below_best (val/pesq)
    val_spread/<name>             largest minus smallest of items,   metric_constant
                                  of a metric that differs in health
    val_items/<name>              how many items                     metric_constant
    every/validation              fact: its interval in steps        validation_overdue
    device/asked, device/used     fact: GPUs asked for; GPUs that    device_not_used
                                  hold parameters
    gpu/idle                      share of the time since the last   gpu_idle
                                  such reading; not in validations

Two rules act: steps_without_data and scores_nan; all others tell.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import UsageError
from hpckit.monitor.rules.base import Rule

if TYPE_CHECKING:
    RULES: dict[str, type[Rule]]

MODULES = (
    "learning_rate", "data", "weights", "loss", "validation", "device", "gan", "outputs", "scores"
)  # fmt: skip
# The detector's own; the spec turns it on and off among the rules.
OF_THE_DETECTOR = "clip_saturation"


def __getattr__(name: str) -> Any:
    # Whoever wants the base class only, to write a rule, loads no others.
    if name != "RULES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()["RULES"] = _all_rules()
    return found


def _all_rules() -> dict[str, type[Rule]]:
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"{__name__}.{name}")
        for each in vars(module).values():
            if isinstance(each, type) and each.__module__ == module.__name__:
                assert issubclass(each, Rule)
                found[each.name()] = each
    return found


def make_rules(
    settings: Mapping[str, Any],
    folder: Path | None = None,
    *,
    refused: dict[str, str] | None = None,
) -> list[Rule]:
    """The rules that a spec's `monitor.rules` asks for; a user's own are found in `folder`.

    One that cannot be had is an error; with `refused` it is put there, and the others are made.
    """
    rules = _all_rules()
    wanted: dict[str, Any] = {name: True for name, each in rules.items() if each.default}
    wanted.update(settings)
    wanted.pop(OF_THE_DETECTOR, None)
    made: dict[str, Rule] = {}
    for name, value in wanted.items():
        if value is False:
            continue
        try:
            rule = _made(_class_of(name, rules, folder), name, value)
            if rule.name() in made:
                message = f"{name}: there is a rule {rule.name()} already"
                raise UsageError(message, "rename the class")
            made[rule.name()] = rule
        except UsageError as error:
            if refused is None:
                raise
            refused[name] = str(error)
    return list(made.values())


def _class_of(name: str, rules: Mapping[str, type[Rule]], folder: Path | None) -> type[Rule]:
    if ":" in name:
        from hpckit.monitor.rules.own import own_rule

        return own_rule(name, folder or Path())
    if name not in rules:
        raise UsageError(f"there is no health rule {name!r}{_close(name, rules)}")
    return rules[name]


def _made(cls: type[Rule], name: str, value: Any) -> Rule:
    try:
        rule = cls()
    except TypeError as error:
        message = f"{name} cannot be made: {error}"
        raise UsageError(message, "its __init__ must need no arguments") from error
    known = cls.settings()
    for setting, number in value.items() if isinstance(value, Mapping) else ():
        if setting not in known:
            raise UsageError(f"{name} has no setting {setting!r}{_close(setting, known)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise UsageError(f"{name}.{setting} must be a number, not {number!r}")
        setattr(rule, setting, number)
    return rule


def _close(word: str, known: Iterable[str]) -> str:
    # Brings YAML with it, which a training that makes no mistake does not need.
    from hpckit.model.kinds import did_you_mean

    return did_you_mean(word, list(known))
