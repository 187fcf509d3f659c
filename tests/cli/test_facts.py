import pytest

from manor_bus.peer.view import Change, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.discovery import FactChanged, Find, Found
from manor_cli import facts
from manor_cli.app import App
from tests.cli.fake import FakeClient, discovery, domain, fact


def app(client):
    return App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"}, tty=False)


def test_domains_come_sorted_by_name():
    found = facts.domains(app(discovery(domain("b"), domain("a"))))
    assert [status.name for status in found] == ["a", "b"]


def test_selectors_and_names_are_asked_of_discovery():
    client = discovery(domain())
    facts.domains(app(client), selector="tier=web", name="web")
    assert client.asked == [Find(kind="domain", selector="tier=web", name="web")]


def test_a_discovery_that_has_just_started_is_asked_until_it_knows():
    answers = iter([Found(count=0, settling=True), Found(count=1)])
    client = discovery(domain(), answers={Find: lambda _: next(answers)})
    assert [status.name for status in facts.domains(app(client))] == ["web"]
    assert list(answers) == []


def test_one_that_does_not_come_to_know_is_told_to_the_person(capsys, monkeypatch):
    monkeypatch.setattr(facts, "SETTLED_S", 0.0)
    facts.domains(app(discovery(domain(), answers={Find: Found(count=1, settling=True)})))
    assert "may not know everything" in capsys.readouterr().err


def test_who_may_only_watch_is_told_what_a_watcher_sees():
    refused = ManorError(Kind.FORBIDDEN, "observers may only watch")
    seen = [Change("domain.web", FactChanged(entry=fact(domain()))), Synced(), Change("domain.web", None)]
    client = FakeClient({Find: refused}, changes=seen)
    assert [status.name for status in facts.domains(app(client))] == ["web"]
    assert client.patterns == [("domain.*", True)]
    with pytest.raises(ManorError, match="only watch"):
        facts.domains(app(client), selector="tier=web")


def test_an_unknown_domain_is_not_found():
    with pytest.raises(ManorError, match="no domain db is known"):
        facts.domain(app(discovery(domain())), "db")
    assert facts.domain(app(discovery(domain())), "web").name == "web"
