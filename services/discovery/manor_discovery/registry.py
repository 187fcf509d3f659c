"""Who is there now: the facts, their time limits and their registrants. Pure: time comes in as `now`.

The rules:
- A fact is (kind, name). It counts until its registrant was silent for the fact's time limit, withdraws it,
  or, when it is bound, until the registrant's bus session ends.
- A renewal keeps all facts of a registrant; one whose facts we do not all hold is told `stale`: it sends all.
  A registrant may keep several lists (the library's and its own), so a renewal's count is a lower bound,
  and the epoch it quotes is that of its account, which changes when its session ended.
- Nothing older replaces something newer: see `_is_stale`.
- After our own start we are settling until registrants have had one period to come back, and a little longer
  while they are still sending.
Every change returns what to publish, as `Published` (a new value) and `Gone` (the object is no more).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request
from manor_bus.wire.messages.discovery import (
    AnyFact,
    DomainFact,
    Entry,
    FactReference,
    NodeStatus,
    ProviderStatus,
    Registration,
    ResourceStatus,
    ServiceStatus,
)

FACTS_MAX: Final = 250_000
BATCH_MAX: Final = 500
FACT_BYTES_MAX: Final = 64 * 1024
TTL_MS_MIN: Final = 500
TTL_MS_MAX: Final = 3_600_000
SETTLING_PERIODS_MAX: Final = 5  # registrants that never stop sending do not keep us settling for ever

Key = tuple[str, str]

_KIND: Final[dict[type, str]] = {
    NodeStatus: "node",
    ServiceStatus: "service",
    ProviderStatus: "provider",
    ResourceStatus: "resource",
    DomainFact: "domain",
}


@dataclass(frozen=True, slots=True)
class Registrant:
    """The verified sender `label@node/instance`, taken apart."""

    address: str
    label: str
    node: str

    @staticmethod
    def of(address: str) -> Registrant:
        """Take an address apart."""
        label, _, rest = address.partition("@")
        return Registrant(address=address, label=label, node=rest.partition("/")[0])


@dataclass(slots=True)
class Held:
    """One fact as we hold it. `size` is that of its encoding, in bytes."""

    fact: AnyFact
    by: str
    since: float
    ttl_ms: int
    bound: bool
    at: float  # `now` of its registration
    size: int
    stale: bool = False


@dataclass(slots=True)
class Account:
    """What we know of one registrant. `order` grows with each new one: a higher one came later.

    `epoch` is what it quotes in renewals. `refused`: keys it believes registered while others hold them.
    """

    order: int
    epoch: str
    renewed: float
    keys: set[Key] = field(default_factory=set)
    refused: set[Key] = field(default_factory=set)
    shortest_ms: int = TTL_MS_MAX


@dataclass(frozen=True, slots=True)
class Published:
    """Publish this entry under the subject."""

    subject: str
    entry: Entry
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """The object is no more; `last` is what it was."""

    subject: str
    last: Entry
    reason: str


Action = Published | Gone


def key_of(fact: AnyFact) -> Key:
    """Return (kind, name) of a fact."""
    return _KIND[type(fact)], fact.name


def subject_of(key: Key) -> str:
    """Return the subject a fact is published under."""
    return f"{key[0]}.{key[1]}"


def age_of(fact: AnyFact) -> tuple[int, int]:
    """Return what orders two values of one fact: larger is newer; (0, 0) where a fact has no such number."""
    match fact:
        case DomainFact():
            return fact.status.incarnation, fact.status.generation
        case ProviderStatus():
            return fact.epoch, 0
        case _:
            return 0, 0


def check(registrant: Registrant, registration: Registration, size: int) -> None:
    """Refuse what this registrant may not say, or nobody may. Raises `forbidden` or `bad_request`."""
    fact = registration.fact
    kind, name = key_of(fact)
    at = f"registrations[{kind}.{name}]"
    tokens = name.split(".") if kind == "service" else [name]
    if (
        not all(tokens)
        or not all(t.replace("-", "").replace("_", "").isalnum() for t in tokens)
        or len(name) > 255
    ):
        problem = Problem(path=f"{at}.fact.name", value=name[:80], reason="cannot be part of a subject")
        raise bad_request("a fact has an unusable name", problem)
    if not TTL_MS_MIN <= registration.ttl_ms <= TTL_MS_MAX:
        problem = Problem(
            path=f"{at}.ttl_ms",
            value=str(registration.ttl_ms),
            reason="out of range",
            allowed=f"{TTL_MS_MIN} to {TTL_MS_MAX}",
        )
        raise bad_request("a time limit is out of range", problem)
    if size > FACT_BYTES_MAX:
        problem = Problem(path=at, value=str(size), reason="too large", allowed=f"{FACT_BYTES_MAX} bytes")
        raise bad_request("a fact is too large", problem)
    if not _may_say(registrant, fact):
        message = f"{registrant.label} at {registrant.node} may not register {kind} {name}"
        hint = "Nodes and domains are registered by their node's lifecycle service, services by themselves."
        raise ManorError(Kind.FORBIDDEN, message, hint=hint)


def _may_say(registrant: Registrant, fact: AnyFact) -> bool:
    match fact:
        case NodeStatus():
            return registrant.label == "service/lifecycle" and fact.name == registrant.node
        case DomainFact():
            return registrant.label == "service/lifecycle" and fact.status.node == registrant.node
        case ServiceStatus():
            return registrant.label == f"service/{fact.service}" and fact.node == registrant.node
        case _:
            return fact.node == registrant.node


class Registry:
    """All facts. One method per event; each takes the time and returns what to publish."""

    def __init__(self, *, epoch: str, period_ms: int, now: float) -> None:
        self.epoch = epoch
        self.period_ms = period_ms
        self._started = now
        self._heard = now
        self._settled = False
        self._held: dict[Key, Held] = {}
        self._accounts: dict[str, Account] = {}
        self._order = 0
        self._epochs = 0

    @property
    def settling(self) -> bool:
        """Whether we have just started and may not know all yet."""
        return not self._settled

    def register(
        self, by: str, registrations: Iterable[tuple[Registration, int]], now: float, wall: float
    ) -> tuple[list[Action], tuple[FactReference, ...]]:
        """Take facts (with their encoded sizes); return what to publish, and those older than what we hold.

        `wall` is seconds since 1970. Refuses before anything changed: `bad_request`, `forbidden`,
        `no_capacity`.
        """
        registrant = Registrant.of(by)
        batch = list(registrations)
        if len(batch) > BATCH_MAX:
            problem = Problem(
                path="registrations", reason="too many", allowed=f"at most {BATCH_MAX} in one call"
            )
            raise bad_request("too many registrations", problem)
        for registration, size in batch:
            check(registrant, registration, size)
        new = sum(key_of(registration.fact) not in self._held for registration, _ in batch)
        if len(self._held) + new > FACTS_MAX:
            message = f"discovery holds at most {FACTS_MAX} facts"
            raise ManorError(Kind.NO_CAPACITY, message, hint="Withdraw facts that are no longer true.")
        self._heard = now
        account = self._account(by, now)
        account.renewed = now
        actions: list[Action] = []
        stale: list[FactReference] = []
        for registration, size in batch:
            key = key_of(registration.fact)
            held = self._held.get(key)
            if held is not None and self._is_stale(registrant, account, registration.fact, held):
                stale.append(FactReference(kind=key[0], name=key[1]))
                if held.by != by:
                    account.refused.add(key)
                continue
            actions += self._hold(key, by, account, registration, size, now, wall)
        return actions, tuple(stale)

    def renew(self, by: str, epoch: str, count: int, now: float) -> None:
        """Keep all facts of a registrant; `stale` when we do not know at least that many of it."""
        account = self._accounts.get(by)
        known = len(account.keys | account.refused) if account else 0
        if account is None or epoch != account.epoch or known < count:
            message = f"discovery {self.epoch} knows {known} facts of {by}, not {count} of {epoch}"
            raise ManorError(Kind.STALE, message, hint="Register all facts again.")
        account.renewed = now

    def epoch_of(self, by: str) -> str:
        """Return the epoch that a registrant quotes in its renewals."""
        account = self._accounts.get(by)
        return account.epoch if account else self.epoch

    def withdraw(self, by: str, references: Iterable[FactReference], reason: str, now: float) -> list[Action]:
        """End facts of a registrant; what is not its own is left alone."""
        account = self._accounts.get(by)
        keys = {(r.kind, r.name) for r in references} & (account.keys if account else set())
        return [self._end(key, reason or "withdrawn", now) for key in sorted(keys)]

    def session_ended(self, by: str, reason: str, now: float) -> list[Action]:
        """The registrant left the bus: bound facts end, the others are marked stale until their limit."""
        account = self._accounts.get(by)
        if account is None:
            return []
        account.epoch = self._next_epoch()
        why = f"the session of {by} ended: {reason}" if reason else f"the session of {by} ended"
        actions: list[Action] = []
        for key in sorted(account.keys):
            held = self._held[key]
            if held.bound:
                actions.append(self._end(key, why, now))
            else:
                held.stale = True
                actions.append(Published(subject_of(key), self._entry(held, now), why))
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time has passed: end what was not renewed. Cheap when nothing is due."""
        self._settle(now)
        actions: list[Action] = []
        for by, account in list(self._accounts.items()):
            if now - account.renewed < account.shortest_ms / 1000:
                continue
            due = [key for key in account.keys if self._left_ms(self._held[key], account, now) <= 0]
            actions += [self._end(key, f"not renewed by {by} in time", now) for key in sorted(due)]
            account.shortest_ms = min((self._held[k].ttl_ms for k in account.keys), default=TTL_MS_MAX)
            if not account.keys:
                del self._accounts[by]
        return actions

    def find(self, kind: str, name: str, now: float) -> Iterator[tuple[Entry, int]]:
        """Return the entries of a kind (of one name) with their sizes, by name."""
        if name:
            held = self._held.get((kind, name))
            return iter([(self._entry(held, now), held.size)] if held else [])
        keys = sorted(key for key in self._held if key[0] == kind)
        return ((self._entry(self._held[key], now), self._held[key].size) for key in keys)

    def _account(self, by: str, now: float) -> Account:
        account = self._accounts.get(by)
        if account is None:
            self._order += 1
            account = Account(order=self._order, epoch=self._next_epoch(), renewed=now)
            self._accounts[by] = account
        return account

    def _next_epoch(self) -> str:
        self._epochs += 1
        return f"{self.epoch}.{self._epochs}"

    def _is_stale(self, registrant: Registrant, account: Account, fact: AnyFact, held: Held) -> bool:
        """Say whether `fact` must not replace what we hold.

        One registrant's own numbers only grow. A later session of the same service on the same node is the
        authority over what an earlier one said, whatever the numbers. Between nodes the numbers decide.
        """
        if held.by == registrant.address:
            return age_of(fact) < age_of(held.fact)
        before = Registrant.of(held.by)
        if (before.label, before.node) == (registrant.label, registrant.node):
            return account.order < self._accounts[held.by].order
        return age_of(fact) <= age_of(held.fact) and age_of(held.fact) != (0, 0)

    def _hold(
        self,
        key: Key,
        by: str,
        account: Account,
        registration: Registration,
        size: int,
        now: float,
        wall: float,
    ) -> list[Action]:
        held = self._held.get(key)
        same = held is not None and held.by == by and held.fact == registration.fact and not held.stale
        since = wall
        if held is not None:
            self._accounts[held.by].keys.discard(key)
            if held.by == by:
                since = held.since
        account.keys.add(key)
        account.refused.discard(key)
        account.shortest_ms = min(account.shortest_ms, registration.ttl_ms)
        self._held[key] = fresh = Held(
            fact=registration.fact,
            by=by,
            since=since,
            ttl_ms=registration.ttl_ms,
            bound=registration.bound,
            at=now,
            size=size,
        )
        return [] if same else [Published(subject_of(key), self._entry(fresh, now))]

    def _end(self, key: Key, reason: str, now: float) -> Action:
        held = self._held.pop(key)
        last = self._entry(held, now)
        self._accounts[held.by].keys.discard(key)
        return Gone(subject_of(key), last, reason)

    def _left_ms(self, held: Held, account: Account, now: float) -> int:
        return held.ttl_ms - int((now - max(held.at, account.renewed)) * 1000)

    def _entry(self, held: Held, now: float) -> Entry:
        left = self._left_ms(held, self._accounts[held.by], now)
        return Entry(fact=held.fact, by=held.by, since=held.since, expires_ms=max(left, 0), stale=held.stale)

    def _settle(self, now: float) -> None:
        period = self.period_ms / 1000
        quiet = now - self._heard >= period / 4
        if now >= self._started + period and (quiet or now >= self._started + SETTLING_PERIODS_MAX * period):
            self._settled = True
