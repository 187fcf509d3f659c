"""`manor ops`: what takes time, and what took time."""

from __future__ import annotations

import click

from manor_bus.wire.messages.lifecycle import (
    ENDED,
    Operation,
    OperationCancel,
    OperationShow,
    OperationState,
)
from manor_cli import follow, names, views
from manor_cli.app import App
from manor_cli.listing import operations
from manor_cli.output import answering, show
from manor_cli.render import clean, whole


@click.group()
def ops() -> None:
    """Show and cancel operations: everything that takes time.

    \b
    Example:
      manor ops list --active
    """


@ops.command("list")
@names.argument("domain", "domain", required=False)
@click.option("--active", is_flag=True, help="Only those that have not ended.")
@click.option(
    "-n", "--limit", default=200, show_default=True, type=click.IntRange(1, 10_000), help="At most."
)
@answering
def list_(app: App, domain: str, active: bool, limit: int, output: str) -> None:
    """List operations, newest first; of one DOMAIN if named.

    \b
    Example:
      manor ops list web -o json
    """
    rows = operations(app, "", target=domain, active=active, limit=limit)
    show(app, views.OPERATIONS, rows, output)


@ops.command("show")
@names.argument("operation", "operation_id")
@click.option("--follow", "followed", is_flag=True, help="Wait until it has ended, showing its steps.")
@answering
def show_(app: App, operation_id: str, followed: bool, output: str) -> None:
    """Show one operation with its steps.

    \b
    Example:
      manor ops show op-3f2a9c0d11e25b74
    """
    operation = app.call(OperationShow(id=operation_id), Operation)
    if followed and operation.state not in ENDED:
        operation = follow.follow(app, operation)
    row = whole(operation)
    show(app, views.OPERATIONS, row, output)
    if output not in ("table", "wide"):
        return
    for number, step in enumerate(operation.steps, 1):
        mark = ">" if step == operation.step and operation.state not in ENDED else " "
        app.out(f"{mark}{number:3} {clean(step)}")
    if operation.error is not None and operation.error.hint:
        app.note(f"hint: {clean(operation.error.hint)}")


@ops.command("cancel")
@names.argument("operation", "operation_id")
@answering
def cancel(app: App, operation_id: str, output: str) -> None:
    """Cancel an operation: what it did is undone. Answered within five seconds.

    \b
    Example:
      manor ops cancel op-3f2a9c0d11e25b74
    """
    operation = app.call(OperationCancel(id=operation_id), Operation)
    if output == "table":
        app.out(f"{operation.id}: {operation.state.value}")
        if operation.state is OperationState.CANCELLING:
            app.note(f"hint: it ends after its present step; manor ops show {operation.id} --follow")
    else:
        show(app, views.OPERATIONS, whole(operation), output)
