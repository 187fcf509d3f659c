import pytest

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import DomainStart, OperationFollow, OperationState
from manor_cli import follow
from tests.cli.fake import FakeClient, operation, run

RUNNING = operation(OperationState.RUNNING, step="create", progress=0.25)
STEPS = [RUNNING, operation(OperationState.RUNNING, step="plug root", progress=0.5)]
FAILURE = ErrorBody(kind=Kind.NO_CAPACITY, message="no memory left", hint="free some")


def bus(last=None, **more):
    return FakeClient(
        {DomainStart: RUNNING, OperationFollow: last or operation()}, {OperationFollow: STEPS}, **more
    )


def test_an_operation_is_followed_step_by_step_to_its_end():
    ran = run("start", "web", client=bus())
    assert ran.code == 0
    assert ran.out == "start web: done\n"
    assert ran.err == "start web: create (25%)\nstart web: plug root (50%)\n"


def test_each_step_is_told_once():
    client = FakeClient(
        {DomainStart: RUNNING, OperationFollow: operation()}, {OperationFollow: [RUNNING] * 5}
    )
    assert run("start", "web", client=client).err.count("create") == 1


def test_progress_is_drawn_on_a_terminal():
    ran = run("start", "web", client=bus(), tty=True)
    assert ran.code == 0
    assert ran.out == "start web: done\n"


def test_without_waiting_the_id_is_told():
    client = bus()
    ran = run("start", "web", "--no-wait", client=client)
    assert ran.out == "start web: running as op-1\n"
    assert [type(one) for one in client.asked] == [DomainStart]
    assert run("start", "web", "--no-wait", "-o", "name", client=bus()).out == "op-1\n"


def test_a_failed_operation_fails_the_command_with_its_own_kind():
    ran = run("start", "web", client=bus(operation(OperationState.FAILED, error=FAILURE)))
    assert ran.code == 7
    assert "error: no_capacity: no memory left" in ran.err
    assert "hint: free some" in ran.err
    assert ran.out == ""


def test_a_cancelled_operation_fails_the_command():
    ran = run("start", "web", client=bus(operation(OperationState.CANCELLED)))
    assert ran.code == 4
    assert "was cancelled" in ran.err


def test_programs_get_the_operation_whole_also_when_it_failed():
    ran = run("start", "web", "-o", "json", client=bus(operation(OperationState.FAILED, error=FAILURE)))
    assert ran.json["error"]["message"] == "no memory left"
    assert ran.code == 7


def test_an_operation_that_ended_at_once_is_not_followed():
    client = FakeClient({DomainStart: operation()})
    assert run("start", "web", client=client).code == 0
    assert len(client.asked) == 1


def test_the_operation_id_is_chosen_here_so_that_a_retry_is_the_same_operation():
    client = bus()
    run("start", "web", client=client)
    assert client.keys[0].startswith("op-")
    assert follow.new_id() != follow.new_id()


def test_ctrl_c_leaves_the_operation_running_and_says_how_to_end_it():
    def interrupt(_):
        raise KeyboardInterrupt

    client = FakeClient({DomainStart: RUNNING, OperationFollow: interrupt})
    ran = run("start", "web", client=client)
    assert ran.code == 130
    assert "manor ops cancel op-1" in ran.err


def test_a_wait_that_took_too_long_says_that_it_goes_on():
    client = FakeClient({DomainStart: RUNNING, OperationFollow: ManorError(Kind.TIMEOUT, "late")})
    ran = run("start", "web", client=client)
    assert ran.code == 9
    assert "manor ops show op-1" in ran.err


def test_results_are_told():
    ran = run("save", "web", client=_saving(result={"path": "/srv/web.save"}))
    assert ran.out == "save web: done\n  path: /srv/web.save\n"


def _saving(**more):
    from manor_bus.wire.messages.lifecycle import DomainSave

    return FakeClient({DomainSave: operation(kind="save", **more)})


@pytest.mark.parametrize("state", list(OperationState))
def test_only_a_good_end_is_no_error(state):
    if state in (OperationState.FAILED, OperationState.CANCELLED):
        with pytest.raises(ManorError):
            follow.check(operation(state))
    else:
        follow.check(operation(state))
