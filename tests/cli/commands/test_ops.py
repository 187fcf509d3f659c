from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.lifecycle import (
    OperationCancel,
    OperationFollow,
    OperationList,
    OperationShow,
    OperationsListed,
    OperationState,
)
from tests.cli.fake import FakeClient, operation, run

FAILED = operation(
    OperationState.FAILED,
    step="create",
    steps=("claim", "create"),
    progress=0.5,
    error=ErrorBody(kind=Kind.NO_CAPACITY, message="full", hint="free some"),
)


def listing(*operations):
    return FakeClient({OperationList: OperationsListed(operations=operations)})


def test_the_list_has_the_fields_that_programs_rely_on():
    ran = run("ops", "list", "-o", "json", client=listing(FAILED))
    assert ran.json[0].keys() >= {"id", "kind", "target", "state", "step", "progress", "error"}
    assert ran.json[0]["error"]["kind"] == "no_capacity"


def test_the_list_can_be_narrowed():
    client = listing()
    run("ops", "list", "web", "--active", "-n", "5", client=client)
    assert client.asked == [OperationList(target="web", active=True, limit=5)]


def test_people_see_why_an_operation_failed():
    told = run("ops", "list", client=listing(FAILED)).out
    assert "no_capacity: full" in told
    assert "50%" in told


def test_one_operation_is_shown_with_its_steps_and_what_to_do():
    running = operation(OperationState.RUNNING, step="create", steps=("claim", "create"))
    ran = run("ops", "show", "op-1", client=FakeClient({OperationShow: running}))
    assert "    1 claim\n>  2 create" in ran.out.replace("   1", "    1")
    assert "hint: free some" in run("ops", "show", "op-1", client=FakeClient({OperationShow: FAILED})).err


def test_one_operation_can_be_followed_to_its_end():
    client = FakeClient({OperationShow: operation(OperationState.RUNNING), OperationFollow: operation()})
    assert run("ops", "show", "op-1", "--follow", "-o", "json", client=client).json["state"] == "done"


def test_cancelling_says_where_it_stands():
    client = FakeClient({OperationCancel: operation(OperationState.CANCELLING)})
    ran = run("ops", "cancel", "op-1", client=client)
    assert ran.out == "op-1: cancelling\n"
    assert "manor ops show op-1 --follow" in ran.err
    assert client.asked == [OperationCancel(id="op-1")]
