from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.discovery import (
    AnyFact,
    DomainFact,
    FactReference,
    NodeStatus,
    ProviderStatus,
    Registration,
    ResourceStatus,
    ServiceStatus,
)
from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_discovery.registry import (
    BATCH_MAX,
    FACT_BYTES_MAX,
    Action,
    Gone,
    Published,
    Registry,
    age_of,
    subject_of,
)

LIFECYCLE = "service/lifecycle@n1/aaaa"
SUCCESSOR = "service/lifecycle@n1/bbbb"
ELSEWHERE = "service/lifecycle@n2/cccc"
DEVICES = "service/devices@n1/dddd"


def registry(now: float = 0.0) -> Registry:
    return Registry(epoch="e1", period_ms=1000, now=now)


def domain(name: str = "web", generation: int = 1, incarnation: int = 1, node: str = "n1") -> DomainFact:
    status = DomainStatus(
        name=name,
        uuid="u",
        state=State.RUNNING,
        generation=generation,
        incarnation=incarnation,
        node=node,
        hypervisor="fake",
    )
    return DomainFact(name=name, status=status)


def provider(name: str = "file", epoch: int = 1) -> ProviderStatus:
    return ProviderStatus(name=name, backend="file", node="n1", epoch=epoch)


def say(
    held: Registry,
    by: str,
    *facts: AnyFact,
    now: float = 0.0,
    ttl_ms: int = 6000,
    bound: bool = True,
) -> tuple[list[Action], tuple[FactReference, ...]]:
    batch = [(Registration(fact=f, ttl_ms=ttl_ms, bound=bound), 100) for f in facts]
    return held.register(by, batch, now, 1e9)


def names(held: Registry, kind: str, now: float = 0.0) -> list[str]:
    return [entry.fact.name for entry, _ in held.find(kind, "", now)]


def summary(actions: Sequence[Action]) -> list[tuple[str, str]]:
    return [(type(a).__name__, a.subject) for a in actions]


def test_a_registered_fact_is_published_and_found() -> None:
    held = registry()
    actions, stale = say(held, LIFECYCLE, domain())
    assert summary(actions) == [("Published", "domain.web")]
    assert stale == ()
    ((entry, _),) = held.find("domain", "web", 1.0)
    assert (entry.by, entry.expires_ms, entry.since) == (LIFECYCLE, 5000, 1e9)


def test_the_same_fact_again_is_not_published_again() -> None:
    held = registry()
    say(held, LIFECYCLE, domain())
    assert say(held, LIFECYCLE, domain(), now=1.0)[0] == []


def test_a_fact_ends_when_its_registrant_was_silent_for_its_time_limit() -> None:
    held = registry()
    say(held, DEVICES, provider(), ttl_ms=2000)
    assert held.tick(1.9) == []
    (gone,) = held.tick(2.0)
    assert isinstance(gone, Gone)
    assert gone.subject == "provider.file"
    assert "not renewed" in gone.reason
    assert names(held, "provider") == []


def test_one_renewal_keeps_all_facts_of_a_registrant() -> None:
    held = registry()
    say(held, LIFECYCLE, domain("a"), domain("b"), ttl_ms=2000)
    held.renew(LIFECYCLE, held.epoch_of(LIFECYCLE), 2, 1.5)
    assert held.tick(3.0) == []
    assert len(held.tick(3.5)) == 2


def test_a_fact_with_a_longer_limit_outlives_its_neighbour() -> None:
    held = registry()
    say(held, DEVICES, provider("short"), ttl_ms=1000)
    say(held, DEVICES, provider("long"), ttl_ms=5000)
    assert summary(held.tick(1.0)) == [("Gone", "provider.short")]
    assert held.tick(4.9) == []
    assert summary(held.tick(5.0)) == [("Gone", "provider.long")]


@pytest.mark.parametrize(("epoch", "count"), [("e0", 1), ("", 2)])
def test_a_renewal_of_more_than_what_is_held_is_stale(epoch: str, count: int) -> None:
    held = registry()
    say(held, LIFECYCLE, domain())
    with pytest.raises(ManorError) as refusal:
        held.renew(LIFECYCLE, epoch or held.epoch_of(LIFECYCLE), count, 1.0)
    assert refusal.value.kind is Kind.STALE


def test_each_of_a_registrants_lists_may_renew_with_its_own_count() -> None:
    held = registry()
    say(held, LIFECYCLE, domain("a"), ttl_ms=2000)
    say(held, LIFECYCLE, NodeStatus(name="n1"), ttl_ms=2000)
    held.renew(LIFECYCLE, held.epoch_of(LIFECYCLE), 1, 1.5)
    assert held.tick(3.4) == []


def test_after_the_end_of_its_session_each_list_is_asked_for_again() -> None:
    held = registry()
    say(held, LIFECYCLE, domain("a"))
    before = held.epoch_of(LIFECYCLE)
    held.session_ended(LIFECYCLE, "", 1.0)
    say(held, LIFECYCLE, domain("a"), domain("b"))
    with pytest.raises(ManorError) as refusal:
        held.renew(LIFECYCLE, before, 1, 1.0)
    assert refusal.value.kind is Kind.STALE


def test_a_fact_that_another_holds_does_not_make_renewals_stale() -> None:
    held = registry()
    say(held, LIFECYCLE, domain("a", incarnation=2), domain("b"))
    say(held, ELSEWHERE, domain("a", node="n2"), domain("c", node="n2"))
    held.renew(ELSEWHERE, held.epoch_of(ELSEWHERE), 2, 1.0)


def test_a_renewal_of_an_unknown_registrant_is_stale() -> None:
    with pytest.raises(ManorError) as refusal:
        registry().renew(LIFECYCLE, "e1", 0, 1.0)
    assert refusal.value.kind is Kind.STALE


def test_the_end_of_a_session_ends_bound_facts_at_once_and_says_why() -> None:
    held = registry()
    say(held, DEVICES, provider())
    (gone,) = held.session_ended(DEVICES, "socket closed", 1.0)
    assert isinstance(gone, Gone)
    assert "socket closed" in gone.reason


def test_the_end_of_a_session_marks_unbound_facts_stale_until_their_limit() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(), bound=False, ttl_ms=20_000)
    (marked,) = held.session_ended(LIFECYCLE, "killed", 1.0)
    assert isinstance(marked, Published)
    assert marked.entry.stale
    assert held.tick(19.9) == []
    assert summary(held.tick(20.0)) == [("Gone", "domain.web")]


def test_a_stale_fact_is_fresh_again_when_it_is_registered_again() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(), bound=False)
    held.session_ended(LIFECYCLE, "", 1.0)
    ((back,), _) = say(held, LIFECYCLE, domain(), bound=False, now=2.0)
    assert isinstance(back, Published)
    assert not back.entry.stale


def test_the_end_of_an_unknown_session_changes_nothing() -> None:
    assert registry().session_ended(DEVICES, "", 1.0) == []


def test_a_successor_takes_the_facts_over_whatever_their_numbers() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(generation=9), bound=False)
    held.session_ended(LIFECYCLE, "killed", 1.0)
    actions, stale = say(held, SUCCESSOR, domain(generation=1), now=1.5)
    assert (summary(actions), stale) == ([("Published", "domain.web")], ())
    assert held.tick(6.5) == []  # the first registration no longer counts


def test_a_predecessor_cannot_take_a_fact_back() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(generation=1))
    say(held, SUCCESSOR, domain(generation=2))
    actions, stale = say(held, LIFECYCLE, domain(generation=3))
    assert actions == []
    assert stale == (FactReference(kind="domain", name="web"),)


def test_an_older_generation_of_the_same_registrant_is_stale() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(generation=5))
    assert say(held, LIFECYCLE, domain(generation=4))[1] != ()
    assert say(held, LIFECYCLE, domain(generation=5))[1] == ()


def test_another_node_needs_a_newer_incarnation_or_generation() -> None:
    held = registry()
    say(held, LIFECYCLE, domain(incarnation=3, generation=7))
    assert say(held, ELSEWHERE, domain(incarnation=2, generation=9, node="n2"))[1] != ()
    assert say(held, ELSEWHERE, domain(incarnation=3, generation=7, node="n2"))[1] != ()
    assert say(held, ELSEWHERE, domain(incarnation=4, generation=1, node="n2"))[1] == ()


def test_a_new_provider_epoch_replaces_the_old_one() -> None:
    held = registry()
    say(held, DEVICES, provider(epoch=2))
    assert say(held, DEVICES, provider(epoch=1))[1] != ()
    assert age_of(provider(epoch=2)) == (2, 0)


def test_facts_are_withdrawn_by_their_registrant_alone() -> None:
    held = registry()
    say(held, DEVICES, provider())
    reference = FactReference(kind="provider", name="file")
    assert held.withdraw(LIFECYCLE, [reference], "", 1.0) == []
    (gone,) = held.withdraw(DEVICES, [reference], "unloaded", 1.0)
    assert isinstance(gone, Gone)
    assert gone.reason == "unloaded"


@pytest.mark.parametrize(
    ("by", "fact"),
    [
        (DEVICES, domain()),
        (ELSEWHERE, domain()),
        (DEVICES, NodeStatus(name="n1")),
        (LIFECYCLE, NodeStatus(name="n2")),
        (
            DEVICES,
            ServiceStatus(name="config.x", service="config", instance="x", node="n1", pid=1, version="1"),
        ),
        (ELSEWHERE, provider()),
        (ELSEWHERE, ResourceStatus(name="br0", node="n1")),
    ],
)
def test_nobody_speaks_for_others(by: str, fact: AnyFact) -> None:
    with pytest.raises(ManorError) as refusal:
        say(registry(), by, fact)
    assert refusal.value.kind is Kind.FORBIDDEN


def test_a_service_registers_itself() -> None:
    fact = ServiceStatus(
        name="devices.dddd", service="devices", instance="dddd", node="n1", pid=1, version="1"
    )
    actions, _ = say(registry(), DEVICES, fact)
    assert summary(actions) == [("Published", "service.devices.dddd")]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "x" * 300])
def test_a_name_that_cannot_be_part_of_a_subject_is_refused(name: str) -> None:
    with pytest.raises(ManorError) as refusal:
        say(registry(), DEVICES, provider(name))
    assert refusal.value.kind is Kind.BAD_REQUEST


@pytest.mark.parametrize("ttl_ms", [0, 10, 10**9])
def test_a_time_limit_out_of_range_is_refused(ttl_ms: int) -> None:
    with pytest.raises(ManorError) as refusal:
        say(registry(), DEVICES, provider(), ttl_ms=ttl_ms)
    assert refusal.value.problems[0].path.endswith("ttl_ms")


def test_a_refused_batch_changes_nothing() -> None:
    held = registry()
    with pytest.raises(ManorError):
        say(held, DEVICES, provider("good"), provider("not good"))
    assert names(held, "provider") == []


def test_batches_and_facts_are_bounded() -> None:
    held = registry()
    with pytest.raises(ManorError):
        say(held, DEVICES, *(provider(f"p{n}") for n in range(BATCH_MAX + 1)))
    with pytest.raises(ManorError):
        held.register(DEVICES, [(Registration(fact=provider()), FACT_BYTES_MAX + 1)], 0.0, 0.0)


def test_the_number_of_facts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor_discovery.registry.FACTS_MAX", 2)
    held = registry()
    say(held, DEVICES, provider("a"), provider("b"))
    with pytest.raises(ManorError) as refusal:
        say(held, DEVICES, provider("c"))
    assert refusal.value.kind is Kind.NO_CAPACITY
    say(held, DEVICES, provider("b", epoch=2))


def test_a_start_settles_after_one_quiet_period() -> None:
    held = registry()
    held.tick(0.9)
    assert held.settling
    held.tick(1.0)
    assert not held.settling


def test_settling_goes_on_while_registrants_are_still_sending_but_not_for_ever() -> None:
    held = registry()
    for tenth in range(9, 50):
        say(held, DEVICES, provider(f"p{tenth}"), now=tenth / 10)
        held.tick(tenth / 10)
        assert held.settling
    say(held, DEVICES, provider("last"), now=5.0)
    held.tick(5.0)
    assert not held.settling


def test_subjects_are_kind_and_name() -> None:
    assert subject_of(("domain", "web")) == "domain.web"


class RegistryModel(RuleBasedStateMachine):
    """Whatever happens, what was published and not gone is exactly what is found."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.held = registry()
        self.view: dict[str, AnyFact] = {}

    def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Published):
                self.view[action.subject] = action.entry.fact
            else:
                del self.view[action.subject]

    @rule(
        by=st.sampled_from([LIFECYCLE, SUCCESSOR]),
        name=st.sampled_from("abc"),
        generation=st.integers(1, 4),
        bound=st.booleans(),
        ttl_ms=st.sampled_from([1000, 3000]),
    )
    def registers(self, by: str, name: str, generation: int, bound: bool, ttl_ms: int) -> None:
        fact = domain(name, generation)
        self.apply(say(self.held, by, fact, now=self.now, ttl_ms=ttl_ms, bound=bound)[0])

    @rule(by=st.sampled_from([LIFECYCLE, SUCCESSOR]))
    def leaves(self, by: str) -> None:
        self.apply(self.held.session_ended(by, "", self.now))

    @rule(by=st.sampled_from([LIFECYCLE, SUCCESSOR]), count=st.integers(0, 3))
    def renews(self, by: str, count: int) -> None:
        refused = None
        try:
            self.held.renew(by, self.held.epoch_of(by), count, self.now)
        except ManorError as refusal:
            refused = refusal.kind
        assert refused in (None, Kind.STALE)

    @rule(by=st.sampled_from([LIFECYCLE, SUCCESSOR]), name=st.sampled_from("abc"))
    def withdraws(self, by: str, name: str) -> None:
        self.apply(self.held.withdraw(by, [FactReference(kind="domain", name=name)], "", self.now))

    @rule(seconds=st.sampled_from([0.1, 0.9, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.held.tick(self.now))

    @invariant()
    def the_view_is_what_is_held(self) -> None:
        found = {f"domain.{e.fact.name}": e.fact for e, _ in self.held.find("domain", "", self.now)}
        assert found == self.view


RegistryModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRegistryModel = RegistryModel.TestCase
