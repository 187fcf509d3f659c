"""Makes what can be made from the code: messages, documents, commands, tables and diagrams of the machines.

`make docs` runs it; tests/test_docs.py compares the pages with what the present code would make. A
hand-written page marks the part that is made with `<!-- made from the code: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import runpy
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from manor_bus.wire import asyncapi
from manor_devices import machine as devices
from manor_lifecycle.domain import states, verbs

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MANY = 3  # states that are left the same way, beyond which a diagram only confuses

Edge = tuple[str, str, str]  # from, label, to


def made(page: str) -> str:
    """Return a page that is made as a whole by the file of its name in `makers`."""
    makers = runpy.run_path(str(DOCS / "makers" / f"{page}.py"))
    return str(makers["page"]())


def diagram(edges: Iterable[Edge], usual: str) -> str:
    """Draw a state diagram; what leaves many states alike is drawn from the usual one only."""
    edges = list(edges)
    ways = Counter((label, target) for _, label, target in edges)
    labels: dict[tuple[str, str], list[str]] = {}
    for source, label, target in edges:
        if ways[label, target] <= MANY or source == usual:
            labels.setdefault((source, target), []).append(label)
    lines = (f"    {source} --> {target}: {', '.join(found)}" for (source, target), found in labels.items())
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Write a table; `head` holds the column names, separated by bars."""
    columns = head.count("|") + 1
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([f"| {head} |", "|---" * columns + "|", *lines, ""])


def lifecycle_edges() -> Iterator[Edge]:
    """List what the verbs and what happens by itself lead through, and to."""
    for (source, verb), kind in states.VERBS.items():
        through = states.PASSES.get(kind, verbs.GOALS.get(kind, source))
        if kind != states.ALREADY and through is not source:
            yield source.value, verb.removesuffix("-force"), through.value
    for kind, through in states.PASSES.items():
        yield through.value, "done", verbs.GOALS[kind].value


def lifecycle_diagram() -> str:
    """Draw where operations that go well lead."""
    return diagram(dict.fromkeys(lifecycle_edges()), "RUNNING")


def lifecycle_states() -> str:
    """List the table of states; its first line that fits names the state."""
    return table("state | fits when", ((line.state.value, line.words) for line in states.STATES))


def lifecycle_verbs() -> str:
    """List what may be asked in which state."""
    found: dict[str, dict[bool, list[str]]] = {}
    for (source, verb), kind in states.VERBS.items():
        found.setdefault(verb, {}).setdefault(kind == states.ALREADY, []).append(source.value)
    rows = (
        (f"`{verb}`", ", ".join(there.get(False, ())), ", ".join(there.get(True, ())))
        for verb, there in found.items()
    )
    return table("verb | begins an operation in | is so already in", rows)


def connection_edges() -> Iterator[Edge]:
    """List the transitions of the connection machine that change the state."""
    for (source, trigger), rows in devices.TABLE.items():
        for row in rows:
            if row.target not in (None, source):
                yield source.value, trigger.value, row.target.value


def devices_diagram() -> str:
    """Draw the states of a connection."""
    return diagram(dict.fromkeys(connection_edges()), "CONNECTED")


def devices_table() -> str:
    """List every row of the connection machine; the first row whose condition holds is taken."""
    rows = (
        (row.rule, source.value, f"`{trigger.value}`", condition(row), target(row, source))
        for (source, trigger), found in devices.TABLE.items()
        for row in found
    )
    return table("rule | in state | on | if | goes to", rows)


def condition(row: devices.Row) -> str:
    """Give a row's condition in the words of its docstring."""
    words = "" if row.guard is None else (row.guard.__doc__ or "")
    return words.rstrip(".").lower()


def target(row: devices.Row, source: devices.S) -> str:
    """Say where a row of the connection machine leads."""
    if row.target is None:
        return "is so already"
    return "stays" if row.target is source else row.target.value


PARTS = {
    "lifecycle_diagram": lifecycle_diagram,
    "lifecycle_states": lifecycle_states,
    "lifecycle_verbs": lifecycle_verbs,
    "devices_diagram": devices_diagram,
    "devices_table": devices_table,
}


def filled(page: str) -> str:
    """Return a hand-written page with its marked parts made anew."""
    return MARKED.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], page)


def pages() -> dict[str, str]:
    """Return every page that is made, or partly made, by its name."""
    marked = {
        name: filled((DOCS / name).read_text(encoding="utf-8")) for name in ("lifecycle.md", "devices.md")
    }
    tools = f"# Made from the code by `make docs`: do not edit.\n{asyncapi.written()}"
    makers = {"messages.md": "messages", "documents.md": "documents", "cli.md": "commands"}
    return {"asyncapi.yaml": tools, **{name: made(maker) for name, maker in makers.items()}, **marked}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
