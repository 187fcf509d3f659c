import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import lifecycle
from manor_cli import exits, failures
from manor_cli.app import App
from tests.cli.fake import FakeClient, operation, run

ROOT = Path(__file__).parents[2]
LISTED = lifecycle.OperationsListed(operations=())


def raising(error):
    def answer(_):
        raise error

    return FakeClient({lifecycle.OperationList: answer})


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, Kind.FORBIDDEN), (errno.EPERM, Kind.FORBIDDEN), (errno.ENOENT, Kind.BAD_REQUEST),
     (errno.EISDIR, Kind.BAD_REQUEST), (errno.ENOSPC, Kind.NO_CAPACITY), (errno.EDQUOT, Kind.NO_CAPACITY),
     (errno.EMFILE, Kind.NO_CAPACITY), (errno.EROFS, Kind.DENIED_STATE), (errno.EIO, Kind.UNAVAILABLE),
     (errno.ESTALE, Kind.UNAVAILABLE)],
)  # fmt: skip
def test_an_error_of_the_system_is_one_line_with_its_path_and_a_hint(number, kind):
    ran = run("ops", "list", client=raising(OSError(number, os.strerror(number), "/srv/x")))
    error, hint = ran.err.splitlines()
    assert ran.code == exits.code(ManorError(kind, ""))
    assert error == f"error: {kind.value}: /srv/x: {os.strerror(number)}"
    assert hint.startswith("hint: ")


def test_too_little_memory_is_no_fault_of_the_program():
    assert run("ops", "list", client=raising(MemoryError())).code == exits.code(
        ManorError(Kind.NO_CAPACITY, "")
    )


@pytest.mark.parametrize("error", [KeyError("x"), ValueError(), RecursionError("deep"), OSError(9999, "odd")])
def test_a_fault_of_the_program_is_one_line_and_the_place_of_its_details(tmp_path, error):
    (tmp_path / "log").mkdir()
    ran = run("ops", "list", client=raising(error), directory=tmp_path)
    assert ran.code == 1
    assert ran.err.splitlines()[1] == (
        f"hint: this is a bug; the details are in {tmp_path}/log/cli.log; please report them"
    )
    assert "Traceback" in (tmp_path / "log" / "cli.log").read_text()
    assert "Traceback" not in ran.err


def test_details_go_beside_where_the_log_folder_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    run("ops", "list", client=raising(KeyError("x")))
    (file,) = tmp_path.iterdir()
    assert "KeyError" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_with_debug_the_details_are_printed():
    ran = run("--debug", "ops", "list", client=raising(KeyError("x")))
    assert "Traceback" in ran.err


PROGRAM = """
import sys
from tests.cli.fake import FakeClient, operation
from manor_bus.wire.messages import lifecycle
from manor_cli import main as program
from manor_cli.app import App
client = FakeClient({lifecycle.DomainStart: operation(), lifecycle.OperationList: lifecycle.OperationsListed(
    operations=(operation(),))})
app = App(connect=lambda _: client, environment={"MANOR_DIR": "nowhere"}, tty=False)
run = program.main
program.main = lambda: run(app=app)
program.program()
"""


@pytest.fixture
def shell(tmp_path):
    """Run a shell command in which `manor` is the program, as on a terminal or from cron."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def call(command):
        return subprocess.run(
            ["bash", "-c", f"manor() {{ {sys.executable} {tmp_path}/program.py \"$@\"; }}; {command}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_an_answer_that_cannot_be_written_has_a_code_of_its_own_and_says_what_was_done(shell, where):
    done = shell(f"manor start web {where}")
    assert done.returncode == exits.LOST_OUTPUT
    assert "the change was made" in done.stderr
    done = shell(f"manor ops list {where}")
    assert done.returncode == exits.LOST_OUTPUT
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_help_that_cannot_be_written_is_told_too(shell, where):
    done = shell(f"manor ops --help {where}")
    assert done.returncode == exits.LOST_OUTPUT
    assert done.stderr.count("\n") == 2


def test_advice_that_nobody_takes_changes_no_exit_code(shell):
    assert shell("manor start web 2>/dev/full").returncode == 0
    assert shell("manor start web <&- 2>&-").returncode == 0
    assert shell("manor lits 2>/dev/full").returncode == 2


def test_a_working_folder_that_was_deleted_has_a_code_of_its_own(shell, tmp_path):
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone"
    assert shell(f"{gone}; manor start web").returncode == exits.LOST_FOLDER
    done = shell(f"{gone}; manor init")
    assert done.returncode == exits.LOST_FOLDER
    assert done.stderr.startswith("error: the working folder is not there any more")


@pytest.mark.parametrize("level", ["1", "2"])
def test_helps_are_whole_in_an_optimised_interpreter(level):
    manor = os.path.join(os.path.dirname(sys.executable), "manor")
    done = subprocess.run(
        [manor, "start", "--help"],
        env={**os.environ, "PYTHONOPTIMIZE": level}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Start a domain." in done.stdout


def test_a_question_that_nobody_answers_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "m.db").write_bytes(b"x")
    ran = run("config", "restore", str(tmp_path / "m.db"), client=FakeClient())
    assert ran.code == 2
    assert "hint: --yes" in ran.err


WATCHER = """
import sys, threading
from manor_cli.app import App
app = App(environment={}, tty=False)
print("one", flush=True)
app.until_left()
threading.Event().wait()
"""


def test_who_waits_ends_when_nobody_reads_any_more():
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -c '{WATCHER}' | head -n 1"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "")


def test_only_a_change_that_was_answered_was_made():
    app = App(connect=lambda _: FakeClient({lifecycle.OperationList: LISTED}), environment={})
    assert app.changed == "look before you repeat it"
    app.call(lifecycle.OperationList(), lifecycle.OperationsListed)
    assert app.changed == "nothing was changed"
    changing = FakeClient({lifecycle.DomainStart: operation()})
    app = App(connect=lambda _: changing, environment={})
    app.call(lifecycle.DomainStart(name="web"), lifecycle.Operation)
    assert app.changed == "the change was made"
