"""The broker's calls: a request goes to one instance, once, and ends once. Pure.

It ends by the reply of that instance, by its budget, or by the end of that instance's session. Nothing waits
for the absent: no instance, no delivery, at once. Source: design page "The bus", section Requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from manor_bus.broker.fanout import Fanout
from manor_bus.broker.outbox import Outbox, problem, raw, refusal
from manor_bus.broker.policy import Decisions
from manor_bus.broker.services import Services
from manor_bus.broker.sessions import Call, Peer, Sessions
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ErrorBody, Kind, ManorError, Origin, bad_request
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import Limits
from manor_bus.wire.messages.node import Snapshot
from manor_bus.wire.subjects import is_subject

TIMEOUT_MS_MAX: Final = 86_400_000
IDS_MAX: Final = 64
_ADDRESS: Final = re.compile(r"[a-z]+/[A-Za-z0-9_-]{1,63}@[A-Za-z0-9._-]{1,255}/[A-Za-z0-9]{1,32}")


class Calls:
    """Requests, replies, cancellations and the ends of calls. `answers` are the broker's own (`bus.*`)."""

    def __init__(
        self, node: str, limits: Limits, outbox: Outbox, sessions: Sessions, fanout: Fanout,
        decide: Decisions, services: Services,
    ) -> None:  # fmt: skip
        self._node, self._limits, self._decide, self._services = node, limits, decide, services
        self._outbox, self._sessions, self._fanout = outbox, sessions, fanout
        self.answers: dict[str, Callable[[msgspec.Raw, float], Message]] = {}

    # --- from peers -----------------------------------------------------------------------------------

    def request(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """Deliver a request to one instance, answer it, or refuse it; `sent` is the frame as it came."""
        try:
            self._take(peer, wire, sent, now)
        except ManorError as error:
            self._outbox.counters["refused_calls"] += 1
            self._refuse(peer, wire.id, wire.to, refusal(error))

    def _take(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        subject, _, place = wire.to.partition("@")
        self._check(peer, wire, subject)
        if self._fanout.taps:
            self._fanout.tapped(subject, envelope.item(peer.packed, sent), self._outbox.out)
        deadline = now + wire.timeout / 1000
        if wire.deadline:  # on this machine's clock: so the time before the broker read it counts, too
            deadline = min(deadline, wire.deadline / 1000)
            if deadline <= now:
                raise ManorError(Kind.TIMEOUT, f"{wire.to}: the budget was over before the bus saw it")
        if subject.startswith("bus."):
            message = self._answer_of(subject, place)(wire.data, now)
            self._end(peer, wire.to, Envelope(k=Frame.REP, re=wire.id, last=True, data=raw(message)))
            return
        if subject == "srv.snapshot" and place == f"{self._node}/{self._outbox.epoch}":
            self._snapshot(peer, wire)
            return
        call = Call(peer, self._find(peer, subject, place), wire.id, wire.to, deadline, now)
        self._enter(call, sent)

    def _snapshot(self, peer: Peer, wire: Envelope) -> None:
        """Answer with what the broker itself owns: which services are attached."""
        *parts, done = self._services.snapshot(codec.read_body(wire.data, Snapshot).pattern)
        for part in parts:
            self._end(peer, wire.to, Envelope(k=Frame.PART, re=wire.id, data=raw(part)))
        self._end(peer, wire.to, Envelope(k=Frame.REP, re=wire.id, last=True, data=raw(done)))

    def _enter(self, call: Call, sent: bytes) -> None:
        refused = self._sessions.enter(call, sent)
        if not refused:
            if not call.queued:
                self._deliver(call, sent)
            return
        for other in refused:
            full = ManorError(
                Kind.NO_CAPACITY, f"{call.callee.address} has its queue full",
                hint="Try again later, or start a second instance of the service.",
            )  # fmt: skip
            self._outbox.counters["refused_calls"] += 1
            self._refuse(other.caller, other.id, other.to, refusal(full))
        if call not in refused and not call.queued:
            self._deliver(call, sent)

    def _check(self, peer: Peer, wire: Envelope, subject: str) -> None:
        if not is_subject(subject):
            wrong = problem("to", wire.to, "tokens of [A-Za-z0-9_-] and dots")
            raise bad_request("`to` is not a subject", wrong)
        if not 0 < len(wire.id) <= IDS_MAX:
            raise bad_request("`id` is missing", problem("id", wire.id, f"1 to {IDS_MAX} characters"))
        if not 0 < wire.timeout <= TIMEOUT_MS_MAX:
            wrong = problem("timeout", str(wire.timeout), f"1 to {TIMEOUT_MS_MAX} ms")
            raise bad_request("a request needs a budget", wrong)
        if wire.on_behalf_of:
            self._check_behalf(peer, wire.on_behalf_of)
        if (peer.address, wire.id) in self._sessions.pending:
            raise bad_request("this id is under way already", problem("id", wire.id, "an id of its own"))
        if len(peer.made) >= self._limits.pending_calls:
            raise ManorError(Kind.NO_CAPACITY, f"{len(peer.made)} calls of yours are under way")
        decision = self._decide(peer.label, "call", subject)
        if not decision.allowed:
            self._outbox.counters["forbidden"] += 1
            hint = f"Ask the policy's owner, or see: manor bus explain {peer.label} call {subject}"
            raise ManorError(
                Kind.FORBIDDEN, f"{peer.label} may not call {subject} ({decision.rule})", hint=hint
            )

    def _check_behalf(self, peer: Peer, whom: str) -> None:
        """Only services act for others, and only for who exists as far as this broker knows."""
        if not peer.label.startswith("service/"):
            self._outbox.counters["forbidden"] += 1
            raise ManorError(Kind.FORBIDDEN, f"{peer.label} may not act for others: only services may")
        if _ADDRESS.fullmatch(whom) is None or not self._sessions.may_be(whom):
            wrong = problem("on_behalf_of", whom, "the address of a caller, as the bus told it")
            raise bad_request("`on_behalf_of` is not a caller's address", wrong)

    def _find(self, caller: Peer, subject: str, place: str) -> Peer:
        instance = self._instance(place)
        if instance:
            found = self._sessions.by_instance.get(instance)
            if found is not None and not subject.startswith("srv.") and not found.may_take(subject):
                found = None
            missing = f"no instance {instance} on {self._node} serves {subject} now"
        else:
            found = self._sessions.pick(subject)
            missing = f"nobody serves {subject} now"
        if found is None:
            self._sessions.remember_wait(caller, subject)
            raise ManorError(Kind.UNAVAILABLE, missing, hint="See which services run: manor service list")
        return found

    def _instance(self, place: str) -> str:
        """Return the instance of `node/instance`."""
        node, _, instance = place.partition("/")
        if place and node != self._node:
            raise ManorError(Kind.UNAVAILABLE, f"no way to node {node}", hint="See: manor get node")
        return instance

    def _answer_of(self, subject: str, place: str) -> Callable[[msgspec.Raw, float], Message]:
        self._instance(place)
        answer = self.answers.get(subject)
        if answer is None:
            raise bad_request(f"the broker does not answer {subject}")
        return answer

    def reply(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """Pass a (partial) reply to the caller, if it comes from the instance that was called."""
        call = self._sessions.pending.get((wire.to, wire.re))
        if call is None or call.callee is not peer or call.queued:
            self._outbox.counters["replies_dropped"] += 1
            return
        self._pass_on(call.caller, envelope.single(peer.packed, sent))
        if self._fanout.taps:
            subject = call.to.partition("@")[0]
            self._fanout.tapped(subject, envelope.item(peer.packed, sent), self._outbox.out)
        if wire.k == Frame.REP:
            self._finish(call, now)

    def cancel(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """The caller gives up: end a waiting call, tell the callee of a delivered one."""
        call = self._sessions.pending.get((peer.address, wire.re))
        if call is None:
            return
        if call.queued:
            self._finish(call, now)
            self._refuse_call(call, Kind.TIMEOUT, "cancelled before it was delivered", delivered=False)
        else:
            self._pass_on(call.callee, envelope.single(call.caller.packed, sent))

    # --- from time and the ends of sessions -------------------------------------------------------------

    def advance(self, now: float) -> None:
        """End the calls whose budget is over."""
        for call in sorted(self._sessions.overdue(now), key=lambda call: not call.queued):
            waiting = call.queued
            self._finish(call, now)
            self._outbox.counters["timeouts"] += 1
            if not waiting:
                self._withdraw(call)
            self._refuse_call(call, Kind.TIMEOUT, "no reply within the budget", delivered=not waiting)

    def policy_changed(self, now: float) -> None:
        """End the calls that wait and may no longer be made."""
        for call in [call for call in self._sessions.pending.values() if call.queued]:
            if not self._decide(call.caller.label, "call", call.to.partition("@")[0]).allowed:
                self._finish(call, now)
                self._refuse_call(call, Kind.FORBIDDEN, "the policy has changed", delivered=False)

    def drain(self, peer: Peer, now: float) -> None:
        """No new calls for this instance; what still waits for it goes to another one, or back."""
        for call, sent in self._sessions.drain(peer):
            subject, _, place = call.to.partition("@")
            other = None if "/" in place else self._sessions.pick(subject)
            if other is not None:
                self._enter(Call(call.caller, other, call.id, call.to, call.deadline, call.since), sent)
                continue
            self._refuse_call(call, Kind.UNAVAILABLE, "the instance is leaving", delivered=False)
        self._outbox.answer(peer, Envelope(k=Frame.DRAIN))

    def abandon(
        self, address: str, reason: str, lost: Iterable[Call], made: Iterable[Call], now: float
    ) -> None:
        """A peer left: end what was called of it and withdraw what it called."""
        for call in lost:
            message = f"{address} left before it replied ({reason})"
            self._refuse_call(call, Kind.UNAVAILABLE, message, delivered=not call.queued)
        for call in made:
            waiting = call.queued
            self._finish(call, now)
            if not waiting:
                self._withdraw(call)

    # --- frames ---------------------------------------------------------------------------------------

    def _deliver(self, call: Call, sent: bytes) -> None:
        self._pass_on(
            call.callee, envelope.single(call.caller.packed, sent, max(1, int(call.deadline * 1000)))
        )

    def _pass_on(self, peer: Peer, frame: bytes) -> None:
        """Send what another peer said, after the events it said before."""
        peer.sent += 1
        if peer.subs and self._fanout.dirty:
            self._fanout.flush_for(peer.subs.values(), self._outbox.out)
        self._outbox.out.append((peer.conn, frame))

    def _finish(self, call: Call, now: float) -> None:
        """Forget a call; whoever waits for its place in the callee's window goes next."""
        for following, sent in self._sessions.leave(call, now):
            self._deliver(following, sent)

    def _withdraw(self, call: Call) -> None:
        wish = codec.encode(Envelope(k=Frame.CANCEL, re=call.id))
        self._outbox.out.append((call.callee.conn, envelope.single(call.caller.packed, wish)))

    def _refuse_call(self, call: Call, kind: Kind, message: str, *, delivered: bool) -> None:
        err = ErrorBody(kind=kind, message=f"{call.to}: {message}", origin=Origin.BROKER, delivered=delivered)
        self._refuse(call.caller, call.id, call.to, err)

    def _refuse(self, peer: Peer, request: str, to: str, err: ErrorBody) -> None:
        self._end(peer, to, Envelope(k=Frame.REP, re=request, last=True, err=err))

    def _end(self, peer: Peer, to: str, wire: Envelope) -> None:
        """Answer in the broker's own name."""
        self._outbox.answer(peer, wire)
        if self._fanout.taps:
            packed = envelope.item(self._outbox.packed, codec.encode(wire))
            self._fanout.tapped(to.partition("@")[0], packed, self._outbox.out)
