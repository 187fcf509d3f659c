"""CURVE keys: one file per principal (0600), and one table of who is who for the broker.

$MANOR_DIR/keys/broker.key          secret and public key of the broker
$MANOR_DIR/keys/broker.pub          its public key, for peers
$MANOR_DIR/keys/<kind>-<name>.key   secret and public key of a principal
$MANOR_DIR/keys/authorised.json     {"<public key>": "<kind>/<name>"}: who may attach

Key files are JSON {"public": …, "secret": …} in Z85. Source: design page "Security", section Identities.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, conflict, not_found, unavailable

PRINCIPAL: Final = re.compile(r"(service|operator|observer|node)/[a-z0-9][a-z0-9_-]{0,62}")
SERVICES: Final = ("config", "discovery", "lifecycle", "devices")
_Z85_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair in Z85, 40 characters each."""

    public: str
    secret: str


def generate() -> KeyPair:
    """Make a new key pair from the operating system's randomness."""
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def key_file(directory: Path, principal: str) -> Path:
    """Return where the key of a principal lives."""
    return directory / (principal.replace("/", "-") + ".key")


def check_principal(principal: str) -> None:
    """Refuse names that are not `<kind>/<name>`."""
    if PRINCIPAL.fullmatch(principal) is None:
        problem = Problem(
            path="principal",
            value=principal[:80],
            reason="not a principal",
            allowed="service/NAME, operator/NAME, observer/NAME, node/NAME (lower case)",
        )
        raise bad_request(f"{principal[:80]!r} is not a principal", problem)


def check_public(public: str) -> None:
    """Refuse what is not a Z85 public key."""
    if _Z85_KEY.fullmatch(public) is None:
        problem = Problem(path="public_key", reason="not a CURVE key", allowed="40 characters of Z85")
        raise bad_request("not a CURVE public key", problem)


def create(directory: Path) -> tuple[str, ...]:
    """Make a node's first keys, and make anew what was lost of them: broker, the four services, one operator.

    What is sound stays. The broker's public key follows from its key, the table from the key files; whose
    secret is elsewhere must be added to a new table by hand. Returns what was made, in words.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    first = not (directory / "broker.key").exists()
    broker = _sound(directory / "broker.key")
    if broker is None:
        broker = _make(directory / "broker.key")
        made.append("key of broker")
    if not _is(directory / "broker.pub", broker.public):
        _write(directory / "broker.pub", broker.public.encode(), mode=0o644)
        made += [] if made else ["broker.pub from the broker's key"]
    known = _table(directory)
    table = _from_files(directory, known)
    for principal in _needed(directory, table):
        table = {public: one for public, one in table.items() if one != principal}
        table[_make(key_file(directory, principal)).public] = principal
        made.append(f"key of {principal}")
    if table != known:
        _save(directory, table)
        made += [] if first or known is not None else ["authorised.json from the keys"]
    return tuple(made)


def _needed(directory: Path, table: Mapping[str, str]) -> list[str]:
    """Return who needs a new key: a service without a sound one, and one operator where there is none."""
    needed = [f"service/{name}" for name in SERVICES]
    needed = [one for one in needed if _sound(key_file(directory, one)) is None]
    admin = key_file(directory, "operator/admin")
    lost = admin.exists() and _sound(admin) is None
    return needed + ([] if any(map(_operates, table.values())) and not lost else ["operator/admin"])


def _operates(principal: str) -> bool:
    return principal.startswith("operator/")


def _from_files(directory: Path, table: Mapping[str, str] | None) -> dict[str, str]:
    """Return the table as the key files say: of the services always, of all where the table was lost."""
    found = dict(table or {})
    for path in sorted(directory.glob("*-*.key")):
        principal = path.stem.replace("-", "/", 1)
        service = principal in {f"service/{name}" for name in SERVICES}
        pair = _sound(path) if PRINCIPAL.fullmatch(principal) else None
        if pair is not None and (service or table is None):
            found = {public: one for public, one in found.items() if one != principal}
            found[pair.public] = principal
    return found


def _sound(path: Path) -> KeyPair | None:
    """Read a key pair; None when it is not there, or damaged. One that others may read is refused."""
    try:
        return load(path) if path.exists() else None
    except ManorError as error:
        if error.kind is Kind.BAD_REQUEST:
            return None
        raise


def _is(path: Path, public: str) -> bool:
    try:
        return load_public(path) == public
    except ManorError:
        return False


def _table(directory: Path) -> dict[str, str] | None:
    """Read the table; None when it is not there, or damaged."""
    try:
        return authorised(directory) or None
    except ManorError as error:
        if error.kind is Kind.BAD_REQUEST:
            return None
        raise


def add(directory: Path, principal: str, public: str = "") -> Path | None:
    """Authorise a principal. Without `public` a key pair is made and its file returned."""
    check_principal(principal)
    table = authorised(directory)
    if principal in table.values():
        hint = f"Rotate it: manor credential rotate {principal}"
        raise conflict(f"{principal} has a key already", hint=hint)
    return _issue(directory, table, principal, public)


def rotate(directory: Path, principal: str, public: str = "") -> Path | None:
    """Replace a principal's key; the old one no longer opens a session."""
    hint = f"Add one: manor credential add {principal}"
    return _issue(directory, _without(directory, principal, hint), principal, public)


def revoke(directory: Path, principal: str) -> None:
    """Remove a principal's key from the table and its secret from the disk."""
    _save(directory, _without(directory, principal, "List them: manor credential list"))
    key_file(directory, principal).unlink(missing_ok=True)


def _without(directory: Path, principal: str, hint: str) -> dict[str, str]:
    """Return the table without a principal, who must be in it."""
    check_principal(principal)
    table = authorised(directory)
    if principal not in table.values():
        raise not_found(f"{principal} has no key", hint=hint)
    return {public: other for public, other in table.items() if other != principal}


def authorised(directory: Path) -> dict[str, str]:
    """Read the table public key -> principal. An unreadable table is refused, never taken as empty."""
    path = directory / "authorised.json"
    try:
        table = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise bad_request(f"{path} is not valid JSON: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise bad_request(f"{path} is not a table of public keys")
    for public, principal in table.items():
        check_public(public)
        check_principal(principal)
    return table


def check_grant(public: str, principal: str) -> None:
    """Refuse keys that a document may not grant: Manor's own services and nodes have theirs in the folder."""
    check_public(public)
    check_principal(principal)
    kind, _, name = principal.partition("/")
    if kind == "node" or (kind == "service" and name in SERVICES):
        problem = Problem(path="principal", value=principal, reason="only the key folder may name it")
        raise bad_request(f"{principal} cannot be granted by a document", problem)


def load(path: Path) -> KeyPair:
    """Read a key pair; refuses a file that others may read."""
    text = _read(path, "Ask its owner for a key of yours", private=True)
    try:
        pair = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        pair = None
    if not isinstance(pair, dict):
        raise bad_request(f"{path} is not a key file", hint="Replace it: manor credential rotate")
    for half in ("public", "secret"):
        check_public(str(pair.get(half)))
    return KeyPair(str(pair["public"]), str(pair["secret"]))


def load_public(path: Path) -> str:
    """Read the broker's public key; an empty or damaged file is told as such."""
    public = _read(path, "Ask its owner to let you in").strip()
    if _Z85_KEY.fullmatch(public) is None:
        reason = "is damaged" if public else "is empty"
        raise bad_request(f"{path} {reason}", hint="Make it anew from the broker's key: manor init")
    return public


def _read(path: Path, hint: str, *, private: bool = False) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            if private and _shared(os.fstat(file.fileno())):
                raise ManorError(Kind.FORBIDDEN, f"{path} can be read by others", hint=f"chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        raise unavailable(f"no key at {path}", delivered=False, hint="Create keys: manor init") from None
    except PermissionError:
        raise ManorError(Kind.FORBIDDEN, f"{path} cannot be read by you", hint=hint) from None
    except OSError as error:
        hint = "The file system or its server does not answer: see `dmesg` and `mount`."
        raise unavailable(f"{path}: {error.strerror}", delivered=False, hint=hint) from None


def _shared(there: os.stat_result) -> bool:
    """Say whether others may read it. Of what systemd hands over (root's, 0440) the bits of the group, which
    is root's, are those of the access list that lets us in."""
    handed = there.st_uid == there.st_gid == 0 and stat.S_IMODE(there.st_mode) == 0o440
    return bool(there.st_mode & 0o077) and not handed


def _issue(directory: Path, table: Mapping[str, str], principal: str, public: str) -> Path | None:
    path = None
    if public:
        check_public(public)
    else:
        path = key_file(directory, principal)
        public = _make(path).public
    _save(directory, {**table, public: principal})
    return path


def _make(path: Path) -> KeyPair:
    pair = generate()
    _write(path, msgspec.json.encode(pair))
    return pair


def _save(directory: Path, table: Mapping[str, str]) -> None:
    content = msgspec.json.format(msgspec.json.encode(table), indent=1)
    _write(directory / "authorised.json", content, mode=0o640)  # no secret: the broker's group may read it


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    from manor_host import durable  # its asyncio would make every command slower

    durable.replace(path, content + b"\n", mode)
