"""Who may do what on the bus: one pure decision. Default deny.

This first policy has five rules over the kinds of principals; the label policy of the design page "Security"
replaces `decide` behind the same signature. Verbs: serve, publish, call, watch, tap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.subjects import matches

PUBLISHES: Final = MappingProxyType(
    {
        "config": ("config.>",),
        "discovery": (),
        "lifecycle": ("domain.*", "node.*", "operation.*", "console.*"),
        "devices": ("device.>", "backend.*", "volume.*", "provider.*", "resource.*"),
    }
)
SHARED: Final = ("provider", "resource")  # other services publish there, under their own name
QUESTIONS: Final = ("srv.snapshot", "discovery.find")  # what whoever watches may ask
CONFIG_ONLY: Final = "bus.authorise"
OPERATORS_ONLY: Final = ("bus.kick", "bus.reload")
DECISIONS_MAX: Final = 65_536
_RESERVED: Final = frozenset(("bus", "srv", "operator", "domain", "node", "service", *SHARED, *PUBLISHES))


@dataclass(frozen=True)
class Decision:
    """Allowed or not, and the rule that says so."""

    allowed: bool
    rule: str


_DENIED: Final = Decision(False, "default deny: no rule allows it")


def decide(label: str, verb: str, subject: str) -> Decision:
    """Decide whether principal `label` (`service/config`, `operator/alice`) may do `verb` on a subject."""
    kind, _, name = label.partition("/")
    if not name:
        return _DENIED
    if verb == "call" and subject == CONFIG_ONLY:
        return Decision(label == "service/config", "only config passes credentials on")
    if kind == "service":
        return _service(name, verb, subject)
    if kind == "operator":
        if verb in ("call", "watch", "tap"):
            return Decision(True, "operators may call and watch everything")
        if verb == "publish" and matches(f"operator.{name}.>", subject):
            return Decision(True, "operators may publish under their own name")
    if kind == "observer" and (verb == "watch" or (verb == "call" and subject in QUESTIONS)):
        return Decision(True, "observers may only watch")
    return _DENIED


def _service(name: str, verb: str, subject: str) -> Decision:
    if verb == "call" and subject in OPERATORS_ONLY:
        return Decision(False, "only operators may end sessions")
    if verb in ("call", "watch"):
        return Decision(True, "services may call and watch everything")
    if verb == "serve" and matches(f"{name}.>", subject) and name not in ("bus", "srv"):
        return Decision(True, "a service may serve its own subjects")
    own = PUBLISHES.get(name, () if name in _RESERVED else (f"{name}.>",))
    if verb == "publish" and any(matches(pattern, subject) for pattern in own):
        return Decision(True, "a service may publish its own subjects")
    if verb == "publish" and name not in _RESERVED and _shares(name, subject):
        return Decision(True, "a service may publish providers and resources under its own name")
    return _DENIED


def _shares(name: str, subject: str) -> bool:
    """Whether it is `provider.<name>` or `resource.<name>-…` of a third party."""
    kind, _, token = subject.partition(".")
    return kind in SHARED and "." not in token and (token == name or token.startswith(f"{name}-"))


Decide = Callable[[str, str, str], Decision]


class Decisions:
    """What was decided before, until the policy changes."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._known: dict[tuple[str, str, str], Decision] = {}

    def __call__(self, label: str, verb: str, subject: str) -> Decision:
        """Decide, or remember."""
        key = (label, verb, subject)
        decision = self._known.get(key)
        if decision is None:
            if len(self._known) >= DECISIONS_MAX:
                self._known.clear()
            decision = self._known[key] = self._decide(label, verb, subject)
        return decision

    def replace(self, decide: Decide) -> None:
        """Decide by another policy from now on."""
        self._decide = decide
        self._known.clear()
