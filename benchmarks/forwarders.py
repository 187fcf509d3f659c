"""The baselines in C: `zmq.proxy` between ROUTER and DEALER, or XSUB and XPUB; and a ROUTER that echoes.

A child process: `python -m benchmarks.forwarders proxy|pubsub|echo KEYS FRONT BACK`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import zmq

from benchmarks.raw import TOPIC, answer_of
from manor_bus import keys
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope


def server(context: zmq.Context[zmq.Socket[bytes]], kind: int, folder: Path, path: str) -> zmq.Socket[bytes]:
    """A socket with CURVE, as the broker's is, that any key may connect to; without high-water marks, so that
    every side delivers everything."""
    socket = context.socket(kind)
    socket.curve_server = 1
    socket.curve_secretkey = keys.load(folder / "broker.key").secret.encode("ascii")
    socket.sndhwm = socket.rcvhwm = 0
    socket.bind(f"ipc://{path}")
    return socket


def echo(router: zmq.Socket[bytes]) -> None:
    """Answer every request in one process: no forwarding at all."""
    while True:
        conn = router.recv()
        request = codec.decode(router.recv(), Envelope)
        router.send(conn, zmq.SNDMORE)
        router.send(answer_of(request, ""))


def main() -> None:
    """Run until killed."""
    kind, folder, front, back = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if kind == "echo":
        echo(server(context, zmq.ROUTER, folder, front))
    elif kind == "proxy":
        behind = server(context, zmq.DEALER, folder, back)
        zmq.proxy(server(context, zmq.ROUTER, folder, front), behind)
    else:
        behind = server(context, zmq.XPUB, folder, back)
        behind.setsockopt(zmq.XPUB_WELCOME_MSG, TOPIC)  # tells a subscriber that its subscription stands
        zmq.proxy(server(context, zmq.XSUB, folder, front), behind)


if __name__ == "__main__":
    main()
