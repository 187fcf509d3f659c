"""Passes the keys of Credential documents on to the broker, again after each change and each restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.bus import Authorise, Reloaded
from manor_bus.wire.messages.documents import AnyDocument, Credential
from manor_config.references import Ref

PERIOD_S: Final = 0.25
TIMEOUT_S: Final = 5.0
log = logging.getLogger(__name__)


def granted(documents: Iterable[tuple[Ref, AnyDocument]]) -> dict[str, str]:
    """Return public key -> principal of the documents that are not revoked."""
    return {
        document.spec.public_key: document.spec.principal
        for _, document in documents
        if isinstance(document, Credential) and not document.spec.revoked
    }


Documents = Callable[[], Iterable[tuple[Ref, AnyDocument]]]


async def pass_on(peer: Peer, documents: Documents) -> None:
    """Keep the broker's table equal to the documents."""
    told: tuple[str, int] | None = None
    keys: dict[str, str] = {}
    while True:
        now = (peer.session.broker_epoch, peer.state.rev)
        if now != told and peer.session.greeted:
            wanted = granted(documents())
            try:
                if wanted != keys or told is None or told[0] != now[0]:
                    await peer.call(Authorise(keys=wanted), Reloaded, timeout=TIMEOUT_S)
            except ManorError as error:
                log.warning("the broker did not take the credentials: %s", error)
            else:
                told, keys = now, wanted
        await asyncio.sleep(PERIOD_S)
