"""A new chain for a run that is there already: its folder, its code and its past stay."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpckit.checkpoint.lineage import believed
from hpckit.errors import ChainTaken, HpckitError, SubmissionUnclear, UsageError
from hpckit.files import read_json
from hpckit.heal.in_force import plans_in_force, resources_in_force
from hpckit.run import Run
from hpckit.scheduler.slurm_text import nodes_of
from hpckit.settings import typed
from hpckit.submission.commit import hand_over, write_chain
from hpckit.submission.plan import Chain, SubmissionPlan, array_of, header_of

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler
    from hpckit.spec import JobSpec


def continue_run(
    run: Run,
    scheduler: Scheduler,
    *,
    number: int,
    after: str | None,
    wait_s: float = 0,
    code: str | None = None,
    beside: Sequence[int] = (),
) -> str:
    """Submit the attempts that are left as a new chain, with all that was changed; its id.

    `number` is the next one that the caller has seen to be free: of two who want to go on with
    a run only one can make the chain's folder, and the other is told so by ChainTaken.

    `code`: a newer snapshot, from now on; without one the run keeps what it has.

    `beside`: chains whose links may still serve the run until this one begins.

    It begins when the job `after` has ended, and never beside another job of the run. Its intent
    is written down before: from then on nothing that was submitted earlier does anything. Whoever
    dies in between has submitted nothing, and a link or a guard sees that.
    """
    spec, excluded = spec_in_force(run)
    excluded = to_exclude(scheduler, spec, excluded)
    left = spec.limits.attempts - len(run.attempts())
    if left <= 0:
        raise UsageError(
            f"{run.id}: all {spec.limits.attempts} attempts that its limits allow are used",
            f"begin a new run where it stands: hpckit submit --from {typed(run.id, run.dir)}",
        )
    plan = _plan(run, spec, scheduler, number, left)
    (chain,) = plan.chains
    waits = ["singleton"] if after is None else [f"afterany:{after}", "singleton"]
    header = {
        **chain.header,
        "dependency": ",".join(waits),
        "exclude": ",".join(excluded) or None,
        "begin": f"now+{round(wait_s)}" if wait_s else None,
    }
    chain = dataclasses.replace(
        chain, header={name: value for name, value in header.items() if value is not None}
    )
    plan = dataclasses.replace(plan, chains=(chain,))
    try:
        write_chain(plan, chain, code=code or _code_of(run))
    except FileExistsError as error:
        raise ChainTaken(f"{run.id}: somebody else goes on with it just now") from error
    ledger = run.ledger()
    newest = run.submission()
    serial = newest.data.get("serial", 0) + 1 if newest is not None else 1
    chains = [*beside, chain.number]
    ledger.write("submit", chains=chains, job_name=run.id, serial=serial)
    try:
        array = hand_over(plan, run, scheduler, chain)
    except HpckitError as error:
        ours = run.submission()
        is_newest = ours is not None and ours.data.get("chains") == chains
        if newest is not None and is_newest and not isinstance(error, SubmissionUnclear):
            # A definite no: what was submitted before goes on, if nobody has submitted since.
            ledger.write("submit", chains=newest.data.get("chains", []), serial=serial + 1)
        raise
    with contextlib.suppress(OSError):
        ledger.write("submitted", chain=chain.number, job_id=array)
    return array


def _code_of(run: Run) -> str | None:
    """The snapshot that the run has by now, where it is another one than it began with."""
    newest = run.submission()
    chains = newest.data.get("chains") if newest is not None else None
    about = read_json(run.chain_folder(max(chains)) / "chain.json") if chains else None
    return about.get("code") if about is not None else None


def spec_in_force(run: Run) -> tuple[JobSpec, tuple[str, ...]]:
    """What the next attempts ask for, and the nodes that they must not get."""
    spec = run.spec()
    plans = plans_in_force(believed(run.ledger().events()))
    resources, excluded = resources_in_force(spec.resources, plans, run.had)
    return dataclasses.replace(spec, resources=resources, sweep=None), excluded


def to_exclude(scheduler: Scheduler, spec: JobSpec, excluded: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes that a person has excluded, and ours beside them where they can be spared.

    A job that waits for ever because too few nodes are left heals nothing.
    """
    own = (str(spec.slurm["exclude"]),) if spec.slurm.get("exclude") else ()
    if excluded:
        with contextlib.suppress(HpckitError):
            out = nodes_of(",".join((*own, *excluded)))
            left = set(scheduler.nodes(spec.resources.partition)) - set(out)
            if len(left) >= spec.resources.nodes:
                return (*own, *excluded)
    return own


def _plan(run: Run, spec: JobSpec, scheduler: Scheduler, number: int, left: int) -> SubmissionPlan:
    size, array = array_of(left, scheduler.max_array_size())
    chain = Chain(number=number, offset=0, size=size, header={**header_of(spec, run.id), **array})
    return SubmissionPlan(
        spec=spec,
        run_id=run.id,
        dir=run.dir,
        scheduler=run.scheduler,
        points=(),
        chains=(chain,),
        warnings=(),
    )
