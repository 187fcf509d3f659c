import json

import msgspec

from manor_bus.peer.events import Change, Synced
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.messages.bus import RingEvent, RingListed, RingRead
from manor_bus.wire.messages.discovery import Find, Found
from tests.cli.fake import NOW, FakeClient, discovery, domain, run

WEB = Change("domain.u1", domain(), "service/lifecycle@n1/1", "e1", 4)
GONE = Change("domain.u1", None, "service/lifecycle@n1/1", "e1", 5)


def test_each_change_is_a_line():
    client = FakeClient(changes=[WEB, Synced(), GONE])
    told = run("watch", client=client).out.splitlines()
    assert [line.split(" ", 1)[1] for line in told] == [
        "domain.u1 web RUNNING generation 7 on n1",
        "domain.u1 gone",
    ]
    assert client.patterns == [("domain.*", True)]


def test_programs_get_one_object_a_line_with_cloudevents_names():
    told = run("watch", "domain.*", "-o", "json", client=FakeClient(changes=[WEB, GONE])).out.splitlines()
    first, last = map(json.loads, told)
    assert first.keys() >= {"specversion", "id", "source", "type", "subject", "time", "data", "k"}
    assert first["data"]["name"] == "web"
    assert last["data"] is None


def test_a_domain_given_by_its_name_is_watched_by_its_uuid():
    client = discovery(domain(), changes=[WEB])
    run("watch", "domain.web", client=client)
    assert client.patterns == [("domain.uuid-of-web", True)]


def test_once_ends_when_everything_there_is_has_been_told():
    ran = run("watch", "--once", client=discovery(changes=[WEB, Synced(), GONE]))
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)


def test_once_says_when_it_was_not_all_there_is():
    partial = Found(count=0, complete=False, missing=("service/lifecycle@n1 is gone since 3 s",))
    ran = run("watch", "--once", client=discovery(answers={Find: partial}, changes=[WEB, Synced()]))
    assert (ran.code, "service/lifecycle@n1" in ran.err) == (8, True)


def test_a_count_ends_it():
    told = run("watch", "-n", "1", client=FakeClient(changes=[WEB, GONE])).out
    assert len(told.splitlines()) == 1


def test_changes_alone_need_no_snapshot():
    client = FakeClient()
    run("watch", "--changes-only", client=client)
    assert client.patterns == [("domain.*", False)]


def test_past_events_come_first_page_by_page():
    wire = Envelope(k=Kind.PUB, subject="x.y", type="x.v1", data=msgspec.Raw(codec.encode({"a": 1})))
    event = RingEvent(n=8, at=NOW, sender="s", envelope=codec.encode(wire))
    pages = {7: RingListed(events=(event,), first=1, last=8), 8: RingListed(events=(), first=1, last=8)}
    client = FakeClient({RingRead: lambda request: pages[request.since]})
    told = json.loads(run("watch", "x.>", "--since", "7", "-o", "json", client=client).out)
    assert (told["n"], told["subject"], told["data"]) == (8, "x.y", {"a": 1})
    assert client.asked[0] == RingRead(pattern="x.>", since=7)
    assert client.patterns == [("x.>", False)]


def test_a_count_ends_the_past_events_too():
    wire = Envelope(k=Kind.PUB, subject="x.y", type="x.v1")
    past = tuple(RingEvent(n=n, at=NOW, sender="s", envelope=codec.encode(wire)) for n in (1, 2, 3))
    client = FakeClient({RingRead: RingListed(events=past, first=1, last=3)}, changes=[WEB])
    assert len(run("watch", "x.>", "--since", "0", "-n", "2", client=client).out.splitlines()) == 2
    assert client.patterns == []
