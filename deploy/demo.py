"""`make demo`: a real virtual machine, from a description to a clean end, while everything around it dies.

Uses the public command line only; each command is printed before it runs. Needs no terminal and asks nothing.
Everything is in one temporary folder, which is removed at the end, and kept, with the logs, when something
went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANOR = Path(sys.executable).with_name("manor")
SERVICES = ("bus", "config", "discovery", "lifecycle", "devices")
PATIENCE_S = 120.0
PROMPT = "guest# "
DOCUMENTS = """\
kind: Volume
metadata: {{name: web-disk}}
spec: {{size_mib: 64, format: qcow2}}
---
kind: Volume
metadata: {{name: more}}
spec: {{size_mib: 32, format: qcow2}}
---
kind: Domain
metadata: {{name: web, labels: {{tier: demo}}}}
spec:
  cpu: {{count: 1}}
  memory: {{size_mib: 256}}
  boot:
    kernel: {kernel}
    initrd: {initrd}
    cmdline: console=ttyS0 quiet
  disks:
    - {{id: disk0, volume: web-disk, format: qcow2}}
  nics:
    - {{id: net0}}
"""


class Failed(Exception):
    """Something did not happen; the text says what."""


def say(text: str) -> None:
    """Tell the story."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def chapter(title: str) -> None:
    """Begin a chapter."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    say(f"\n{bold}== {title}{plain}")


def run(*command: str | Path, typing: str = "") -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command, input=typing, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise Failed(
            f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def manor(*arguments: str, quiet: bool = False) -> str:
    """Run `manor …`; unless `quiet`, show the command and its output."""
    if not quiet:
        say(f"$ manor {shlex.join(arguments)}")
    printed = run(MANOR, *arguments)
    if not quiet and printed:
        say("".join(f"  {line}\n" for line in printed.splitlines()).rstrip("\n"))
    return printed


def listed(*arguments: str) -> list[dict[str, Any]]:
    """Return what a `manor … list` says, as objects."""
    found: list[dict[str, Any]] = json.loads(manor(*arguments, "-o", "json", quiet=True))
    return found


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Ask again until the answer is yes; `Failed` says what did not happen."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Failed, LookupError):
            if answer := condition():
                return answer
        time.sleep(0.1)
    raise Failed(f"{what}: not within {PATIENCE_S:.0f} s")


def typed(line: str) -> str:
    """Type a line at the guest's console and return what it answered."""
    console = ("console", "web", "--no-scrollback", "--until", PROMPT)
    return run(MANOR, "--timeout", str(PATIENCE_S), *console, typing=line + "\n")


def seen(text: str) -> str:
    """Wait until the guest has printed a text, maybe before now, and return that line."""
    printed = run(MANOR, "--timeout", str(PATIENCE_S), "console", "web", "--watch", "--until", text)
    lines = [line[line.index(text) :].strip() for line in printed.splitlines() if text in line]
    if not lines:
        raise Failed(f"the guest did not print {text}, but: {printed[-500:]}")
    return lines[-1]


def uptime() -> float:
    """Ask the guest itself how long it has been running, in seconds."""
    found = re.search(r"^([0-9.]+) [0-9.]+\s*$", typed("cat /proc/uptime"), re.MULTILINE)
    if found is None:
        raise Failed("the guest did not say how long it has been running")
    return float(found[1])


def service(name: str) -> dict[str, Any]:
    """Return the one ready instance of a service; a LookupError while there is none."""
    found = [one for one in listed("service", "list") if one["name"] == name and one["ready"]]
    return found[0]


def successor(name: str, pid: int) -> int:
    """Return the process that has taken the place of a killed one; 0 while there is none."""
    present: int = service(name)["pid"]
    return 0 if present == pid else present


def kill_each_service() -> None:
    """Kill -9 every service in turn; the guest must not notice."""
    before = uptime()
    for name in SERVICES:
        pid = service(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        again = until(f"{name} comes back", partial(successor, name, pid))
        took = time.monotonic() - began
        now = uptime()
        if now <= before:
            raise Failed(f"the guest's uptime went from {before} s to {now} s: it was restarted")
        before = now
        say(f"  kill -9 {name:<9} back after {took:.1f} s, pid {pid} -> {again}; guest up {now:.1f} s")


def story(directory: Path) -> None:
    """Tell it from the beginning to the end."""
    chapter("1. A guest: Debian's kernel and busybox, packed into an image (kept for the next time)")
    image = dict(
        line.split(" ", 1) for line in run(sys.executable, ROOT / "deploy/guest/build.py").splitlines()
    )
    say(f"  kernel {image['kernel']}\n  initrd {image['initrd']}")

    chapter("2. A node: one broker, four services, each a process, keys for all of them")
    manor("up", "--detach", "--hypervisor", "qemu")
    manor("service", "list")

    chapter("3. What is wished: two volumes and a domain, as documents")
    file = directory / "web.yaml"
    file.write_text(DOCUMENTS.format(**image), encoding="utf-8")
    say("".join(f"  | {line}\n" for line in file.read_text(encoding="utf-8").splitlines()).rstrip())
    manor("apply", "-f", str(file), "--reason", "the demo")

    chapter("4. Start it: a plan of steps, each with its undo")
    manor("start", "web", "--dry-run")
    manor("start", "web")
    manor("list")

    chapter("5. Talk to it over its serial console, through the bus")
    say("  " + seen("MANOR-GUEST-READY"))
    say(
        "$ echo 'disk write /dev/vda 4' | manor console web\n  "
        + typed("disk write /dev/vda 4").splitlines()[1]
    )
    say(f"$ echo 'cat /proc/uptime' | manor console web\n  the guest has been up for {uptime():.1f} s")

    chapter("6. Kill -9 every service in turn, and ask the guest how long it has been up")
    kill_each_service()
    manor("list")

    chapter("7. Plug another disk into the running machine, and take it out again")
    manor("device", "attach", "web", "disk", "id=disk1", "volume=more", "format=qcow2")
    say("  the guest says: " + seen("MANOR-GUEST-DEVICE add"))
    manor("device", "list", "web")
    manor("device", "detach", "web", "disk1")
    say("  the guest says: " + seen("MANOR-GUEST-DEVICE remove"))
    say(
        "$ echo 'disk verify /dev/vda 4' | manor console web\n  "
        + typed("disk verify /dev/vda 4").splitlines()[1]
    )

    chapter("8. Shut it down: the guest is asked, and does it")
    manor("shutdown", "web")
    manor("list")
    manor("ops", "list", "web")


def main() -> int:
    """Run the demo; exit 0 when everything happened as told."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="manor-demo-"))  # short: a unix socket's path is limited
    directory.chmod(0o711)  # run by root, the domain has a user of its own, who must get to its disk
    os.environ["MANOR_DIR"] = str(directory)
    failure: Exception | None = None
    try:
        story(directory)
    except (Failed, OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
        failure = error if isinstance(error, Exception) else Failed("interrupted")
    chapter("9. Clean up")
    try:
        manor("down")
    except Failed as error:
        failure = failure or error
    took = time.monotonic() - began
    if failure is not None:
        say(f"\nThe demo failed after {took:.0f} s: {failure}\nState and logs are kept in {directory}")
        return 1
    shutil.rmtree(directory)
    say(f"\nAll of it happened as told, in {took:.0f} s. Nothing is left running, {directory} is removed.")
    say("Your turn:  .venv/bin/manor up --detach;  then README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
