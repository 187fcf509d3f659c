"""`manor completion`: the script that makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from manor_cli.app import App


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      source <(manor completion bash)
      manor completion fish > ~/.config/fish/completions/manor.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that we offer"
    app = context.find_object(App)
    assert app is not None
    app.out(kind(context.find_root().command, {}, "manor", "_MANOR_COMPLETE").source().rstrip())
