#!/usr/bin/env python3
"""Build the demo guest: a Linux kernel and an initramfs, from Debian's (or Ubuntu's) own packages.

    deploy/guest/build.py [--cache DIR] [--packages DIR]

Prints two lines, `kernel PATH` and `initrd PATH`; progress goes to standard error. What is there already is
used again. Needs python3, dpkg-deb and, unless --packages names a folder with the .deb files, apt-get with
package lists. Works as any user: nothing is installed, no device node is made, root is not asked for.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILES = Path(__file__).parent / "files"  # what is copied into the guest as it is
KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")  # the first that exists
REAL = re.compile(r"linux-(image|modules)-[0-9][^ ]*(?<!-unsigned)$")  # what the names above depend on
MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
    "virtio_scsi",
    "sd_mod",
    "nvme",
    "virtio-rng",
    "acpiphp",
    "pciehp",
    "button",
    "evdev",
    "pvpanic-pci",
    "pvpanic-mmio",
    "pvpanic",
)
FOLDERS = ("bin", "dev", "lib/modules", "mnt", "proc", "root", "run", "sbin", "sys", "tmp")


class Impossible(Exception):
    """The image cannot be built here; the text says why and what to do."""


def say(text: str) -> None:
    """Report progress."""
    sys.stderr.write(f"guest image: {text}\n")
    sys.stderr.flush()


def need(tool: str) -> None:
    """Raise `Impossible` without a tool."""
    if shutil.which(tool) is None:
        raise Impossible(f"needs `{tool}`, which this machine does not have (Debian and Ubuntu do)")


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a tool and return what it printed; `Impossible` with its last words when it fails."""
    need(command[0])
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Impossible(f"`{' '.join(command)}` failed: {' / '.join(words)}")
    return done.stdout


def real_packages() -> list[str]:
    """Return the packages that hold the kernel, its modules and the static busybox."""
    for name in KERNELS:
        try:
            listing = run("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", name)
        except Impossible:
            continue
        names = {line.strip() for line in listing.splitlines() if line and not line.startswith(" ")}
        kernels = sorted(found for found in names if REAL.match(found))
        if kernels:
            return [*kernels, "busybox-static"]
    raise Impossible(
        f"apt knows none of {', '.join(KERNELS)}: run `sudo apt-get update`, or give the packages "
        "of a kernel and of busybox-static with --packages DIR"
    )


def fetch(folder: Path) -> list[Path]:
    """Return the package files, downloading those that are not in `folder` yet."""
    for tool in ("apt-cache", "apt-get", "dpkg-deb"):
        need(tool)
    as_root = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
    try:
        names = real_packages()
    except Impossible:
        if os.geteuid():
            raise
        say("apt knows no kernel; fetching the package lists")
        run("apt-get", *as_root, "update", "-q")
        names = real_packages()
    for name in names:
        if not list(folder.glob(f"{name}_*.deb")):
            say(f"downloading {name}")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # never half a package under its name
                run("apt-get", *as_root, "download", "-q", name, cwd=Path(scratch))
                for package in Path(scratch).glob("*.deb"):
                    package.rename(folder / package.name)
    return [sorted(folder.glob(f"{name}_*.deb"))[-1] for name in names]


def content(package: Path) -> dict[str, bytes]:
    """Return the files of a package that matter: kernel, modules and busybox, by path without `usr/`."""
    wanted = re.compile(r"(boot/vmlinuz-[^/]+|bin/busybox|lib/modules/.*\.ko(\.xz|\.zst|\.gz)?)$")
    found: dict[str, bytes] = {}
    with tempfile.TemporaryFile() as archive:
        subprocess.run(("dpkg-deb", "--fsys-tarfile", str(package)), stdout=archive, check=True, timeout=600)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                path = member.name.removeprefix("./").removeprefix("usr/")
                file = tar.extractfile(member) if member.isreg() and wanted.match(path) else None
                if file is not None:
                    found[path] = file.read()
    return found


def unpacked(name: str, module: bytes) -> bytes:
    """Return a kernel module without its compression."""
    if name.endswith(".xz"):
        return lzma.decompress(module)
    if name.endswith(".gz"):
        return gzip.decompress(module)
    if name.endswith(".zst"):
        if shutil.which("zstd") is None:
            raise Impossible("this kernel's modules are compressed with zstd: install the package `zstd`")
        return subprocess.run(
            ("zstd", "-dc"), input=module, capture_output=True, check=True, timeout=60
        ).stdout
    return module


def chosen_modules(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Return the modules of MODULES that this kernel has as files, each after those it depends on."""
    paths = {
        re.sub(r"\.ko.*", "", path.rpartition("/")[2]).replace("-", "_"): path
        for path in files
        if ".ko" in path
    }
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in paths:
            return
        module = unpacked(paths[name], files[paths[name]])
        depends = re.search(rb"\0depends=([^\0]*)\0", module)
        for needed in (depends[1].decode() if depends else "").split(","):
            add(needed)
        order[name] = module

    for name in MODULES:
        add(name)
    return list(order.items())


def cpio_entry(name: str, mode: int, body: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one member of a `newc` archive, the format of a Linux initramfs."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + b"\0" * (-len(head) % 4) + body + b"\0" * (-len(body) % 4)


def members(busybox: bytes, modules: list[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the members of the initramfs."""
    inside = [file.relative_to(FILES) for file in sorted(FILES.rglob("*")) if file.is_file()]
    parents = {str(parent) for path in (*inside, *map(Path, FOLDERS)) for parent in path.parents} - {"."}
    for folder in sorted(parents | set(FOLDERS)):
        yield cpio_entry(folder, stat.S_IFDIR | 0o755)
    yield cpio_entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield cpio_entry("bin/busybox", stat.S_IFREG | 0o755, busybox)
    yield cpio_entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    yield cpio_entry("init", stat.S_IFLNK | 0o777, b"bin/busybox")
    for name, module in modules:
        yield cpio_entry(f"lib/modules/{name}.ko", stat.S_IFREG | 0o644, module)
    order = "".join(f"{name}\n" for name, _ in modules)
    yield cpio_entry("lib/modules/order", stat.S_IFREG | 0o644, order.encode())
    for path in inside:
        body = (FILES / path).read_bytes()
        mode = 0o755 if body.startswith(b"#!") else 0o644
        yield cpio_entry(str(path), stat.S_IFREG | mode, body)
    yield cpio_entry("TRAILER!!!", 0)


def initramfs(busybox: bytes, modules: list[tuple[str, bytes]]) -> bytes:
    """Return the compressed initramfs; the same input gives the same bytes."""
    image = io.BytesIO()
    with gzip.GzipFile(fileobj=image, mode="wb", compresslevel=6, mtime=0) as archive:
        for member in members(busybox, modules):
            archive.write(member)
    return image.getvalue()


def build(packages: list[Path], folder: Path) -> None:
    """Write `vmlinuz` and `initramfs.gz` into `folder`, which appears only when complete."""
    files: dict[str, bytes] = {}
    for package in packages:
        files |= content(package)
    kernels = sorted(path for path in files if path.startswith("boot/vmlinuz-"))
    if not kernels or "bin/busybox" not in files:
        names = ", ".join(package.name for package in packages)
        raise Impossible(f"no kernel or no busybox in these packages: {names}")
    modules = chosen_modules(files)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "image"
        made.mkdir()
        (made / "vmlinuz").write_bytes(files[kernels[-1]])
        (made / "initramfs.gz").write_bytes(initramfs(files["bin/busybox"], modules))
        for file in made.iterdir():
            file.chmod(0o644)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else another builder was faster with the same image
                raise
    say(f"built {folder} with {len(modules)} kernel modules")


def recipe_digest(packages: list[Path]) -> str:
    """Return a name for the image that changes with anything that goes into it."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(FILES.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(FILES)).encode() + b"\0" + file.read_bytes())
    for package in packages:
        digest.update(package.name.encode())
    return digest.hexdigest()[:16]


def main() -> int:
    """Build what is missing and print where it is."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # noqa: TID251 (not a room: a script)
    options = argparse.ArgumentParser(description="Build the demo guest's kernel and initramfs.")
    options.add_argument("--cache", type=Path, default=Path(home) / "manor", help="default: %(default)s")
    options.add_argument("--packages", type=Path, help="a folder with the .deb files, instead of apt-get")
    chosen = options.parse_args()
    try:
        store = chosen.cache.resolve() / "guest"
        (store / "packages").mkdir(parents=True, exist_ok=True)
        packages = sorted(chosen.packages.glob("*.deb")) if chosen.packages else fetch(store / "packages")
        folder = store / recipe_digest(packages)
        if not folder.exists():
            build(packages, folder)
    except (Impossible, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        say(f"cannot be built: {error}")
        return 1
    sys.stdout.write(f"kernel {folder / 'vmlinuz'}\ninitrd {folder / 'initramfs.gz'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
