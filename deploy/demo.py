"""`make demo`: a real virtual machine, from a description to a clean end, while everything around it dies.

Uses the public command line only; each command is printed before it runs. Needs no terminal and asks nothing.
Everything is in one temporary folder, which is removed at the end, and kept, with the logs, when something
went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANOR = Path(sys.executable).with_name("manor")
SERVICES = ("bus", "config", "discovery", "lifecycle", "devices")
PATIENCE_S = 120.0
LEAVE_CONSOLE = b"\x1d"
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


def run(*command: str | Path) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
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


class Console:
    """`manor console web`, typed at through a pseudo terminal as a person would."""

    def __init__(self, domain: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [MANOR, "console", domain], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self._seen = b""

    def expect(self, pattern: str) -> re.Match[bytes]:
        """Read until the pattern has come; what follows it stays for the next call."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern.encode(), self._seen)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Failed(f"the console did not show {pattern!r}; it showed {self._seen[-500:]!r}")
            try:
                self._seen += os.read(self._ours, 65_536)
            except OSError:
                raise Failed(f"the console ended: {self._seen[-500:]!r}") from None
        self._seen = self._seen[found.end() :]
        return found

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._ours, line.encode() + b"\r")

    def close(self) -> None:
        """Leave the console as a person does."""
        with contextlib.suppress(OSError):
            os.write(self._ours, LEAVE_CONSOLE)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)


@contextlib.contextmanager
def console(domain: str) -> Iterator[Console]:
    """Attach to a domain's console for the length of a block."""
    attached = Console(domain)
    try:
        yield attached
    finally:
        attached.close()


def uptime(guest: Console) -> float:
    """Ask the guest itself how long it has been running, in seconds."""
    guest.type("echo up $(cut -d' ' -f1 /proc/uptime) s")
    return float(guest.expect(r"up ([0-9.]+) s")[1])


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
    with console("web") as guest:
        guest.type("")
        guest.expect("# ")
        before = uptime(guest)
    for name in SERVICES:
        pid = service(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        again = until(f"{name} comes back", partial(successor, name, pid))
        took = time.monotonic() - began
        with console("web") as guest:
            guest.type("")
            guest.expect("# ")
            now = uptime(guest)
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
    with console("web") as guest:
        guest.expect("MANOR-GUEST-READY")
        guest.type("")
        guest.expect("# ")
        guest.type("disk write /dev/vda 4")
        say("  guest# disk write /dev/vda 4\n  " + guest.expect(r"DISK-WRITTEN[^\r\n]*")[0].decode())
        say(f"  the guest says that it has been up for {uptime(guest):.1f} s")

    chapter("6. Kill -9 every service in turn, and ask the guest how long it has been up")
    kill_each_service()
    manor("list")

    chapter("7. Plug another disk into the running machine, and take it out again")
    with console("web") as guest:
        manor("device", "attach", "web", "disk", "id=disk1", "volume=more", "format=qcow2")
        say("  guest: " + guest.expect(r"MANOR-GUEST-DEVICE add [a-z0-9]+")[0].decode())
        manor("device", "list", "web")
        manor("device", "detach", "web", "disk1")
        say("  guest: " + guest.expect(r"MANOR-GUEST-DEVICE remove [a-z0-9]+")[0].decode())
        guest.type("disk verify /dev/vda 4")
        say(
            "  guest# disk verify /dev/vda 4\n  "
            + guest.expect(r"DISK-(VERIFIED|DIFFERS)[^\r\n]*")[0].decode()
        )

    chapter("8. Shut it down: the guest is asked, and does it")
    manor("shutdown", "web")
    manor("list")
    manor("ops", "list", "web")


def main() -> int:
    """Run the demo; exit 0 when everything happened as told."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="manor-demo-"))  # short: a unix socket's path is limited
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
