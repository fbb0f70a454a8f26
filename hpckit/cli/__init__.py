"""The command line: each command's file is imported when that command is called, not before."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import click

# Name -> (file:attribute, the line that `hpckit --help` shows). Listing them imports nothing.
COMMANDS = {
    "init": ("init:init", "Write a job folder that runs as it stands."),
    "check": ("check:check", "Look for every error in a spec at once."),
    "submit": ("submit:submit", "Submit a job: one run, or a sweep of runs."),
    "run": ("submit:run", "Run a job here, in the foreground."),
    "ls": ("ls:ls", "List runs, the newest last."),
    "show": ("show:show", "Tell all about one run or sweep."),
    "logs": ("logs:logs", "Print what a run printed."),
    "watch": ("watch:watch", "Follow a run until it ends."),
    "report": ("report:report", "Write what happened as one HTML page."),
    "curves": ("curves:curves", "Draw a run's curves for a paper."),
    "checkpoint": ("checkpoint:checkpoint", "List what a run has saved; export its weights."),
    "cancel": ("cancel:cancel", "Cancel runs, for good."),
    "restart": ("restart:restart", "Start a run again, changed if need be."),
    "guard": ("guard:guard", "Start the next attempt of runs that have none."),
    "rehearse": ("rehearse:rehearse", "Have a run fail on purpose, and see whether it heals."),
    "data": ("data:data", "Fetch sounds to train on, and list what is there."),
    "prune": ("prune:prune", "Delete what old runs no longer need."),
    "doctor": ("doctor:doctor", "Look for what would go wrong here."),
    "cluster": ("cluster:cluster", "A real Slurm on this machine, for development."),
    "completion": ("completion:completion", "Print the shell completion."),
}


class ReaderGone(Exception):
    """The reader of a pipe went away, as `head` does."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            found: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            # click would end with 1, and a script with `set -o pipefail` with it.
            raise ReaderGone from error
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        file, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"hpckit.cli.{file}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            also = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no command called {args[0]!r}.{also}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpckit", prog_name="hpckit")
def hpckit() -> None:
    """SLURM training runs that look after themselves.

    Write a job.yaml (hpckit init), then: hpckit submit job.yaml
    """


def main() -> None:
    """Run a command; a person's mistake is a sentence and an exit code, never a traceback."""
    from hpckit.errors import HpckitError

    if sys.stdout is None or sys.stderr is None:
        # Somebody closed them (`>&-`): there is nobody to tell.
        nowhere = open(os.devnull, "w")  # noqa: SIM115 (it lasts as long as the program)
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be no text, and a terminal's alphabet may lack a sign.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = hpckit.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except ReaderGone:
        code = 0
    except HpckitError as error:
        code = _tell(error.message, error.hint, error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        here = "" if _is_here() else "the current folder does not exist any more"
        code = _tell(f"{where}{error.strerror or error}", here, 1)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # Nobody is left to be told; Python would try again at its end, and complain.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str, hint: str, code: int) -> int:
    """A refusal, for people on stderr; and as the one object on stdout for who asked for JSON."""
    print(f"hpckit: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    if "--json" in sys.argv:
        import json

        about = {"message": message, "hint": hint, "exit_code": code}
        with contextlib.suppress(OSError):
            print(json.dumps({"error": about}, indent=1, ensure_ascii=False))
    return code


def _is_here() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False
