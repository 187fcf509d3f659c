"""Who may type at a console: one at a time, and whoever takes the place from another says so. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, conflict

REMEMBERED: Final = 16  # tokens that were taken away


@dataclass(frozen=True)
class Seat:
    """`who` sits here since the call `key`, and proves it with `token`; empty: nobody."""

    who: str = ""
    key: str = ""
    token: str = ""
    lost: tuple[str, ...] = ()


def take(seat: Seat, who: str, key: str, token: str, *, steal: bool) -> Seat:
    """Sit down. A repeated call finds its own token. Raises `conflict` naming who sits there."""
    if seat.token and seat.key == key and seat.who == who:
        return seat
    if seat.token and not steal:
        hint = "Watch only, or take the console from them (--steal)."
        raise conflict(f"{seat.who} is typing at this console", hint=hint)
    lost = (*seat.lost, seat.token)[-REMEMBERED:] if seat.token else seat.lost
    return Seat(who, key, token, lost)


def check(seat: Seat, token: str) -> None:
    """Raise `conflict` when the place was taken by another, `stale` when the token is of another time."""
    if token and token == seat.token:
        return
    if token in seat.lost:
        now = f"by {seat.who}" if seat.who else "and given back"
        raise conflict(f"the console was taken {now}", hint="Take it back (--steal), or watch only.")
    raise ManorError(Kind.STALE, "this token does not give the right to write", hint="Attach again.")


def leave(seat: Seat, token: str) -> Seat:
    """Stand up; a token that is not the present one changes nothing."""
    return replace(seat, who="", key="", token="") if token and token == seat.token else seat
