import pytest

from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart, NodeStatus
from manor_cli.app import App
from manor_cli.runner import identity, instances, present, starting
from tests.cli.fake import run
from tests.cli.test_owners import RECORDS, Store


@pytest.fixture
def node(tmp_path):
    run("init", "--node", "n1", directory=tmp_path)
    return tmp_path


@pytest.fixture
def store(monkeypatch):
    """A bus with node n1, and config; lifecycle is restarted by nobody."""
    made = Store(RECORDS)
    made.answers = {**made.answers, Find: Found(count=1)}
    made.parts = {Find: [FoundPart(entries=(Entry(fact=NodeStatus(name="n1"), owner="x", since=1.0),))]}
    made.restarted = []
    monkeypatch.setattr(instances, "restart", lambda _, name: made.restarted.append(name))
    return made


def test_a_node_is_renamed_while_it_is_down(node):
    assert run("node", "rename", "n2", directory=node).out == "node n1 is n2 from its next `manor up` on\n"
    assert (node / "node").read_text() == "n2\n"
    assert identity.read(node).former == ("n1",)
    run("node", "rename", "n1", directory=node)
    assert identity.read(node).former == ("n2",)
    assert run("init", "--node", "n9", directory=node).code == 4
    assert run("node", "rename", "N", directory=node).code == 2
    assert run("node", "rename", "n9", directory=node / "elsewhere").code == 3


def test_a_node_whose_guests_run_keeps_its_name(node, monkeypatch):
    monkeypatch.setattr(present, "guests", lambda _: [identity.present.Identity(7, 1, "")])
    ran = run("node", "rename", "n2", directory=node)
    assert ran.code == 5
    (node / "node").write_text("n2\n")  # nor does an edited file change it
    assert run("init", directory=node).code == 5
    (node / "node").write_text("n1\n")
    assert run("init", directory=node).code == 0


def test_a_lost_name_is_the_one_that_is_remembered(node):
    (node / "node").write_text("")
    assert "created node name n1" in run("init", directory=node).out
    assert (node / "node").read_text() == "n1\n"


def test_what_a_node_had_under_another_name_is_taken_over_by_its_next_up(node, store):
    (node / "node").write_text("n2\n")
    run("init", directory=node)
    run("node", "rename", "n1", directory=node)
    app = App(connect=lambda _: store, environment={"MANOR_DIR": str(node)}, tty=False)
    starting.settle(app)
    assert store.restarted == ["lifecycle"]
    assert identity.read(node).former == ()  # another node may be called so one day


def test_a_node_that_is_not_here_is_a_row_of_the_nodes(node, store):
    ran = run("list", "nodes", client=store, directory=node)
    assert "NOT HERE,OWNS 2 DOMAINS" in ran.out
    rows = run("list", "nodes", "-o", "json", client=store, directory=node).json
    assert [row["name"] for row in rows] == ["n1", "n2"]
    assert rows[0].keys() <= rows[1].keys()


def test_what_belongs_to_a_node_that_is_not_here_is_taken_over_when_that_is_certain(node, store):
    take = ("node", "take")
    assert run(*take, "n2", client=store, directory=node).code == 2  # nobody answers
    assert run(*take, "n1", "--yes", client=store, directory=node).code == 5
    assert run(*take, "n3", "--yes", client=store, directory=node).code == 3
    assert store.restarted == []
    assert run(*take, "n2", client=store, directory=node, typed="y\n").out.endswith(
        "2 domains of n2 belong to n1 now\n"
    )
    assert store.restarted == ["lifecycle"]
