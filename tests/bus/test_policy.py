import pytest

from manor_bus.broker import policy
from manor_bus.broker.policy import Decision, Decisions, decide
from manor_bus.wire.messages.catalogue import CALLS, EVENTS


def allowed(label, verb, subject):
    return decide(label, verb, subject).allowed


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.subject)
def test_operators_may_make_every_call_but_configs_and_observers_none_but_what_a_watcher_asks(call):
    assert allowed("operator/admin", "call", call.subject) is (call.subject != policy.CONFIG_ONLY)
    assert allowed("observer/eye", "call", call.subject) is (call.subject in policy.QUESTIONS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.subject)
def test_services_may_make_every_call_but_end_no_session_and_only_config_passes_keys_on(call):
    assert allowed("service/config", "call", call.subject) is (call.subject not in policy.OPERATORS_ONLY)
    denied = (*policy.OPERATORS_ONLY, policy.CONFIG_ONLY)
    assert allowed("service/devices", "call", call.subject) is (call.subject not in denied)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_every_event_of_the_catalogue_may_be_published_by_its_owner_and_by_no_other(event):
    for pattern in event.patterns:
        for name in policy.PUBLISHES:
            assert allowed(f"service/{name}", "publish", pattern) is (name == event.owner)
        assert not allowed("operator/admin", "publish", pattern)
        assert allowed("observer/eye", "watch", pattern)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.subject)
def test_a_service_serves_its_own_subjects_only(call):
    room = call.subject.partition(".")[0]
    assert allowed(f"service/{room}", "serve", f"{room}.>") is (room not in ("bus", "srv"))
    assert not allowed("service/other", "serve", call.subject)
    assert not allowed("operator/admin", "serve", call.subject)


@pytest.mark.parametrize(
    ("label", "verb", "subject"),
    [
        ("", "call", "a"), ("operator", "publish", "operator..x"), ("guest/x", "watch", "domain.web"),
        ("service/config", "tap", ">"), ("observer/eye", "tap", ">"), ("observer/eye", "serve", "observer.>"),
        ("operator/admin", "serve", "operator.>"), ("service/bus", "publish", "bus.peer.x"),
        ("service/srv", "serve", "srv.>"), ("service/operator", "publish", "operator.admin.x"),
        ("service/config", "serve", ">"), ("service/config", "publish", ">"), ("operator/a", "fly", "x"),
    ],
)  # fmt: skip
def test_what_no_rule_allows_is_denied(label, verb, subject):
    assert not allowed(label, verb, subject)


def test_operators_publish_under_their_own_name():
    assert allowed("operator/alice", "publish", "operator.alice.note")
    assert not allowed("operator/alice", "publish", "operator.bob.note")


def test_a_third_party_service_owns_its_own_name():
    assert allowed("service/backup", "serve", "backup.>")
    assert allowed("service/backup", "publish", "backup.job.1")
    assert not allowed("service/backup", "publish", "config.x")


@pytest.mark.parametrize("kind", ["provider", "resource"])
def test_a_third_party_publishes_providers_and_resources_under_its_own_name_alone(kind):
    assert allowed("service/nbd", "publish", f"{kind}.nbd")
    assert allowed("service/nbd", "publish", f"{kind}.nbd-disk1")
    for token in ("n1-file", "nbdx", "*", ">", "nbd.x"):
        assert not allowed("service/nbd", "publish", f"{kind}.{token}")


@pytest.mark.parametrize("name", ["domain", "node", "service", "provider", "resource", "bus"])
def test_no_key_is_called_like_what_others_own(name):
    for subject in (f"{name}.x", f"{name}.>", "provider.x"):
        assert not allowed(f"service/{name}", "publish", subject)


def test_every_decision_says_by_which_rule():
    for label in ("operator/a", "observer/a", "service/config", "guest/a"):
        for verb in ("serve", "publish", "call", "watch", "tap"):
            assert decide(label, verb, "config.x").rule


def test_a_decision_is_remembered_until_the_policy_changes():
    asked = []

    def first(*question):
        asked.append(question)
        return Decision(True, "first")

    decisions = Decisions(first)
    assert [decisions("a", "call", "x").rule for _ in range(3)] == ["first"] * 3
    assert len(asked) == 1
    decisions.replace(lambda *_: Decision(False, "second"))
    assert decisions("a", "call", "x").rule == "second"


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(policy, "DECISIONS_MAX", 3)
    asked = []

    def decided(*question):
        asked.append(question)
        return Decision(True, "")

    decisions = Decisions(decided)
    for subject in "abcda":
        decisions("l", "call", subject)
    assert len(asked) == 5
