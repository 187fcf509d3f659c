"""What is known, of whom, and whose word is missing."""

from __future__ import annotations

import pytest

from manor_bus.peer.events import Change, OwnerSeen
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.lifecycle import DomainStatus, NodeStatus, State
from manor_bus.wire.messages.providers import ProviderStatus
from manor_discovery import facts as module
from manor_discovery.facts import Facts

LIFECYCLE = "service/lifecycle@n1/a"
DEVICES = "service/devices@n1/d"
STRANGER = "service/nbd@n1/s"


def domain(name: str = "web", uuid: str = "u1", **more: object) -> DomainStatus:
    given = {"state": State.RUNNING, "generation": 1, "node": "n1", "hypervisor": "fake", **more}
    return DomainStatus(name=name, uuid=uuid, **given)  # type: ignore[arg-type]


def provider(name: str = "n1-file", node: str = "n1") -> ProviderStatus:
    return ProviderStatus(name=name, backend="file", node=node, epoch=1)


def fresh(keep_s: float = 100.0) -> Facts:
    return Facts(node="n1", keep_s=keep_s, now=0.0)


def say(facts: Facts, kind: str, subject: str, value: Message | None, by: str, now: float = 1.0) -> str:
    return facts.changed(kind, Change(subject, value, by, "e1", 1), 10, now, 1_000.0 + now)


def heard(facts: Facts, kind: str, by: str, now: float = 1.0) -> None:
    facts.seen(kind, OwnerSeen(by, present=True, heard=True), now)


def gone(facts: Facts, kind: str, by: str, now: float, reason: str = "killed") -> None:
    facts.seen(kind, OwnerSeen(by, present=False, heard=False, reason=reason), now)


def known(facts: Facts, kind: str = "domain", name: str = "", now: float = 2.0) -> list[tuple[str, bool]]:
    return sorted((entry.fact.name, entry.stale) for entry, _ in facts.find(kind, name, now))


@pytest.mark.parametrize("kind", ["domain", "node", "provider", "resource", "service"])
def test_before_the_owner_of_this_node_was_heard_no_kind_is_complete(kind: str) -> None:
    (missing,) = fresh().missing(kind, 3.0)
    assert "was not heard yet, since 3 s" in missing


def test_an_owner_that_is_there_is_missing_until_it_was_heard_to_the_end() -> None:
    facts = fresh()
    facts.seen("domain", OwnerSeen(LIFECYCLE, present=True, heard=False), 1.0)
    say(facts, "domain", "domain.u1", domain(), LIFECYCLE)
    assert facts.missing("domain", 4.0) == (
        "service/lifecycle@n1 is there since 3 s, but was not heard to the end yet",
    )
    heard(facts, "domain", LIFECYCLE)
    assert facts.missing("domain", 4.0) == ()
    assert known(facts) == [("web", False)]


def test_what_a_vanished_owner_said_is_kept_and_stale_until_its_time_limit() -> None:
    facts = fresh(keep_s=100.0)
    heard(facts, "provider", DEVICES)
    heard(facts, "provider", STRANGER)
    say(facts, "provider", "provider.nbd", provider("nbd"), STRANGER)
    gone(facts, "provider", STRANGER, now=10.0)
    assert known(facts, "provider", now=20.0) == [("nbd", True)]
    ((entry, _),) = facts.find("provider", "", 20.0)
    assert (entry.heard, entry.owner) == (10_000, STRANGER)
    assert facts.missing("provider", 20.0) == ("service/nbd@n1 is gone since 10 s (killed)",)
    assert known(facts, "provider", now=110.0) == []
    assert facts.missing("provider", 110.0) == ()


def test_the_owner_of_this_node_is_missing_for_ever_when_it_does_not_come_back() -> None:
    facts = fresh(keep_s=100.0)
    heard(facts, "domain", LIFECYCLE)
    gone(facts, "domain", LIFECYCLE, now=10.0)
    assert facts.missing("domain", 10_000.0) == ("service/lifecycle@n1 is gone since 9990 s (killed)",)


def test_a_successor_takes_the_place_of_the_vanished_owner() -> None:
    facts = fresh()
    heard(facts, "domain", LIFECYCLE)
    say(facts, "domain", "domain.u1", domain(), LIFECYCLE)
    say(facts, "domain", "domain.u2", domain("db", "u2"), LIFECYCLE)
    gone(facts, "domain", LIFECYCLE, now=5.0)
    after = "service/lifecycle@n1/b"
    say(facts, "domain", "domain.u2", None, after)  # its snapshot has one of the two
    say(facts, "domain", "domain.u1", domain(generation=2), after)
    heard(facts, "domain", after, now=6.0)
    assert known(facts) == [("web", False)]
    ((entry, _),) = facts.find("domain", "", 7.0)
    assert (entry.owner, entry.since) == (after, 1_001.0)


def test_after_the_bus_was_away_nobody_counts_as_heard() -> None:
    facts = fresh()
    heard(facts, "domain", LIFECYCLE)
    say(facts, "domain", "domain.u1", domain(), LIFECYCLE)
    facts.lost(5.0)
    assert known(facts) == [("web", True)]
    assert len(facts.missing("domain", 6.0)) == 1
    heard(facts, "domain", LIFECYCLE, now=6.0)
    assert known(facts) == [("web", False)]


def test_a_domain_is_its_uuid_and_may_share_its_name() -> None:
    facts = fresh()
    heard(facts, "domain", LIFECYCLE)
    for uuid in ("u1", "u2"):
        say(facts, "domain", f"domain.{uuid}", domain("web", uuid), LIFECYCLE)
    assert known(facts, name="web") == [("web", False), ("web", False)]
    assert [entry.fact.uuid for entry, _ in facts.find("domain", "u2", 2.0)] == ["u2"]  # type: ignore[union-attr]
    assert known(facts, name="db") == []


def test_of_a_domain_that_moved_the_newest_run_counts_and_a_living_owner_before_a_vanished_one() -> None:
    facts = fresh()
    other = "service/lifecycle@n2/x"
    for by, node, incarnation in ((LIFECYCLE, "n1", 1), (other, "n2", 2)):
        heard(facts, "domain", by)
        say(facts, "domain", "domain.u1", domain(node=node, incarnation=incarnation), by)
    ((entry, _),) = facts.find("domain", "", 2.0)
    assert entry.owner == other
    gone(facts, "domain", other, now=3.0)
    ((entry, _),) = facts.find("domain", "", 4.0)
    assert entry.owner == LIFECYCLE


def test_providers_of_one_name_on_two_nodes_are_two() -> None:
    facts = fresh()
    for by, node in ((DEVICES, "n1"), ("service/devices@n2/d", "n2")):
        heard(facts, "provider", by)
        say(facts, "provider", "provider.shared", provider("shared", node), by)
    assert known(facts, "provider") == [("shared", False), ("shared", False)]


@pytest.mark.parametrize(
    ("kind", "subject", "value", "by"),
    [
        ("domain", "domain.u2", domain(), LIFECYCLE),
        ("domain", "domain.u1", domain(node="n2"), LIFECYCLE),
        ("domain", "domain.u1", domain(), STRANGER),
        ("domain", "domain.u1", {"some": "thing"}, LIFECYCLE),
        ("node", "node.n2", NodeStatus(name="n2"), LIFECYCLE),
        ("node", "node.n1", NodeStatus(name="n1"), DEVICES),
        ("provider", "provider.other", provider(), DEVICES),
        ("provider", "provider.n1-file", provider(node="n2"), DEVICES),
        (
            "service",
            "service.config.1",
            ServiceStatus(name="config.1", service="config", instance="1", node="n1", pid=1, version="1"),
            "service/config@n1/1",
        ),
    ],
)
def test_what_is_not_its_owners_to_say_is_left_out(kind: str, subject: str, value: Message, by: str) -> None:
    facts = fresh()
    heard(facts, kind, by)
    assert say(facts, kind, subject, value, by) != ""
    assert known(facts, kind) == []


def test_passing_news_is_no_fact() -> None:
    facts = fresh()
    assert facts.changed("domain", Change("domain.u1", domain(), LIFECYCLE), 10, 1.0, 1.0) != ""


def test_what_does_not_fit_makes_the_answer_partial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACTS_MAX", 1)
    facts = fresh()
    heard(facts, "domain", LIFECYCLE)
    assert say(facts, "domain", "domain.u1", domain(), LIFECYCLE) == ""
    assert say(facts, "domain", "domain.u1", domain(generation=2), LIFECYCLE) == ""
    assert "limit" in say(facts, "domain", "domain.u2", domain("db", "u2"), LIFECYCLE)
    assert facts.missing("domain", 1.0) == ("service/lifecycle@n1 has more than we hold (1 facts)",)
    say(facts, "domain", "domain.u1", None, LIFECYCLE)
    assert say(facts, "domain", "domain.u2", domain("db", "u2"), LIFECYCLE) == ""


def test_who_is_away_for_long_is_not_waited_for() -> None:
    facts = fresh()
    heard(facts, "domain", LIFECYCLE)
    assert facts.moved("domain", 5.0) == float("-inf")
    gone(facts, "domain", LIFECYCLE, now=7.0)
    assert facts.moved("domain", 1_000.0) == 7.0
