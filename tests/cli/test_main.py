import inspect
import subprocess
import sys

import click
import pytest

from manor_bus.wire.errors import EXIT_CODES, Kind, ManorError, Problem
from manor_bus.wire.messages.discovery import Find
from manor_bus.wire.messages.lifecycle import OperationList
from manor_cli.main import COMMANDS, LazyCommands, manor
from tests.cli.fake import FakeClient, run


def commands(
    group: click.Group, context: click.Context, path: str = "manor"
) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path} {name}", command))
        if isinstance(command, click.Group):
            found += commands(command, context, f"{path} {name}")
    return found


ALL = commands(manor, click.Context(manor))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_explains_itself_with_an_example(path, command):
    assert command.help is not None
    assert "\b\nExample:" in inspect.cleandoc(command.help)
    example = command.help.partition("Example:")[2]
    assert "manor" in example
    assert path.split()[1] in example


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_can_print_its_help(path, command):
    ran = run(*path.split()[1:], "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: {path}")


def test_every_entry_of_the_table_leads_to_a_command_of_that_name():
    lazy = LazyCommands()
    for name in lazy:
        command = lazy.get(name)
        assert command is not None
        assert command.name == name
    assert len(lazy) == len(COMMANDS)


def test_an_unknown_command_names_the_nearest_and_exits_as_a_bad_request():
    ran = run("lits")
    assert ran.code == EXIT_CODES[Kind.BAD_REQUEST]
    assert "error: bad_request" in ran.err
    assert "list" in ran.err
    assert "hint: manor --help" in ran.err


def test_a_wrong_option_points_at_the_help_of_its_command():
    ran = run("list", "--bad")
    assert ran.code == 2
    assert "hint: manor list --help" in ran.err


@pytest.mark.parametrize("path", [path for path, one in ALL if isinstance(one, click.Group)])
def test_a_group_alone_shows_what_is_in_it_and_calls_nothing_an_error(path):
    ran = run(*path.split()[1:])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"Usage: {path}")
    assert "hint:" not in ran.err


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_has_its_exit_code_and_says_what_to_do(kind):
    problem = Problem(path="spec.cpu.count", reason="too many")
    refused = FakeClient({OperationList: ManorError(kind, "no", problems=(problem,))})
    ran = run("ops", "list", client=refused)
    assert ran.code == EXIT_CODES[kind]
    assert ran.err.startswith(f"error: {kind.value}: no\n  spec.cpu.count: too many\nhint: ")
    assert ran.out == ""


def test_the_client_is_closed_whatever_happens():
    refused = FakeClient({Find: ManorError(Kind.INTERNAL, "no")})
    run("list", client=refused)
    assert refused.closed == 1


def test_ctrl_c_ends_with_the_code_shells_expect():
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    ran = run("list", client=FakeClient({Find: interrupt}))
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_the_global_timeout_is_the_budget_of_a_call():
    client = FakeClient({Find: ManorError(Kind.TIMEOUT, "late")})
    run("--timeout", "2.5", "list", client=client)
    assert client.timeouts == [2.5]


def test_the_option_dir_wins_over_the_environment(tmp_path):
    ran = run("--dir", str(tmp_path / "chosen"), "init", environment={"MANOR_DIR": str(tmp_path / "other")})
    assert ran.code == 0
    assert (tmp_path / "chosen" / "keys" / "broker.pub").exists()
    assert not (tmp_path / "other").exists()


def test_a_short_command_imports_nothing_but_click():
    program = "import sys; from manor_cli.main import main; main(['version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    for module in (
        "zmq",
        "msgspec",
        "yaml",
        "rich",
        "asyncio",
        "manor_bus.wire.errors",
        "manor_cli.settings",
    ):
        assert f"{module}'" not in loaded


def test_list_imports_neither_asyncio_nor_yaml():
    program = (
        "import sys; from tests.cli.fake import run, discovery, domain;"
        "mods = ('asyncio', 'yaml'); [sys.modules.pop(m, None) for m in mods];"
        "ran = run('list', client=discovery(domain())); assert ran.code == 0, ran;"
        "print([m for m in mods if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_has_seen_enough_is_no_error():
    program = (
        f"{sys.executable} -c 'from manor_cli.main import main; raise SystemExit(main())' schema | head -n 1"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_as_a_program_it_says_everything_before_it_ends_and_how():
    program = "from manor_cli.main import program; program()"
    calm = "from manor_cli.main import main; raise SystemExit(main())"
    said = [
        subprocess.run([sys.executable, "-c", way, "schema"], capture_output=True, check=True).stdout
        for way in (program, calm)
    ]
    assert said[0] == said[1] != b""
    wrong = subprocess.run([sys.executable, "-c", program, "nonsense"], capture_output=True, check=False)
    assert wrong.returncode == 2
    assert b"hint: manor --help" in wrong.stderr


def test_a_program_whose_reader_has_seen_enough_ends_without_a_word():
    command = f"{sys.executable} -c 'from manor_cli.main import program; program()' schema | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
