import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OWNED, KeyValue, OwnerRecord, Range, Ranged, Txn, TxnDone
from manor_cli import owners
from manor_cli.app import App
from tests.cli.fake import FakeClient


class Store(FakeClient):
    """Records of owners by uuid, two to a page."""

    def __init__(self, records, succeeds=True):
        super().__init__({Range: self.range, Txn: self.txn})
        self.records, self.succeeds = dict(records), succeeds

    def range(self, request):
        rows = [
            KeyValue(key=OWNED + uuid, value=value, revision=7, created=1)
            for uuid, value in sorted(self.records.items())
            if OWNED + uuid > request.after and (OWNED + uuid).startswith(request.prefix)
        ]
        return Ranged(entries=tuple(rows[:2]), revision=9, more=len(rows) > 2)

    def txn(self, request):
        for put in request.puts if self.succeeds else ():
            self.records[put.key.removeprefix(OWNED)] = put.value
        return TxnDone(succeeded=self.succeeds, revision=9)


def record(node, **more):
    return msgspec.json.encode(OwnerRecord(node=node, **more))


def app(client):
    return App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere", "MANOR_NODE": "n1"}, tty=False)


RECORDS = {"a": record("n1"), "b": record("n2", token=4, incarnation=3), "c": b"?", "d": record("n2")}


def test_what_belongs_to_nodes_that_are_not_here_is_counted():
    assert owners.elsewhere(app(Store(RECORDS)), {"n1"}) == {"n2": 2}
    assert owners.elsewhere(app(Store(RECORDS)), {"n1", "n2"}) == {}


def test_that_owners_are_not_known_is_told_and_not_fatal(capsys):
    asking = app(FakeClient({Range: ManorError(Kind.UNAVAILABLE, "config is away")}))
    assert owners.elsewhere(asking, ()) == {}
    assert asking.partial
    assert "config is away" in capsys.readouterr().err


def test_what_is_taken_over_keeps_its_run_and_carries_a_new_token():
    client = Store(RECORDS)
    assert owners.take(app(client), {"n2"}) == 2
    assert msgspec.json.decode(client.records["b"]) == {"node": "n1", "token": 5, "incarnation": 3} | {
        key: value for key, value in msgspec.to_builtins(OwnerRecord(node="")).items()
        if key not in ("node", "token", "incarnation")
    }  # fmt: skip
    assert client.records["a"] == RECORDS["a"]
    (change,) = [one for one in client.asked if isinstance(one, Txn)]
    assert {one.revision for one in change.compares} == {7}
    assert owners.take(app(client), {"n2"}) == 0


def test_a_record_that_changed_meanwhile_is_a_conflict():
    with pytest.raises(ManorError) as caught:
        owners.take(app(Store(RECORDS, succeeds=False)), {"n2"})
    assert caught.value.kind is Kind.CONFLICT
