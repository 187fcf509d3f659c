import pytest

from manor_bus.wire.messages.discovery import Find, Found
from manor_cli.app import CALL_S, WAIT_S, App
from tests.cli.fake import discovery, domain


def test_the_bus_is_met_only_when_it_is_needed():
    met = []
    app = App(
        connect=lambda settings: met.append(settings) or discovery(domain()), environment={"MANOR_DIR": "/x"}
    )
    assert met == []
    assert app.client is app.client
    assert len(met) == 1


def test_after_leaving_the_next_use_connects_anew():
    clients = []
    app = App(connect=lambda _: clients.append(discovery()) or clients[-1], environment={"MANOR_DIR": "/x"})
    first = app.client
    app.close()
    app.close()
    assert app.client is not first
    assert clients[0].closed == 1


@pytest.mark.parametrize(("timeout", "budget", "patience"), [(None, CALL_S, WAIT_S), (3.0, 3.0, 3.0)])
def test_the_budget_is_what_was_said_or_a_usual_one(timeout, budget, patience):
    app = App(environment={"MANOR_DIR": "/x"})
    app.configure(directory="", timeout=timeout)
    assert (app.budget, app.patience) == (budget, patience)


def test_a_call_passes_everything_on():
    client = discovery()
    app = App(connect=lambda _: client, environment={"MANOR_DIR": "/x"})
    app.call(Find(kind="node"), Found, timeout=4.0, key="k", at="n1")
    assert (client.timeouts, client.keys, client.at) == ([4.0], ["k"], ["n1"])


def test_answers_and_remarks_go_different_ways(capsys):
    app = App(environment={"MANOR_DIR": "/x"})
    app.out("answer")
    app.note("remark")
    assert capsys.readouterr() == ("answer\n", "remark\n")
