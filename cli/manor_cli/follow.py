"""Post something that takes time and follow it to its end, with its steps as they happen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import ENDED, Operation, OperationFollow, OperationState
from manor_cli import exits, output, views
from manor_cli.app import App
from manor_cli.render import clean, percent, whole

if TYPE_CHECKING:
    from manor_bus.wire.messages import Message

LISTS: Final = ("json", "yaml", "wide")
Progress = Callable[[Operation], None]
wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Follow it to its end, or return at once."
)


def new_id() -> str:
    """Return a new operation id: it is the idempotency key, so a repeated attempt is the same operation."""
    return "op-" + os.urandom(8).hex()


def each(app: App, names: Sequence[str], request: Callable[[str], Message], *, wait: bool, form: str) -> int:
    """Post a request that becomes an operation for each name, and follow all if wanted.

    Each is done and told, whatever became of the others; the exit code is that of the worst.
    """
    outcomes = Outcomes(app, form, alone=len(names) == 1)
    post(app, names, request, outcomes, wait=wait)
    if form in LISTS and not outcomes.alone:
        output.show(app, views.OPERATIONS, outcomes.rows, form)
    return outcomes.code


def post(
    app: App, names: Sequence[str], request: Callable[[str], Message], outcomes: Outcomes, *, wait: bool
) -> None:
    """Post a request for each name, then follow what was begun."""
    begun: dict[str, Operation] = {}
    for name in names:
        with outcomes.of(name):
            begun[name] = app.call(request(name), Operation, key=new_id())
    for name, operation in begun.items():
        with outcomes.of(name):
            ended = follow(app, operation) if wait and operation.state not in ENDED else operation
            outcomes.rows.append(whole(ended))
            if outcomes.form not in LISTS or outcomes.alone:
                told(app, ended, outcomes.form)
            check(ended)


class Outcomes:
    """What became of several names: rows for programs, errors told as they come, the code of the worst."""

    def __init__(self, app: App, form: str, *, alone: bool) -> None:
        self._app, self.form, self.alone = app, form, alone
        self.rows: list[dict[str, Any]] = []
        self.worst: ManorError | None = None

    @property
    def code(self) -> int:
        """The exit code."""
        return exits.code(self.worst) if self.worst is not None else 0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Do something for one name; alone its error is that of the command."""
        known = len(self.rows)
        try:
            yield
        except ManorError as error:
            if self.alone:
                raise
            self.worst = exits.worst(self.worst, error)
            if len(self.rows) == known and self.form != "wide":
                self.rows.append({"target": name, "state": "refused", "error": whole(error.body())})
            first, *rest = exits.lines(error)
            for line in (f"{clean(name)}: {first}", *rest):
                self._app.note(line)


def follow(app: App, operation: Operation) -> Operation:
    """Wait until an operation has ended, showing its steps. Ctrl-C leaves it running and says so."""
    with progress(app) as report:
        report(operation)
        try:
            return app.call(OperationFollow(id=operation.id), Operation, timeout=app.patience, on_part=report)
        except KeyboardInterrupt:
            app.note(f"operation {operation.id} goes on; `manor ops cancel {operation.id}` ends it")
            raise
        except ManorError as error:
            if error.kind is Kind.TIMEOUT and not error.hint:
                error.hint = f"it goes on: see `manor ops show {operation.id}`"
            raise


def told(app: App, operation: Operation, form: str) -> None:
    """Print an operation: a line for people, or the whole of it."""
    if form in ("json", "yaml", "wide"):
        output.show(app, views.OPERATIONS, whole(operation), form)
    elif form == "name":
        app.out(operation.id)
    elif operation.state is OperationState.DONE:
        app.out(f"{operation.kind} {clean(operation.target)}: done")
        for key, value in operation.result.items():
            app.out(f"  {clean(key)}: {clean(value)}")
    elif operation.state not in ENDED:
        app.out(f"{operation.kind} {clean(operation.target)}: {operation.state.value} as {operation.id}")


def check(operation: Operation) -> None:
    """Raise what an operation failed with."""
    if operation.error is not None and operation.state in ENDED:
        raise ManorError.from_body(operation.error)
    if operation.state is OperationState.FAILED:
        raise ManorError(Kind.INTERNAL, f"{operation.kind} {operation.target} failed without a reason")
    if operation.state is OperationState.CANCELLED:
        raise ManorError(
            Kind.CONFLICT,
            f"{operation.kind} {operation.target} was cancelled",
            hint="what was done has been undone; `manor ops show " + operation.id + "` says by whom",
        )


@contextmanager
def progress(app: App) -> Iterator[Progress]:
    """Yield a function that shows the present step of an operation: on a terminal always in the same line."""
    if app.terminal:
        with output.status_line(app) as draw:
            yield lambda operation: draw(_step(operation))
        return
    seen: set[tuple[str, str]] = set()

    def line(operation: Operation) -> None:
        if operation.step and (operation.id, operation.step) not in seen:
            seen.add((operation.id, operation.step))
            app.note(_step(operation))

    yield line


def _step(operation: Operation) -> str:
    return f"{_title(operation)}: {clean(operation.step)} ({percent(operation.progress)})"


def _title(operation: Operation) -> str:
    return f"{operation.kind} {clean(operation.target)}"
