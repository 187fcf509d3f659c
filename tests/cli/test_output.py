import yaml

from manor_bus.wire.messages.discovery import Find, Found
from manor_bus.wire.messages.lifecycle import State
from tests.cli.fake import FakeClient, discovery, domain, run

TWO = (domain("web"), domain("a\x1b[31m", State.FAILED, reason="it\nbroke"))


def test_a_table_without_a_terminal_is_plain_text():
    ran = run("list", client=discovery(*TWO))
    lines = ran.out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "NODE", "HYPERVISOR", "CPUS", "MEMORY", "UPTIME", "REASON"]
    assert lines[1].startswith("a\\x1b[31m")
    assert "\x1b" not in ran.out
    assert len(lines) == 3


def test_a_table_on_a_terminal_has_colours_unless_nobody_wants_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = run("list", client=discovery(*TWO), tty=True)
    plain = run("list", client=discovery(*TWO), tty=True, environment={"NO_COLOR": "1"})
    assert "\x1b[32mRUNNING" in shown.out
    assert "RUNNING" in plain.out
    assert "\x1b[32m" not in plain.out


def test_names_may_hold_what_would_be_mark_up():
    ran = run("list", client=discovery(domain("[red]x[/red]")), tty=True)
    assert "[red]x[/red]" in ran.out


def test_every_form_says_the_same():
    client = discovery(domain())
    assert run("list", "-o", "json", client=client).json[0]["name"] == "web"
    assert yaml.safe_load(run("list", "-o", "yaml", client=client).out)[0]["name"] == "web"
    assert run("list", "-o", "name", client=client).out == "domain/web\n"
    assert "uuid-of-web" in run("list", "-o", "wide", client=client).out


def test_nothing_is_an_empty_list_for_programs_and_a_word_for_people():
    assert run("list", "-o", "json", client=discovery()).json == []
    ran = run("list", client=discovery())
    assert ran.out == ""
    assert "manor apply" in ran.err


def test_of_a_partial_answer_nothing_is_not_said_to_be_all():
    unheard = FakeClient({Find: Found(count=0, complete=False, missing=("service/lifecycle was not heard",))})
    ran = run("list", client=unheard)
    assert ran.code == 8
    assert "not all there is" in ran.err
    assert "no domains" not in ran.err


def test_a_table_keeps_to_the_width_of_the_terminal(monkeypatch):
    client = discovery(domain("web", reason="because " * 30))
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("list", client=client, tty=True, environment={"NO_COLOR": "1"}).out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) == 80
    assert lines[1].endswith("…")
    assert "because because" in run("list", "-o", "wide", client=client, tty=True).out
