"""The broker's answers to `bus.*`: who is there, what is under way, what the policy says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from manor_bus.broker.switch import Switch
from manor_bus.wire import codec
from manor_bus.wire.errors import Problem, bad_request, not_found
from manor_bus.wire.messages import Done, Message, bus
from manor_bus.wire.subjects import is_pattern

M = TypeVar("M", bound=Message)
Answer = Callable[[msgspec.Raw, float], Message]


def answers(
    switch: Switch,
    resident_kib: Callable[[], int],
    reload: Callable[[float], bus.Reloaded],
    authorise: Callable[[bus.Authorise, float], bus.Reloaded] | None = None,
) -> dict[str, Answer]:
    """Return the answer to each `bus.*` subject."""

    def stats(_: bus.BusStats, now: float) -> Message:
        return bus.BusStatsAnswer(
            epoch=switch.epoch, uptime_s=now - switch.started, peers=len(switch.sessions.by_conn),
            subscriptions=sum(len(peer.subs) for peer in switch.sessions.by_conn.values()),
            pending=len(switch.sessions.pending), ring=len(switch.events.ring), resident_kib=resident_kib(),
            counters={**switch.outbox.counters, "events_dropped": switch.fanout.dropped},
        )  # fmt: skip

    def explain(request: bus.Explain, _: float) -> Message:
        decision = switch.decide(request.label, request.verb, request.subject)
        return bus.Explained(allowed=decision.allowed, rule=decision.rule)

    def ring(request: bus.RingRead, _: float) -> Message:
        if not is_pattern(request.pattern):
            wrong = Problem(path="pattern", value=request.pattern[:80], reason="not a pattern")
            raise bad_request("not a subject pattern", wrong)
        return switch.events.ring.read(request.pattern, request.since, max(1, min(request.limit, 5_000)))

    def kick(request: bus.Kick, now: float) -> Message:
        if not switch.kick(request.address, "kicked", now):
            raise not_found(f"nobody is attached as {request.address}", hint="See: manor bus top")
        return Done()

    typed: Mapping[str, tuple[type[Message], Callable[..., Message]]] = {
        "bus.peers": (bus.Peers, lambda _, now: _peers(switch, now)),
        "bus.subs": (bus.Subs, lambda _, __: _subs(switch)),
        "bus.pending": (bus.Pending, lambda _, now: _pending(switch, now)),
        "bus.stats": (bus.BusStats, stats),
        "bus.explain": (bus.Explain, explain),
        "bus.ring": (bus.RingRead, ring),
        "bus.kick": (bus.Kick, kick),
        "bus.reload": (bus.Reload, lambda _, now: reload(now)),
    }
    if authorise is not None:
        typed = {**typed, "bus.authorise": (bus.Authorise, authorise)}
    return {subject: _decoding(wanted, answer) for subject, (wanted, answer) in typed.items()}


def _decoding(wanted: type[M], answer: Callable[[M, float], Message]) -> Answer:
    def decoded(untrusted: msgspec.Raw, now: float) -> Message:
        return answer(codec.read_body(untrusted, wanted), now)

    return decoded


def _peers(switch: Switch, now: float) -> Message:
    peers = sorted(switch.sessions.by_conn.values(), key=lambda peer: peer.address)
    return bus.PeersListed(
        peers=tuple(
            bus.PeerView(
                address=peer.address,
                name=peer.label,
                instance=peer.instance,
                version=peer.version,
                pid=peer.pid,
                serves=peer.serves,
                owns=peer.owns,
                subscriptions=len(peer.subs),
                calls_pending=peer.calls_pending,
                calls_in_flight=len(peer.queue.in_flight),
                received=peer.received,
                sent=peer.sent,
                draining=peer.draining,
                connected_s=now - peer.since,
                where=peer.where,
            )
            for peer in peers
        )
    )


def _subs(switch: Switch) -> Message:
    return bus.SubsListed(
        subs=tuple(
            bus.SubView(
                address=sub.address,
                sid=sub.sid,
                pattern=sub.stream.pattern,
                policy=sub.wish.policy,
                sent=sub.sent_messages,
                dropped=sub.dropped,
                coalesced=sub.coalesced,
                outstanding=sub.sent_messages - sub.acked_messages,
            )
            for peer in switch.sessions.by_conn.values()
            for sub in peer.subs.values()
        )
    )


def _pending(switch: Switch, now: float) -> Message:
    calls = sorted(switch.sessions.pending.values(), key=lambda call: call.since)
    return bus.PendingListed(
        pending=tuple(
            bus.PendingView(
                caller=call.caller.address,
                callee=call.callee.address,
                to=call.to,
                id=call.id,
                age_ms=int((now - call.since) * 1000),
                left_ms=int((call.deadline - now) * 1000),
                queued=call.queued,
            )
            for call in calls[:1_000]
        )
    )
