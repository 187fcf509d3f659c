import io
import json

import msgpack
import msgspec

from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import Kind as ErrorKind
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages.lifecycle import DomainStart
from tests.cli.fake import FakeClient, run
from tests.cli.runner.test_instances import peer

CALL = Envelope(
    k=Kind.REQ,
    id="a1",
    to="lifecycle.domain.start@n1",
    type="lifecycle.domain.start.v1",
    timeout=5000,
    idempotencykey="op-1",
    data=msgspec.Raw(codec.encode(DomainStart(name="web"))),
)
EVENT = Envelope(k=Kind.PUB, subject="x.y", type="x.v1", data=msgspec.Raw(codec.encode({"a": 1})))
PASSED = [("operator/a@n1/1", CALL), ("service/x@n1/2", EVENT)]


def test_who_is_attached_what_is_under_way_and_who_watches():
    call = words.PendingView(
        caller="operator/a@n1/1",
        callee="service/x@n1/2",
        to="x.y",
        id="1",
        age_ms=500,
        left_ms=9500,
        queued=False,
    )
    sub = words.SubView(
        address="operator/a@n1/1",
        sid=1,
        pattern="domain.*",
        policy="gap",
        sent=1,
        dropped=0,
        coalesced=0,
        outstanding=0,
    )
    client = FakeClient(
        {
            words.Peers: words.PeersListed(peers=(peer("service/config", "a1"),)),
            words.Pending: words.PendingListed(pending=(call,)),
            words.Subs: words.SubsListed(subs=(sub,)),
        }
    )
    assert "service/config@n1/a1" in run("bus", "top", client=client).out
    assert "9.5s" in run("bus", "top", "calls", client=client).out
    assert (
        run("bus", "top", "watches", "--once", "-o", "json", client=client).json[0]["pattern"] == "domain.*"
    )


def test_everything_that_passes_is_printed():
    client = FakeClient(messages=PASSED)
    told = run("bus", "tap", client=client).out.splitlines()
    assert told[0].startswith("REQ    operator/a@n1/1 -> lifecycle.domain.start@n1")
    assert told[1] == 'PUB    service/x@n1/2 -> x.y {"a":1}'
    assert client.patterns == [(">", True)]


def test_a_tap_can_end_after_some_messages():
    told = run("bus", "tap", "x.>", "-n", "1", "-o", "json", client=FakeClient(messages=PASSED)).out
    assert json.loads(told)["data"]["name"] == "web"


def test_the_policy_is_asked_without_doing_it():
    client = FakeClient({words.Explain: words.Explained(allowed=False, rule="observers may only watch")})
    ran = run("bus", "explain", "observer/g", "call", "lifecycle.domain.start", client=client)
    assert ran.out == "denied: observers may only watch\n"
    assert client.asked == [words.Explain(label="observer/g", verb="call", subject="lifecycle.domain.start")]


def test_a_recording_can_be_printed_as_it_passed(tmp_path):
    file = str(tmp_path / "passed.record")
    assert run("bus", "record", file, client=FakeClient(messages=PASSED)).out == f"{file}: 2 messages\n"
    told = run("bus", "replay", file, client=FakeClient()).out.splitlines()
    assert told == run("bus", "tap", client=FakeClient(messages=PASSED)).out.splitlines()


def test_a_recording_keeps_what_the_sender_wrote(tmp_path):
    run("bus", "record", str(tmp_path / "r"), "--events-only", client=FakeClient(messages=PASSED))
    _, sender, envelope = next(msgpack.Unpacker(io.BytesIO((tmp_path / "r").read_bytes())))
    assert (sender, codec.decode(envelope, Envelope)) == ("operator/a@n1/1", CALL)


def test_of_a_recording_that_breaks_off_the_whole_messages_are_printed(tmp_path):
    run("bus", "record", str(tmp_path / "r"), client=FakeClient(messages=PASSED))
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:-3])
    ran = run("bus", "replay", str(tmp_path / "r"), client=FakeClient())
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)


def test_the_calls_of_a_recording_can_be_made_again_with_new_ids(tmp_path):
    file = str(tmp_path / "r")
    run("bus", "record", file, client=FakeClient(messages=PASSED))
    client = FakeClient({str: {"id": "op-2"}})
    ran = run("bus", "replay", file, "--send", client=client)
    assert client.raw == [("lifecycle.domain.start", {"name": "web"}, "")]
    assert ran.out == 'lifecycle.domain.start: {"id":"op-2"}\n'


def test_a_refused_repetition_does_not_end_the_replay(tmp_path):
    file = str(tmp_path / "r")
    run("bus", "record", file, client=FakeClient(messages=PASSED * 2))
    client = FakeClient({str: ManorError(ErrorKind.FORBIDDEN, "no")})
    assert run("bus", "replay", file, "--send", client=client).out.count("forbidden: no") == 2


def test_a_file_that_is_no_recording_is_refused_with_its_piece(tmp_path):
    (tmp_path / "r").write_text("nonsense\n")
    ran = run("bus", "replay", str(tmp_path / "r"), client=FakeClient())
    assert ran.code == 2
    assert "r:1" in ran.err


def test_ctrl_c_ends_a_recording_with_what_it_has(tmp_path):
    class Interrupted(FakeClient):
        def items(self, *_, **__):
            yield PASSED[0]
            raise KeyboardInterrupt

    ran = run("bus", "record", str(tmp_path / "r"), client=Interrupted())
    assert ran.code == 0
    assert ran.out.endswith(": 1 messages\n")
