"""What outside checks rely on of the command line, on a real node with the `fake` hypervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor_bus.wire.errors import EXIT_CODES, Kind
from manor_cli.runner import present
from manor_host import processes
from tests.system.nodes import Node, node

pytestmark = pytest.mark.system

PARTS = ("bus", "config", "discovery", "lifecycle", "devices")
LISTED = {
    "name",
    "uuid",
    "state",
    "generation",
    "node",
    "hypervisor",
    "cpus",
    "memory_mib",
    "uptime_s",
    "pending",
}
EXAMPLES = Path(__file__).parents[2] / "examples"
WEB = "kind: Domain\nmetadata: {name: web}\nspec: {cpu: {count: 2}, memory: {size_mib: 128}}\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("contract"), "--hypervisor", "fake", "--nodes", "1") as made:
        made.manor("apply", "-f", "-", stdin=WEB)
        yield made


def left(directory: Path) -> list[str]:
    """Every process that still has to do with a state directory."""
    ours = [pid for pid in processes.pids() if processes.environment(pid).get("MANOR_DIR") == str(directory)]
    return [" ".join(processes.command_line(pid)) for pid in ours if pid != os.getpid()]


def supervisor(node: Node) -> int:
    found = present.supervisor(node.directory)
    assert found is not None
    return found.pid


def test_up_says_where_things_are_and_everything_is_ready(tmp_path: Path) -> None:
    with node(tmp_path, "--hypervisor", "fake") as made:
        assert "a node lives in" in made.manor("up", "--detach", check=False).stderr
        os.kill(supervisor(made), signal.SIGKILL)
        again = made.manor("up", "--detach", "--hypervisor", "fake").stdout
        for word in (str(tmp_path), "bus.sock", "keys", "log", "node1", "fake"):
            assert word in again
        rows = made.json("service", "list")
        assert sorted(row["name"] for row in rows) == sorted(PARTS)
        assert all(row["ready"] for row in rows)
        made.manor("status")
        assert left(tmp_path) != []
    assert left(tmp_path) == []


def test_the_option_dir_is_the_same_as_the_variable(running: Node, tmp_path: Path) -> None:
    manor = Path(sys.executable).parent / "manor"
    env = {**running.environment(), "MANOR_DIR": str(tmp_path)}
    done = subprocess.run(
        [manor, "--dir", running.directory, "list", "-o", "name"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "domain/web" in done.stdout.split()


def test_the_list_of_domains_is_an_array_of_objects(running: Node) -> None:
    running.manor("start", "web")
    web = next(row for row in running.json("list") if row["name"] == "web")
    assert web.keys() >= LISTED
    assert (web["state"], web["hypervisor"], web["cpus"], web["memory_mib"]) == ("RUNNING", "fake", 2, 128)
    assert web["node"] == "node1"
    assert web["uptime_s"] >= 0
    assert web["pending"] == []


def test_the_list_of_services_names_every_part(running: Node) -> None:
    for row in running.json("service", "list"):
        assert row.keys() >= {"name", "instance", "pid", "ready", "version", "node"}
        assert Path(f"/proc/{row['pid']}").exists()


def test_the_list_of_operations_has_what_each_came_to(running: Node) -> None:
    running.manor("start", "web", check=False)
    for row in running.json("ops", "list"):
        assert row.keys() >= {"id", "kind", "target", "state", "step", "progress", "error"}
    assert running.manor("ops", "show", running.json("ops", "list")[0]["id"]).stdout


def test_what_a_running_domain_cannot_take_is_pending(running: Node) -> None:
    running.manor("start", "web", check=False)
    running.manor("apply", "-f", "-", stdin=WEB.replace("cpu: {count: 2}", "machine: q35, cpu: {count: 2}"))
    assert "spec.machine" in running.manor("get", "domain", "web", "-o", "wide").stdout
    assert running.json("list")[0]["pending"]


def test_every_change_is_one_object_a_line_with_cloudevents_names(running: Node) -> None:
    lines = running.manor("watch", "domain.*", "-o", "json", "--once").stdout.splitlines()
    assert lines
    for line in lines:
        assert json.loads(line).keys() >= {
            "specversion",
            "id",
            "source",
            "type",
            "subject",
            "time",
            "data",
            "k",
        }


def test_messages_can_be_posted_by_hand(running: Node) -> None:
    shown = json.loads(running.manor("call", "lifecycle.domain.show", '{"name": "web"}').stdout)
    assert shown["name"] == "web"
    running.manor("publish", "operator.admin.note", '{"text": "noon"}')
    past = running.manor(
        "watch", "operator.>", "--since", "0", "-n", "1", "-o", "json", check=False, stdin=""
    )
    assert json.loads(past.stdout.splitlines()[0])["data"] == {"text": "noon"}


def test_a_guest_is_typed_at_through_the_console(running: Node) -> None:
    running.manor("start", "web", check=False)
    typed = running.manor("--timeout", "10", "console", "web", "--until", "hello", stdin="hello\n")
    assert "fake domain web" in typed.stdout
    watched = running.manor("--timeout", "1", "console", "web", "--watch")
    assert "hello" in watched.stdout


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("start", "nobody"), Kind.NOT_FOUND),
        (("get", "domain", "nobody"), Kind.NOT_FOUND),
        (("restore", "web"), Kind.DENIED_STATE),
        (("list", "things"), Kind.BAD_REQUEST),
        (("call", "nowhere.at.all"), Kind.UNAVAILABLE),
        (("up", "--detach", "--hypervisor", "qemu"), Kind.CONFLICT),
        (("up", "--detach", "--nodes", "3"), Kind.BAD_REQUEST),
    ],
)
def test_errors_have_their_codes_and_say_what_to_do_next(
    running: Node, words: tuple[str, ...], kind: Kind
) -> None:
    done = running.manor("--timeout", "3", *words, check=False)
    assert done.returncode == EXIT_CODES[kind], done.stderr
    assert f"error: {kind.value}:" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_comes_back_and_commands_wait_for_it(running: Node, part: str) -> None:
    before = running.kill(part)
    assert "domain/web" in running.manor("list", "-o", "name").stdout.split()
    running.wait_replaced(part, before)


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_service_is_replaced_and_restarted(running: Node, part: str) -> None:
    before = running.pid(part)
    running.manor("service", "replace", part)
    second = running.pid(part)
    running.manor("service", "restart", part)
    assert len({before, second, running.pid(part)}) == 3
    assert len([row for row in running.json("service", "list") if row["name"] == part]) == 1


def test_the_supervisor_may_die_and_a_new_one_takes_over(running: Node) -> None:
    pids = {row["name"]: row["pid"] for row in running.json("service", "list")}
    os.kill(supervisor(running), signal.SIGKILL)
    running.manor("up", "--detach")
    assert {row["name"]: row["pid"] for row in running.json("service", "list")} == pids
    running.wait_replaced("config", running.kill("config"))


def test_every_example_can_be_applied_and_started() -> None:
    # Below a folder that guests can pass through, as pytest's own are not.
    with (
        tempfile.TemporaryDirectory(prefix="manor-") as folder,
        node(Path(folder), "--hypervisor", "fake") as made,
    ):
        for file in sorted(EXAMPLES.glob("*.yaml")):
            made.manor("diff", "-f", str(file))
            made.manor("apply", "-f", str(file))
        names = {row["name"] for row in made.json("list")}
        assert made.manor("start", "app", check=False).returncode == EXIT_CODES[Kind.DENIED_STATE]  # needs db
        for name in ("db", *sorted(names - {"db"})):
            made.manor("start", name)


def test_down_leaves_nothing_even_when_the_supervisor_is_dead(tmp_path: Path) -> None:
    with node(tmp_path, "--hypervisor", "fake") as made:
        os.kill(supervisor(made), signal.SIGKILL)
        made.manor("down")
        assert left(tmp_path) == []
        assert made.manor("list", check=False).returncode == EXIT_CODES[Kind.UNAVAILABLE]


def test_down_shuts_guests_down_and_what_was_described_stays(tmp_path: Path) -> None:
    with node(tmp_path, "--hypervisor", "fake") as made:
        made.manor("apply", "-f", "-", stdin=WEB)
        made.manor("start", "web")
        assert "web: shut down" in made.manor("down").stderr
        made.manor("up", "--detach")
        (web,) = made.json("list")
        assert web["state"] == "DEFINED"
        assert [row["kind"] for row in made.json("ops", "list")][:1] == ["shutdown"]


def test_what_shall_always_run_runs_again_after_down_and_up(tmp_path: Path) -> None:
    with node(tmp_path, "--hypervisor", "fake") as made:
        made.manor("apply", "-f", "-", stdin=WEB.replace("spec: {", "spec: {run: always, "))
        made.manor("down")
        made.manor("up", "--detach")
        end = time.monotonic() + 30
        while (states := [row["state"] for row in made.json("list")]) != ["RUNNING"]:
            assert time.monotonic() < end, states
            time.sleep(0.1)


def test_in_the_foreground_ctrl_c_stops_the_services(tmp_path: Path) -> None:
    made = Node(tmp_path)
    manor = Path(sys.executable).parent / "manor"
    with subprocess.Popen(
        [manor, "up", "--hypervisor", "fake"], env=made.environment(), stdout=subprocess.PIPE, text=True
    ) as shown:
        assert shown.stdout is not None
        for line in shown.stdout:
            if line.startswith("next:"):
                break
        assert made.json("service", "list")
        shown.send_signal(signal.SIGINT)
        rest = shown.stdout.read()
    assert shown.returncode == 0
    assert "bus ended" in rest
    assert left(tmp_path) == []
