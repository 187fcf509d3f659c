"""What must be done so that a volume's file is as its document says."""

import dataclasses

import msgspec
import pytest

from manor_bus.wire.messages.documents import VolumeSpec
from manor_devices.volumes import (
    Delete,
    Forget,
    Grow,
    Image,
    Make,
    Refuse,
    Rest,
    Seen,
    VolumeRecord,
    Wait,
    plan,
)

SPEC = VolumeSpec(size_mib=100)
BASE = Image("/v/base.qcow2", "qcow2", 50)


def record(spec=SPEC, *, made=True, size_mib=100):
    return VolumeRecord(uuid="u", name="root", path="/v/root", spec=spec, made=made, size_mib=size_mib)


def spec(**fields):
    return msgspec.structs.replace(SPEC, **fields)


NEW = record(made=False)


@pytest.mark.parametrize(
    ("wanted", "known", "seen", "action"),
    [
        (SPEC, NEW, Seen(), Make()),
        (spec(clone_of="base"), NEW, Seen(base=BASE), Make(BASE)),
        (spec(clone_of="base", format="raw"), NEW, Seen(base=BASE), Make(BASE, copied=True)),
        (spec(backing_file="/b", backing_format="raw"), NEW, Seen(base=BASE), Make(BASE)),
        (SPEC, record(), Seen(exists=True), Rest()),
        (SPEC, record(), Seen(exists=True, users=("web/vda",)), Rest()),
        (spec(size_mib=200), record(), Seen(exists=True), Grow(200)),
        (None, record(), Seen(exists=True), Delete()),
        (None, record(), Seen(), Delete()),
        (None, record(spec(keep=True)), Seen(exists=True), Forget()),
        (None, NEW, Seen(), Delete()),
    ],
)
def test_the_next_thing_to_do(wanted, known, seen, action):
    assert plan(wanted, known, seen) == action


@pytest.mark.parametrize(
    ("wanted", "known", "seen", "kind", "reason"),
    [
        (spec(clone_of="base"), NEW, Seen(base_missing="not ready"), Wait, "not ready"),
        (spec(size_mib=200), record(), Seen(exists=True, users=("web/vda",)), Wait, "detached from web/vda"),
        (None, record(), Seen(exists=True, users=("web/vda",)), Wait, "no longer used by web/vda"),
        (None, record(), Seen(exists=True, clones=("copy",)), Wait, "no longer used by copy"),
        (spec(size_mib=50), record(), Seen(exists=True), Rest, "not made smaller"),
        (spec(format="raw"), record(), Seen(exists=True), Rest, "format cannot change"),
        (spec(pool="fast", clone_of="x"), record(), Seen(exists=True), Rest, "pool, clone_of cannot change"),
        (spec(size_mib=200), record(), Seen(exists=True, clones=("copy",)), Rest, "copy share its clusters"),
        (SPEC, record(), Seen(gone="its file /v/root is gone"), Refuse, "its file /v/root is gone"),
        (SPEC, dataclasses.replace(NEW, deleted=7), Seen(), Refuse, "its content was deleted in revision 7"),
        (spec(pool="../etc"), NEW, Seen(), Refuse, "pool '../etc' must be"),
        (spec(clone_of="base", size_mib=40), NEW, Seen(base=BASE), Refuse, "at least 50"),
    ],
)
def test_what_cannot_be_done_now_or_ever_says_why(wanted, known, seen, kind, reason):
    action = plan(wanted, known, seen)
    assert isinstance(action, kind)
    assert reason in action.reason
