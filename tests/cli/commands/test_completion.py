import os
import subprocess
import sys

import pytest

from tests.cli.fake import run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell):
    told = run("completion", shell).out
    assert "_MANOR_COMPLETE" in told
    assert f"{shell}_complete" in told


def complete(*words):
    program = "import sys; from manor_cli.main import main; sys.exit(main())"
    env = {
        **os.environ,
        "_MANOR_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("manor", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    return {line.partition(",")[2] for line in done.stdout.splitlines()}


def test_commands_subcommands_and_options_are_completed():
    assert {"service", "screenshot", "schema"} <= complete("s")
    assert {"list", "restart", "replace"} <= complete("service", "")
    assert "--hypervisor" in complete("up", "--hy")


def test_another_shell_is_refused():
    assert run("completion", "tcsh").code == 2
