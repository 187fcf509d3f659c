"""`python -m manor_bus`: run this node's broker."""

from __future__ import annotations

import logging
import signal
import sys

from manor_bus.broker.place import check_keys, wait_turn
from manor_bus.broker.server import Broker, harden
from manor_bus.settings import BrokerSettings
from manor_bus.wire.errors import EXIT_CODES, ManorError


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    harden()
    settings = BrokerSettings.from_environment()
    try:
        check_keys(settings)
        wait_turn(settings)
        broker = Broker(settings)
    except ManorError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        sys.exit(EXIT_CODES[error.kind])
    signal.signal(signal.SIGTERM, lambda *_: broker.stop())
    signal.signal(signal.SIGINT, lambda *_: broker.stop())
    try:
        broker.run()
    finally:
        broker.close()


if __name__ == "__main__":
    main()
