from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import (
    BackendList,
    BackendLoad,
    BackendsListed,
    BackendStatus,
    BackendUnload,
)
from tests.cli.fake import FakeClient, run

NBD = BackendStatus(name="nbd", state="loaded", version="1", classes=("disk",), in_use=2)


def test_back_ends_are_listed():
    ran = run("backend", "list", client=FakeClient({BackendList: BackendsListed(backends=(NBD,))}))
    assert "nbd" in ran.out
    assert "loaded" in ran.out


def test_loading_and_unloading_post_their_messages():
    client = FakeClient({BackendLoad: NBD, BackendUnload: NBD})
    run("backend", "load", "nbd", client=client)
    run("backend", "unload", "nbd", "--force", client=client)
    assert client.asked == [BackendLoad(name="nbd"), BackendUnload(name="nbd", force=True)]


def test_a_back_end_in_use_is_refused_with_who_uses_it():
    refused = ManorError(Kind.DENIED_STATE, "used by web/root", hint="detach it first")
    ran = run("backend", "unload", "nbd", client=FakeClient({BackendUnload: refused}))
    assert ran.code == 5
    assert "web/root" in ran.err
