"""Each rule switched off in turn: the histories of `test_promises` must find every one of these.

A rule whose absence nobody notices is not tested; a search that finds nothing is not a search.
"""

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from manor_bus.broker.admission import AdmissionQueue
from manor_bus.broker.calls import Calls
from manor_bus.broker.events import Events
from manor_bus.broker.fanout import Fanout
from manor_bus.broker.policy import Decision
from manor_bus.broker.sessions import Sessions
from manor_bus.peer import view
from manor_bus.peer.calls import ClientCalls
from manor_bus.peer.dispatcher import Dispatcher
from manor_bus.peer.duplicates import DuplicateCache, Run
from manor_bus.peer.session import Session
from manor_bus.peer.subscriptions import ClientSubscriptions
from manor_bus.peer.view import View
from manor_bus.wire import envelope
from tests.bus.test_promises import Anything
from tests.testkit.chance import SEARCH

EXAMPLES = 400


def anybody_may_reply(patch):
    def reply(self, peer, wire, sent, now):
        call = self._sessions.pending.get((wire.to, wire.re))
        if call is not None and not call.queued:
            self._pass_on(call.caller, envelope.single(peer.packed, sent))
            self._finish(call, now)

    patch.setattr(Calls, "reply", reply)


def anybody_may_cancel(patch):
    def cancel(self, peer, wire, sent, now):
        for (_, request), call in list(self._sessions.pending.items()):
            if request == wire.re and not call.queued:
                self._pass_on(call.callee, envelope.single(call.caller.packed, sent))

    patch.setattr(Calls, "cancel", cancel)


def anybody_may_publish_anything(patch):
    publish = Events.publish

    def allowed(self, peer, wire, sent, now):
        before, self._decide = self._decide, lambda *_: Decision(True, "mutant")
        publish(self, peer, wire, sent, now)
        self._decide = before

    patch.setattr(Events, "publish", allowed)


def anybody_may_call_anything(patch):
    check = Calls._check

    def allowed(self, peer, wire, subject):
        before, self._decide = self._decide, lambda *_: Decision(True, "mutant")
        try:
            check(self, peer, wire, subject)
        finally:
            self._decide = before

    patch.setattr(Calls, "_check", allowed)


def anybody_may_take_an_instances_name(patch):
    patch.setattr(Sessions, "admit", lambda *_: None)


def a_request_is_sent_twice(patch):
    deliver = Calls._deliver

    def twice(self, call, sent):
        deliver(self, call, sent)
        deliver(self, call, sent)

    patch.setattr(Calls, "_deliver", twice)


def the_loss_of_a_callee_is_told_as_if_nothing_was_delivered(patch):
    refuse = Calls._refuse_call
    patch.setattr(
        Calls, "_refuse_call",
        lambda self, call, kind, message, delivered: refuse(self, call, kind, message, delivered=False),
    )  # fmt: skip


def a_lost_connection_is_forgotten(patch):
    def lost(self):
        self._greeted = False
        self._by_id.clear()
        for call in self._calls.values():
            call.id = ""

    patch.setattr(ClientCalls, "lost", lost)


def the_library_trusts_the_broker_to_end_calls(patch):
    patch.setattr(ClientCalls, "_expire", lambda *_: None)


def the_broker_ignores_deadlines(patch):
    take = Calls._take
    patch.setattr(
        Calls, "_take",
        lambda self, peer, wire, sent, now: take(self, peer, _without_deadline(wire), sent, now),
    )  # fmt: skip


def _without_deadline(wire):
    return type(wire)(**{name: getattr(wire, name) for name in wire.__struct_fields__ if name != "deadline"})


def the_service_ignores_deadlines(patch):
    asked = Dispatcher.asked

    def ever(self, event):
        asked(self, msgspec.structs.replace(event, deadline=float("inf")))

    patch.setattr(Dispatcher, "asked", ever)


def every_attempt_runs_anew(patch):
    def ask(self, key, sender, request):
        self._runs[key] = run = Run(key, [(sender, request)])
        return run

    patch.setattr(DuplicateCache, "ask", ask)


def credit_is_not_checked(patch):
    def credit(self, of, messages, size, out):
        self.held -= size - of.acked_bytes
        of.acked_messages, of.acked_bytes = messages, size
        self.drain(of, out)
        return True

    patch.setattr(Fanout, "credit", credit)


def old_credit_is_told_on_a_new_connection(patch):
    def consumed(self, arrived):
        for sub in self._by_life.values():
            sub.messages += len(arrived.items)
            sub.size += arrived.size
            self._credit(sub)

    patch.setattr(ClientSubscriptions, "consumed", consumed)


def what_is_dropped_leaves_no_hole(patch):
    def drop(self, late, count):
        late.dropped += count

    patch.setattr(Fanout, "_drop", drop)


def what_is_replaced_is_not_counted(patch):
    def keep(self, late, subject, packed):
        self._kept(late, len(packed) - len(late.newest.pop(subject, b"")))
        late.newest[subject] = packed

    patch.setattr(Fanout, "_keep_newest", keep)


def a_new_subscriber_takes_the_last_batch_of_the_others(patch):
    subscribe = Fanout.subscribe
    patch.setattr(Fanout, "subscribe", lambda self, *wish: subscribe(self, *wish[:-1], []))  # type: ignore[call-arg]


def replies_overtake_events(patch):
    patch.setattr(Fanout, "flush_for", lambda *_: None)


def the_queue_has_no_limit(patch):
    take = AdmissionQueue.take

    def unbounded(self, *call):
        self._limit = 1_000_000
        return take(self, *call)

    patch.setattr(AdmissionQueue, "take", unbounded)


def holes_are_not_noticed(patch):
    items = ClientSubscriptions.items

    def blind(self, down, size):
        sub = self._by_life.get(down.sid)
        if sub is not None and sub.next is not None:
            sub.next = down.n
        items(self, down, size)

    patch.setattr(ClientSubscriptions, "items", blind)


def a_reset_is_ignored(patch):
    take = Session._take
    patch.setattr(
        Session, "_take", lambda self, sender, wire, *more: wire.k == 13 or take(self, sender, wire, *more)
    )


def old_changes_are_applied(patch):
    def applies(self, owner, wire):
        owner.rev = 0
        return before(self, owner, wire)

    before = View._applies
    patch.setattr(View, "_applies", applies)


def any_snapshot_counts(patch):
    patch.setattr(View, "_taken", lambda self, fetch: self._owners.get(view.principal(fetch.address)))


def a_new_owner_is_not_asked(patch):
    patch.setattr(View, "owner_changed", lambda *_: [])


MUTANTS = [
    anybody_may_reply, anybody_may_cancel, anybody_may_publish_anything, anybody_may_call_anything,
    anybody_may_take_an_instances_name, a_request_is_sent_twice,
    the_loss_of_a_callee_is_told_as_if_nothing_was_delivered, a_lost_connection_is_forgotten,
    the_library_trusts_the_broker_to_end_calls, the_broker_ignores_deadlines, the_service_ignores_deadlines,
    every_attempt_runs_anew, credit_is_not_checked, old_credit_is_told_on_a_new_connection,
    what_is_dropped_leaves_no_hole, what_is_replaced_is_not_counted,
    a_new_subscriber_takes_the_last_batch_of_the_others, replies_overtake_events, the_queue_has_no_limit,
    holes_are_not_noticed, a_reset_is_ignored, old_changes_are_applied, any_snapshot_counts,
    a_new_owner_is_not_asked,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_without_this_rule_a_promise_breaks(mutant, monkeypatch):
    mutant(monkeypatch)
    bounded = settings(
        SEARCH, max_examples=EXAMPLES, stateful_step_count=40, phases=[Phase.generate], print_blob=False,
        report_multiple_bugs=False, database=None,
    )  # fmt: skip
    with pytest.raises((AssertionError, KeyError)):  # a promise is seen to be broken, or something crashes
        run_state_machine_as_test(Anything, settings=bounded)
