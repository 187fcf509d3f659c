"""Empty Debian roots, made by debootstrap, kept in the cache as tar archives. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(
    os.environ.get("MANOR_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manor"
)
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class NotHere(Exception):
    """What a test needs is not possible on this machine; the text says why."""


def run(*command: str | Path, within: float = 600.0, **options: object) -> str:
    """Run a program to its end; its output, or what it said when it failed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
        **options,
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)[:200]
        message = f"{words} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise AssertionError(message)
    return str(done.stdout)


def suite_here() -> str:
    """The name of this machine's Debian, or Ubuntu."""
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return release["VERSION_CODENAME"]


def debian(name: str, suite: str, packages: Sequence[str]) -> Path:
    """A root file system with these packages and nothing else, as an archive `NAME-SUITE.tar`; made once."""
    archive = CACHE / f"{name}-{suite}.tar"
    if archive.exists():
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / f"{name}-{suite}.{os.getpid()}"
    include = f"--include={','.join(packages)}"
    try:
        command = ["debootstrap", "--variant=minbase", include, suite, str(root)]
        try:
            run(*command, *_mirror(suite), env={**os.environ, "PATH": PATH})
        except (AssertionError, OSError) as error:
            raise NotHere(f"no root of {suite}: {str(error)[-400:]}") from None
        for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / folder)
        part = archive.with_suffix(f".tar.{os.getpid()}")  # not the name of the folder
        run("tar", "-C", root, "--exclude=./dev/*", "-cf", part, ".")
        part.rename(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return archive


def unpacked(suite: str, packages: Sequence[str]) -> Path:
    """A folder with what these packages of a suite hold, without what they depend on; made once."""
    folder = CACHE / f"{packages[0]}-{suite}"
    if folder.exists():
        return folder
    if not (mirror := _mirror(suite)):
        raise NotHere(f"no mirror for packages of {suite}")
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    (part / "apt" / "lists" / "partial").mkdir(parents=True)
    try:
        (part / "apt" / "sources.list").write_text(f"deb {mirror[0]} {suite} main\n")
        places = {"Etc::sourcelist": f"{part}/apt/sources.list", "Etc::sourceparts": "/dev/null",
                  "State::lists": f"{part}/apt/lists", "Cache": f"{part}/apt"}  # fmt: skip
        apt = [
            "apt-get",
            *(word for name, place in places.items() for word in ("-o", f"Dir::{name}={place}")),
        ]
        try:
            run(*apt, "update")
            run(*apt, "download", *packages, cwd=part / "apt")
        except AssertionError as error:
            raise NotHere(f"no packages of {suite}: {str(error)[-400:]}") from None
        for one in (part / "apt").glob("*.deb"):
            run("dpkg-deb", "--extract", one, part)
        shutil.rmtree(part / "apt")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _mirror(suite: str) -> list[str]:
    """Where this machine gets its packages from: those of this suite, else those of its own."""
    told = run("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
    places = dict(map(str.split, reversed(told.splitlines())))
    return [places[one] for one in (suite, suite_here()) if one in places][:1]
