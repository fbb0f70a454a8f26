"""How a program that resumes by itself finds its checkpoint, and where a spec gets that wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hpckit import yamlio
from hpckit.model.kinds import complain
from hpckit.model.numbered import counter_of, problem_with
from hpckit.spec.parts import Checkpoint, Program

if TYPE_CHECKING:
    from hpckit.spec.rules import Draft

Resume = Literal["newest", "argument"]
ARGUMENT = "{checkpoint}"


def resume_of(program: Program, checkpoint: Checkpoint) -> Resume | None:
    """As the spec says; else by the argument where the command has it. None without files."""
    if not checkpoint.files:
        return None
    has_argument = ARGUMENT in (program.line or "")
    return checkpoint.resume or ("argument" if has_argument else "newest")


def check(draft: Draft) -> None:
    """What a run has already must not end it: it is not looked at again."""
    if draft.is_resolved:
        return
    _resume(draft)
    _files(draft)


def _resume(draft: Draft) -> None:
    checkpoint, program = draft.parts["checkpoint"], draft.parts.get("program")
    steps = ("checkpoint", "resume")
    is_bad = any(each.path.startswith("checkpoint.files") for each in draft.problems)
    if checkpoint.resume is None:
        return
    if not checkpoint.files and not is_bad:
        draft.complain("needs checkpoint.files, such as files: ['cp/g_{step}']", *steps)
    if checkpoint.resume == "newest" or not isinstance(program, Program):
        return
    if program.trainer is not None:
        draft.complain("fills in {checkpoint}, and a trainer has no command", *steps)
    elif program.line and ARGUMENT not in program.line:
        draft.complain("fills in {checkpoint}, which the command does not have", *steps)


def _files(draft: Draft) -> None:
    first = None
    for number, pattern in enumerate(draft.parts["checkpoint"].files):
        message = problem_with(pattern)
        if message is None:
            counter = counter_of(pattern)
            first = first or counter
            if counter != first:
                message = f"has {{{counter}}}, and one before it {{{first}}}: all need the same"
        if message is not None:
            node = yamlio.find(draft.root, "checkpoint", "files")
            if isinstance(node, yamlio.Sequence):
                node = node.items[number]
            complain(draft.problems, node, f"checkpoint.files[{number}]", message)
