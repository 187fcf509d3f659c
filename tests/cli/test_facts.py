import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.discovery import Find, Found
from manor_cli import facts
from manor_cli.app import App
from tests.cli.fake import discovery, domain, run


def app(client):
    return App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"}, tty=False)


def test_domains_come_sorted_by_name():
    found = facts.domains(app(discovery(domain("b"), domain("a"))))
    assert [status.name for status in found] == ["a", "b"]


def test_selectors_and_names_are_asked_of_discovery():
    client = discovery(domain())
    facts.domains(app(client), selector="tier=web", name="web")
    assert client.asked == [Find(kind="domain", selector="tier=web", name="web")]


PARTIAL = Found(count=1, complete=False, missing=("service/lifecycle@n1 is gone since 3 s",))


def test_whose_word_is_missing_is_told_and_the_exit_code_says_so():
    ran = run("list", client=discovery(domain(), answers={Find: PARTIAL}))
    assert (ran.code, "web" in ran.out) == (8, True)
    assert ran.err == "note: this is not all there is: service/lifecycle@n1 is gone since 3 s\n"
    assert run("list", "--partial", client=discovery(domain(), answers={Find: PARTIAL})).code == 0
    assert run("list", client=discovery(domain())).code == 0


def test_a_domain_that_an_unheard_owner_may_know_is_not_said_to_be_absent():
    with pytest.raises(ManorError) as caught:
        facts.domain(app(discovery(domain(), answers={Find: PARTIAL})), "db")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_an_unknown_domain_is_not_found():
    with pytest.raises(ManorError, match="no domain db is known"):
        facts.domain(app(discovery(domain())), "db")
    assert facts.domain(app(discovery(domain())), "web").name == "web"
