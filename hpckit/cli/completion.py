"""hpckit completion"""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion for a shell; put it into effect with

    \b
      eval "$(hpckit completion bash)"        in ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    from hpckit.cli import hpckit

    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(hpckit, {}, "hpckit", "_HPCKIT_COMPLETE").source())
