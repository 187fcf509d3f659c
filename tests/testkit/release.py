"""Wheels of an earlier state of this repository, in a folder that a process can be told to prefer.

The earlier state is the last release (the newest tag `v*` before this commit), or while there is none the
commit before this one. The promise began with docs/decisions/0021.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("host", "bus", "cli", "services")
BUILD_S: Final = 300.0


def git(*arguments: str) -> bytes:
    """Run git here; raises CalledProcessError when it refuses."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


def previous() -> str:
    """Return the commit of the last release, or of the commit before this one."""
    tags = git("tag", "--list", "v*", "--merged", "HEAD~1", "--sort=-creatordate").decode().split()
    return git("rev-parse", f"{tags[0]}^{{commit}}" if tags else "HEAD~1").decode().strip()


def build(commit: str, folder: Path) -> Path:
    """Build the wheels of a commit and unpack them; returns the folder for the front of PYTHONPATH."""
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    with zipfile.ZipFile(BytesIO(git("archive", "--format=zip", commit, *ROOMS))) as archive:
        archive.extractall(source)
    rooms = sorted(str(file.parent) for file in source.rglob("pyproject.toml"))
    offline = ("--quiet", "--no-deps", "--no-index")
    _pip("wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), *rooms)
    _pip("install", *offline, "--target", str(site), *map(str, sorted(wheels.glob("*.whl"))))
    return site


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
