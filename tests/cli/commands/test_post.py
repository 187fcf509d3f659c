import pytest

from manor_bus.wire.messages.config import Restore
from manor_bus.wire.messages.lifecycle import DomainStart
from tests.cli.fake import FakeClient, run


def answering(reply=None, parts=()):
    return FakeClient({str: reply or {"id": "op-1"}}, {str: parts})


def test_a_call_by_hand_is_posted_as_its_type():
    client = answering()
    ran = run("call", "lifecycle.domain.start", '{"name": "web"}', "--key", "k", "--at", "n1", client=client)
    assert client.raw == [("lifecycle.domain.start@n1", DomainStart(name="web"), "k")]
    assert ran.json == {"id": "op-1"}


def test_the_body_may_come_from_standard_input_or_be_left_out():
    client = answering()
    run("call", "lifecycle.domain.start", "-", client=client, typed='{"name": "db"}')
    run("call", "exporter.any.thing", client=client)
    assert [data for _, data, _ in client.raw] == [DomainStart(name="db"), {}]


def test_bytes_are_written_as_base64():
    client = answering()
    run("call", "config.restore", '{"upload": "u", "offset": 0, "content": "AAE="}', client=client)
    assert client.raw[0][1] == Restore(upload="u", offset=0, content=b"\x00\x01")


def test_partial_replies_come_before_the_reply():
    ran = run(
        "call", "discovery.find", '{"kind": "node"}', "--compact", client=answering({"count": 1}, [{"a": 1}])
    )
    assert ran.out == '{"a":1}\n{"count":1}\n'


@pytest.mark.parametrize("body", ["{name: web}", "{", '"\\ud800"', "nul"])
def test_a_body_that_is_no_json_is_refused(body):
    ran = run("call", "lifecycle.domain.start", body, client=answering())
    assert ran.code == 2
    assert "single quotes" in ran.err or "BODY" in ran.err


def test_a_body_that_does_not_fit_is_refused_with_its_path():
    client = answering()
    ran = run("call", "lifecycle.domain.shutdown", '{"name": "web", "timeout_s": "soon"}', client=client)
    assert ran.code == 2
    assert "timeout_s" in ran.err
    assert "manor schema lifecycle.domain.shutdown" in ran.err
    assert client.raw == []


def test_news_are_published_under_their_type():
    client = FakeClient()
    run("publish", "operator.admin.note", '{"text": "noon"}', client=client)
    run("publish", "operator.admin.note", "--type", "note.v2", client=client)
    assert client.published == [
        ("operator.admin.note", "operator.admin.note.v1", {"text": "noon"}),
        ("operator.admin.note", "note.v2", {}),
    ]


def test_a_key_that_stands_twice_is_refused_as_in_files():
    ran = run("call", "bus.peers", '{"a": {"name": 1, "name": 2}}', client=answering())
    assert ran.code == 2
    assert "the key 'name' stands twice" in ran.err
