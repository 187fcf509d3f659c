"""Who uses what."""

from dataclasses import replace

from manor_bus.wire.messages.devices import Connect, ConnectionState, DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices.backends import Claim, Target
from manor_devices.connection import Connection
from manor_devices.uses import Uses, holds

S = ConnectionState
WRITE = Claim("8:1:77", "/images/a.raw", write=True)
READ = replace(WRITE, write=False)
SHARE = replace(WRITE, shareable=True)


def connection(domain, state=S.CONNECTED, **fields):
    key = DeviceKey(uuid=domain, incarnation=1, id="vda")
    disk = Disk(id="vda", volume="root")
    request = Connect(key=key, domain=domain, type="disk", disk=disk)
    return Connection(request=request, target=Target("file"), state=state, **fields)


def test_one_image_is_written_by_one_and_the_other_is_named():
    uses = Uses()
    uses.hold("web", connection("web", claims=(WRITE,)))
    assert uses.clash("db", (WRITE,)).reason == "/images/a.raw is being written by web/vda"
    assert uses.clash("db", (READ,)).reason == "/images/a.raw is being written by web/vda"
    assert uses.clash("web", (WRITE,)) is None


def test_many_may_read_and_a_writer_is_refused_meanwhile():
    uses = Uses()
    uses.hold("web", connection("web", claims=(READ,)))
    assert uses.clash("db", (READ,)) is None
    assert uses.clash("db", (WRITE,)).reason == "/images/a.raw is being read by web/vda"


def test_writers_share_when_both_say_so():
    uses = Uses()
    uses.hold("web", connection("web", claims=(SHARE,)))
    assert uses.clash("db", (SHARE,)) is None
    assert uses.clash("db", (WRITE,)) is not None


def test_what_is_given_back_may_be_taken():
    uses = Uses()
    uses.hold("web", connection("web", claims=(WRITE,)))
    uses.hold("web", connection("web", S.ABSENT))
    assert uses.clash("db", (WRITE,)) is None
    assert (uses.users("file"), uses.of_volume("root")) == ((), ())


def test_what_a_volume_stands_on_is_never_written_and_the_way_out_is_named():
    uses = Uses()
    uses.claim(("volume", "u"), "volume copy", (replace(READ, founded=True),))
    clash = uses.clash("web", (WRITE,))
    assert clash.reason == "/images/a.raw may only be read: volume copy stands on it"
    assert "readonly: true" in clash.hint
    assert uses.clash("web", (READ,)) is None


def test_users_of_back_ends_and_volumes_are_named():
    uses = Uses()
    assert uses.hold("web", connection("web", S.REQUESTED))
    assert not uses.hold("web", connection("web", S.PREPARING))
    assert uses.users("file") == ("web/vda",)
    assert uses.of_volume("root") == (("web/vda", True),)


def test_what_failed_and_was_undone_holds_nothing_and_what_is_being_released_does():
    assert not holds(connection("web", S.FAILED))
    assert holds(connection("web", S.FAILED, leaving=True))
    assert holds(connection("web", S.ORPHANED))
    assert not holds(connection("web", S.WAITING))
