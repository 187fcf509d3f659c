from manor_bus.wire.messages.config import Applied, Apply, Change, DiffLine
from tests.cli.fake import FakeClient, run

DIFF = (DiffLine(path="spec.cpu.count", old="1", new="2"), DiffLine(path="spec.title", new='"x\x1b"'))
CHANGED = Change(kind="Domain", name="web", uuid="u", action="changed", revision=9, diff=DIFF)
SAME = Change(kind="Network", name="lan", uuid="u", action="unchanged", revision=3)
FILE = "kind: Domain\nmetadata: {name: web}\n"


def ran(*arguments, tty=False):
    client = FakeClient({Apply: Applied(revision=9, changes=(CHANGED, SAME))})
    return run(*arguments, "-f", "-", client=client, typed=FILE, tty=tty)


def test_each_document_is_told_in_a_line():
    assert (
        ran("apply", "--no-wait").out
        == "domain/web changed (revision 9)\nnetwork/lan unchanged (revision 3)\n"
    )


def test_a_dry_run_says_what_would_be_and_shows_the_fields():
    told = ran("apply", "--dry-run").out
    assert "domain/web would be changed\n" in told
    assert "  - spec.cpu.count: 1\n  + spec.cpu.count: 2\n" in told
    assert "network/lan unchanged\n" in told
    assert '  + spec.title: "x\\x1b"' in told


def test_programs_get_the_changes_with_their_fields():
    told = ran("diff", "-o", "json").json
    assert told[0]["diff"][0] == {"path": "spec.cpu.count", "old": "1", "new": "2"}
    assert ran("diff", "-o", "name").out == "domain/web\nnetwork/lan\n"


def test_colours_are_for_terminals():
    assert "\x1b[33mchanged\x1b[0m" in ran("apply", "--no-wait", tty=True).out
