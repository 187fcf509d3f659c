"""Both commands of the README in empty Debian roots: `make test-clean`, or `python3 -m tests.system.clean`.

A root holds what debootstrap puts there, git and make. A clone of this tree, with what is not committed yet,
is put into it; then `make demo` and `make test` run there, as root and as somebody who may install nothing.
That person must be told once what to install, in one command that works as it stands. How packages are
reached is this machine's business: its configuration of apt, pip and npm and its certificates are
copied at run time.

Process ids and mounts are those of the root; the network is this machine's, for packages come over it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.system.roots import CACHE, PATH, NotHere, debian, run

TREE = Path(__file__).parents[2]
PACKAGES = ("ca-certificates", "git", "make")
SUITES = ("bookworm", "trixie")  # Debian 12 and 13
USERS = ("root", "user")
COMMANDS = ("demo", "test")
NOT_HERE = 77  # the exit code for "skipped" that automake, meson and others know
COMMAND_S = 3600.0
HOME = "home/user"
PASSED_ON = re.compile(r"PIP_\w+|npm_config_\w+|\w*(?:CERT|CA_BUNDLE|CAINFO)\w*|(?i:\w+_proxy)")
COPIED = (
    "etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt", "etc/apt/apt.conf",
    "etc/apt/auth.conf", "etc/apt/auth.conf.d", "etc/pip.conf", "etc/xdg/pip",
)  # fmt: skip
OF_A_HOME = (".npmrc", ".config/pip", ".pip", ".netrc")
ENTER = """
set -e
mount --rbind /dev "$0/dev"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
for folder in tmp run; do mount -t tmpfs -o mode=1777 tmpfs "$0/$folder"; done
while [ "$1" != -- ]; do
    mkdir -p "$0$1"
    mount --bind "$1" "$0$1"
    mount -o remount,bind,ro "$0$1"
    shift
done
shift
exec chroot "$0" "$@"
"""


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code is 1 when something failed, 77 when nothing can be tried here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, known in (("suites", SUITES), ("users", USERS), ("commands", COMMANDS)):
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=known)
    asked = parser.parse_args(arguments)
    results = []
    try:
        for suite in asked.suites:
            for user in asked.users:
                results += [(suite, user, *told) for told in attempts(suite, user, asked.commands)]
    except NotHere as reason:
        say(f"not possible here: {reason}")
        return NOT_HERE
    for suite, user, command, code, seconds in results:
        ended = "passed" if code == 0 else f"FAILED ({code})"
        say(f"{suite:10} {user:6} make {command:6} {ended} {seconds:.0f} s")
    return int(any(code for *_, code, _ in results))


def say(text: str) -> None:
    """Report progress."""
    sys.stderr.write(f"clean: {text}\n")
    sys.stderr.flush()


def attempts(suite: str, user: str, commands: Sequence[str]) -> Iterator[tuple[str, int, float]]:
    """Run commands in one new root; each with its exit code and the seconds it took."""
    if os.geteuid() != 0:
        raise NotHere("entering a root needs root")
    archive = debian("clean", suite, PACKAGES)
    with tempfile.TemporaryDirectory(prefix=f"clean-{suite}-", dir=CACHE) as name:
        root = Path(name) / "root"
        root.mkdir()
        run("tar", "-C", root, "--numeric-owner", "-xpf", archive)
        furnish(root)
        if user != "root":
            quietly(root, ("apt-get", "update", "-qq"))
            install_as_told(root, commands[0])
        for command in commands:
            say(f"{suite}, {user}: make {command}")
            began = time.monotonic()
            code = inside(root, user, ("make", command))
            yield command, code, time.monotonic() - began


def install_as_told(root: Path, command: str) -> None:
    """Be refused as somebody without rights, and install as root what the refusal says, word for word."""
    with tempfile.TemporaryFile("w+") as words:
        code = inside(root, "user", ("make", command), words)
        words.seek(0)
        told = words.read()
    lines = re.findall(r"apt-get install .*", told)
    if code == 0 or len(lines) != 1:
        raise AssertionError(f"one command was expected, exit code {code}:\n{told[-4000:]}")
    say(f"the user was told: {lines[0]}")
    quietly(root, (*shlex.split(lines[0]), "-y", "-q"))


def quietly(root: Path, command: Sequence[str]) -> None:
    """Run as root what shall succeed, and show what it says only when it does not."""
    with tempfile.TemporaryFile("w+") as words:
        if inside(root, "root", command, words):
            words.seek(0)
            raise AssertionError(f"{' '.join(command)} failed:\n{words.read()[-4000:]}")


def furnish(root: Path) -> None:
    """Put into a root the tree for both users, and how this machine reaches packages."""
    for name in COPIED:
        copy(Path("/", name), root / name)
    (root / "etc/passwd").open("a").write(f"user:x:1000:1000::/{HOME}:/bin/bash\n")
    (root / "etc/group").open("a").write("user:x:1000:\n")
    for home, owner in ((root / "root", 0), (root / HOME, 1000)):
        home.mkdir(exist_ok=True)
        for name in OF_A_HOME:
            copy(Path.home() / name, home / name)
        run("git", "clone", "--quiet", "--no-hardlinks", TREE, home / "manor")
        changed = run("git", "ls-files", "--modified", "--others", "--exclude-standard", cwd=TREE)
        for name in changed.splitlines():
            copy(TREE / name, home / "manor" / name)
        run("chown", "-R", f"{owner}:{owner}", home)


def copy(source: Path, target: Path) -> None:
    """Copy what is there; what is not is not there afterwards."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy2(source, target)
    elif target.is_file():
        target.unlink()


def inside(root: Path, user: str, command: Sequence[str], words: object = None) -> int:
    """Run a command in a root as a user, in the folder of the clone; its exit code."""
    home = "/root" if user == "root" else f"/{HOME}"
    path = "/usr/local/bin:/usr/bin:/bin" + (":/usr/local/sbin:/usr/sbin:/sbin" if user == "root" else "")
    passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    surroundings = {
        **passed, "HOME": home, "USER": user, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
        "PATH": path,
    }  # fmt: skip
    ids = [] if user == "root" else ["--reuid=1000", "--regid=1000", "--clear-groups"]
    become = ["setpriv", *ids, "env", "-i", *(f"{name}={value}" for name, value in surroundings.items())]
    work = ["sh", "-c", 'cd "$0/manor" && exec "$@"', home, *command]
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    process = [*namespaces, "sh", "-c", ENTER, str(root), *folders_of_pip(), "--", *become, *work]
    done = subprocess.run(
        process, stdin=subprocess.DEVNULL, stdout=words, stderr=words and subprocess.STDOUT, check=False,  # type: ignore[call-overload]
        timeout=COMMAND_S, env={**os.environ, "PATH": PATH},
    )  # fmt: skip
    return int(done.returncode)


def folders_of_pip() -> list[str]:
    """The folders on this machine that its pip is told to take packages from."""
    told = run(sys.executable, "-m", "pip", "config", "list")
    named = re.findall(r"(?<=[\s'])(?:file://)?(/[^\s']+)", told)
    tops = {
        str(Path(name).parent if Path(name).name == "simple" else name)
        for name in named
        if Path(name).is_dir()
    }
    return sorted(tops - {"/"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
