import pytest

from manor_bus.peer.events import Change as News
from manor_bus.peer.events import Synced
from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.config import Change
from manor_bus.wire.messages.devices import VolumeStatus
from manor_bus.wire.messages.lifecycle import (
    OperationFollow,
    OperationList,
    OperationShow,
    OperationsListed,
    OperationState,
    PendingChange,
    State,
)
from manor_cli import settle
from manor_cli.app import App
from tests.cli.fake import FakeClient, domain, operation

LATER = 4_000_000_000.0


def changed(kind, name, revision, action="changed"):
    return Change(kind=kind, name=name, uuid=f"uuid-of-{name}", action=action, revision=revision)


def news(status):
    return News(f"domain.{status.uuid}", status)


def wait(changes, events, operations=(), followed=None, **more):
    answers = {
        OperationList: OperationsListed(operations=tuple(operations)),
        OperationShow: operation(OperationState.RUNNING, id="op-9"),
        OperationFollow: followed or operation(id="op-9"),
    }
    client = FakeClient(answers, changes=[Synced(), *events])
    app = App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"}, tty=False)
    settle.wait(app, changes, **more)
    return client


def test_it_waits_until_the_domain_has_taken_the_revision_in_and_rests(capsys):
    events = [news(domain(revision=4)), news(domain(revision=5, operation="op-9")), news(domain(revision=5))]
    client = wait([changed("Domain", "web", 5)], events)
    assert client.patterns == [("domain.uuid-of-web", True)]
    assert capsys.readouterr().out == "domain/web is RUNNING\n"


def test_what_is_about_to_be_begun_is_no_rest(capsys):
    due = domain(revision=5, state=State.DEFINED, conditions=("DUE",))
    wait([changed("Domain", "web", 5)], [news(due), news(domain(revision=5))])
    assert capsys.readouterr().out == "domain/web is RUNNING\n"


def test_the_operation_that_brings_the_change_is_followed_once():
    busy = news(domain(revision=5, operation="op-9"))
    client = wait([changed("Domain", "web", 5)], [busy, busy, news(domain(revision=5))])
    assert [type(one) for one in client.asked] == [OperationShow, OperationFollow, OperationList]


def test_a_change_whose_operation_failed_is_an_error():
    failed = operation(
        OperationState.FAILED, ended=LATER, error=ErrorBody(kind=Kind.NO_CAPACITY, message="full")
    )
    with pytest.raises(ManorError, match="full"):
        wait([changed("Domain", "web", 5)], [news(domain(revision=5, state=State.DEFINED))], [failed])


def test_an_old_failure_is_no_error_of_this_change():
    failed = operation(
        OperationState.FAILED, ended=1.0, error=ErrorBody(kind=Kind.NO_CAPACITY, message="full")
    )
    wait([changed("Domain", "web", 5)], [news(domain(revision=5))], [failed])


def test_what_waits_for_the_next_start_is_told(capsys):
    pending = (PendingChange(path="spec.machine", old="a", new="b"),)
    wait([changed("Domain", "web", 5)], [news(domain(revision=5, pending=pending, reason="why"))])
    assert "RUNNING (why), 1 change for its next start" in capsys.readouterr().out


def test_several_domains_are_waited_for_with_one_watch():
    events = [news(domain("b", revision=5)), news(domain("c")), news(domain("a", revision=6))]
    client = wait([changed("Domain", "a", 5), changed("Domain", "b", 5)], events)
    assert client.patterns == [("domain.*", True)]


def test_volumes_come_before_the_domains_that_use_them():
    volume = News("volume.root", VolumeStatus(name="root", uuid="u", state="ready", revision=5))
    client = wait(
        [changed("Domain", "web", 5), changed("Volume", "root", 5)], [volume, news(domain(revision=5))]
    )
    assert [pattern for pattern, _ in client.patterns] == ["volume.root", "domain.uuid-of-web"]


def test_a_volume_that_cannot_be_made_is_an_error():
    failed = VolumeStatus(name="root", uuid="u", state="failed", revision=5, reason="no space")
    with pytest.raises(ManorError, match="no space") as caught:
        wait([changed("Volume", "root", 5)], [News("volume.root", failed)])
    assert caught.value.kind is Kind.DENIED_STATE  # no fault of ours


def test_what_a_volume_waits_for_is_told_at_once_and_at_the_end(capsys):
    waits = VolumeStatus(name="new", uuid="u", state="creating", revision=5, reason="web writes to its base")
    with pytest.raises(ManorError, match="web writes to its base"):
        wait([changed("Volume", "new", 5)], [News("volume.new", waits), News("volume.new", waits)])
    assert capsys.readouterr().err == "volume/new waits: web writes to its base\n"


def test_what_a_volume_does_later_is_told(capsys):
    later = VolumeStatus(name="new", uuid="u", state="ready", revision=5, reason="it grows when it is free")
    wait([changed("Volume", "new", 5)], [News("volume.new", later)])
    assert capsys.readouterr().out == "volume/new is ready (it grows when it is free)\n"


def test_a_failure_of_another_device_is_none_of_this_one():
    failed = operation(
        OperationState.FAILED, ended=LATER, error=ErrorBody(kind=Kind.NO_CAPACITY, message="full")
    )
    other = PendingChange(path="spec.devices[b]", old="", new="attached", applies="in-progress")
    status = news(domain(revision=5, pending=(other,)))
    wait([changed("Domain", "web", 5)], [status], [failed], device="c")
    with pytest.raises(ManorError, match="full"):
        wait([changed("Domain", "web", 5)], [status], [failed], device="b")


def test_what_did_not_change_is_judged_as_what_did():
    failed = {
        "state": OperationState.FAILED,
        "ended": 1.0,
        "error": ErrorBody(kind=Kind.NO_CAPACITY, message="full"),
    }
    as_before, rests = changed("Domain", "web", 5, "unchanged"), news(domain(revision=5))
    with pytest.raises(ManorError, match="full"):
        wait([as_before], [rests], [operation(**failed, who="lifecycle@n1")])
    wait([as_before], [rests], [operation(**failed, who="operator/me")])  # that was no wish of the document
    broken = VolumeStatus(name="root", uuid="u", state="failed", reason="no image", revision=3)
    with pytest.raises(ManorError, match="no image"):
        wait([changed("Volume", "root", 3, "unchanged")], [News("volume.root", broken)])


def test_what_was_deleted_is_not_waited_for():
    assert wait([changed("Domain", "web", 5, "deleted")], []).patterns == []


def test_when_the_time_is_over_it_says_that_the_change_is_stored():
    with pytest.raises(ManorError) as caught:
        wait([changed("Domain", "web", 5)], [news(domain(revision=4)), News("domain.uuid-of-web", None)])
    assert caught.value.kind is Kind.TIMEOUT
    assert "stored" in caught.value.message


def test_only_what_waits_for_the_next_start_is_said_to():
    def pending(path, applies):
        return PendingChange(path=path, old="1", new="2", applies=applies)

    kinds = ["next-start", "in-progress", "next-start", "asked", "refused"]
    status = domain(pending=tuple(pending(f"spec.{at}", one) for at, one in enumerate(kinds)))
    assert settle.told(status) == (
        "domain/web is RUNNING, 1 change asked for again and again, 1 change in progress,"
        " 2 changes for its next start, 1 change refused (see `manor describe`)"
    )
