"""Watch objects on Manor's bus with nothing but pyzmq and msgpack: docs/wire.md, spoken by a stranger.

    python examples/watch.py STATE_DIRECTORY [PATTERN [KEY_FILE]]

Prints one JSON object a line: {"subject": …, "value": …}; value null means that the object is gone. Broker
and services may come and go: after every loss it subscribes anew and makes its view equal to the owners'.
"""

import json
import os
import sys
from pathlib import Path

import msgpack
import zmq

HELLO, WELCOME, REQ, PART, REP, SUB, UNSUB, CREDIT, PING, RESET = 1, 2, 3, 4, 5, 8, 9, 10, 11, 13


class Watcher:
    def __init__(self, directory, pattern="domain.*", key_file=None):
        keys = Path(directory).resolve() / "keys"
        pair = json.loads(Path(key_file or keys / "operator-admin.key").read_text())
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            pair[k].encode() for k in ("public", "secret")
        )
        self.socket.curve_serverkey = (keys / "broker.pub").read_bytes().strip()
        self.socket.connect(f"ipc://{keys.parent}/run/bus.sock")
        self.pattern, self.instance, self.count, self.sid = pattern, os.urandom(8).hex(), 0, 0
        self.next = self.subscription = self.waiting = None
        self.view = {}  # subject -> (value, owner without its instance)

    def run(self):
        self.hello()
        while True:
            if self.socket.poll(2000):
                self.receive(self.socket.recv())
            else:
                self.send(PING)  # a broker that does not know us (any more) answers RESET

    def send(self, kind, **rest):
        self.count += 1
        self.socket.send(msgpack.packb({"k": kind, "id": f"{self.count}", **rest}))
        return f"{self.count}"

    def hello(self):
        self.next = None
        self.send(HELLO, data={"protocol": [1, 1], "instance": self.instance, "pid": os.getpid()})

    def subscribe(self):
        """Begin anew: live events wait until every owner's snapshot is there."""
        self.send(UNSUB, data={"sid": self.sid})
        self.sid, self.next, self.consumed, self.waiting = self.sid + 1, None, [0, 0], None
        self.fresh, self.later, self.owners = {}, [], {}  # owners: address -> (epoch, rev)
        self.subscription = self.send(SUB, to=self.pattern, data={"sid": self.sid, "window": 256})

    def receive(self, frame):
        sid, number, items, *superseded = msgpack.unpackb(frame)
        if sid == 0:
            for _, message in items:
                self.take(message)
        elif sid == self.sid and self.next is not None:
            if number != self.next:
                return self.subscribe()  # something was dropped for us
            self.next += len(items)
            head = len(msgpack.packb([sid, number, [], *superseded])) + (len(items) > 15) * 2
            self.consumed = [self.consumed[0] + len(items), self.consumed[1] + len(frame) - head]
            if items:
                self.send(CREDIT, data={"sid": sid, "messages": self.consumed[0], "size": self.consumed[1]})
            for sender, message in items:
                self.event(sender, message)

    def take(self, message):
        kind, data, re = message["k"], message.get("data"), message.get("re")
        if kind == RESET:
            self.hello()
        elif kind == WELCOME and "err" not in message:
            self.subscribe()
        elif kind == WELCOME or (kind == REP and re == self.subscription and "err" in message):
            sys.exit(f"{message['err']['kind']}: {message['err']['message']}")
        elif kind == REP and re == self.subscription:
            self.next = data["seq"]
            self.waiting = {self.ask(one["address"]): one["address"] for one in data.get("owners", [])}
        elif kind == PART and re in (self.waiting or ()):
            role = self.waiting[re].rpartition("/")[0]
            self.fresh |= {one["subject"]: (one["value"], role) for one in data["items"]}
        elif kind == REP and re in (self.waiting or ()):
            owner = self.waiting.pop(re)
            if "err" not in message:  # else it left, and its successor announces itself
                self.owners[owner] = data["epoch"], data["rev"]
        if kind == REP and self.waiting == {}:
            self.complete()

    def ask(self, owner):
        to = f"srv.snapshot@{owner.partition('@')[2]}"
        return self.send(REQ, to=to, timeout=5000, data={"pattern": self.pattern})

    def complete(self):
        roles = {owner.rpartition("/")[0] for owner in self.owners}
        for subject in [
            one for one, (_, role) in self.view.items() if role in roles and one not in self.fresh
        ]:
            self.show(subject, None, "")
        for subject, (value, role) in self.fresh.items():
            if self.view.get(subject) != (value, role):
                self.show(subject, value, role)
        self.fresh, self.waiting, later, self.later = {}, False, self.later, []
        for sender, message in later:
            self.event(sender, message)

    def event(self, sender, message):
        epoch, rev = self.owners.get(sender, ("", 0))
        if self.waiting is None or self.waiting:
            self.later.append((sender, message))
        elif message["type"] == "bus.owner.v1":
            if message["data"]["present"]:
                self.subscribe()
        elif "epoch" not in message or (message["epoch"] == epoch and message["rev"] > rev):
            self.owners[sender] = epoch, message.get("rev", 0)
            self.show(message["subject"], message.get("data"), sender.rpartition("/")[0])

    def show(self, subject, value, role):
        if value is None:
            self.view.pop(subject, None)
        else:
            self.view[subject] = value, role
        print(json.dumps({"subject": subject, "value": value}, default=bytes.hex), flush=True)


if __name__ == "__main__":
    Watcher(*sys.argv[1:]).run()
