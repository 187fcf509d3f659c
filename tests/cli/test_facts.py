import pytest

from manor_bus.errors import ManorError
from manor_bus.messages.discovery import Find, Found
from manor_cli import facts
from manor_cli.app import App
from tests.cli.fake import discovery, domain


def app(client):
    return App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"}, tty=False)


def test_domains_come_sorted_by_name():
    found = facts.domains(app(discovery(domain("b"), domain("a"))))
    assert [status.name for status in found] == ["a", "b"]


def test_selectors_and_names_are_asked_of_discovery():
    client = discovery(domain())
    facts.domains(app(client), selector="tier=web", name="web")
    assert client.asked == [Find(kind="domain", selector="tier=web", name="web")]


def test_a_settling_discovery_is_told_to_the_person(capsys):
    client = discovery(domain(), answers={Find: Found(count=1, settling=True)})
    facts.domains(app(client))
    assert "may not know everything" in capsys.readouterr().err


def test_an_unknown_domain_is_not_found():
    with pytest.raises(ManorError, match="no domain db is known"):
        facts.domain(app(discovery(domain())), "db")
    assert facts.domain(app(discovery(domain())), "web").name == "web"
