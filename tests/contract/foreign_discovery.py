"""A discovery that knows nothing of ours but docs/wire.md and docs/messages.md: pyzmq and msgpack alone.

    python foreign_discovery.py STATE_DIRECTORY

It passes the same contract as ours and can take its place at any time. One thread, one socket, no recovery of
its own: whatever is lost, it subscribes anew.
"""

import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import zmq

HELLO, WELCOME, REQ, PART, REP, PUB, SUB, UNSUB, CREDIT, PING, DRAIN, RESET = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
)
OWNERS = {"domain": "service/lifecycle", "node": "service/lifecycle", "provider": "service/devices",
          "resource": "service/devices", "service": "bus"}  # fmt: skip
PATIENCE_S, ANSWER_S, KEEP_S = 5.0, 0.5, 3600.0
TERM = re.compile(r"(!)?([A-Za-z0-9][A-Za-z0-9._/-]*)(?:(!=|==?)([A-Za-z0-9._/:-]*))?")


class Refused(Exception):
    """The caller asked for something that does not exist in this language."""


@dataclass
class Owner:
    """A principal on its node: which instances are attached and what they may own, what was said last."""

    moved: float
    attached: dict = field(default_factory=dict)  # address -> patterns
    asking: dict = field(default_factory=dict)  # address -> items of the snapshot so far
    speaker: str = ""
    epoch: str = ""
    rev: int = 0
    facts: dict = field(default_factory=dict)  # subject -> (value, address, since)
    later: list = field(default_factory=list)

    @property
    def heard(self):
        return self.speaker in self.attached and not self.asking


def under(pattern, subject):
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(
            w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False)
        )
    return len(given) == len(wanted) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def terms(text):
    found = []
    for part in text.split(",") if text.strip() else ():
        term = TERM.fullmatch(part.strip())
        if term is None or (term[1] and term[3]):
            raise Refused(part)
        found.append(
            (term[2], "absent" if term[1] else term[3].replace("==", "=") if term[3] else "present", term[4])
        )
    return found


def holds(term, labels):
    key, operator, value = term
    if operator in ("present", "absent"):
        return (key in labels) == (operator == "present")
    return (labels.get(key) == value) == (operator == "=")


def labels_of(fact):
    own = {key: str(fact[key]) for key in ("name", "node", "state", "service", "backend") if fact.get(key)}
    return {**own, **fact.get("labels", {})}


class Stream:
    """One kind: its subscription and its owners."""

    def __init__(self, bus, kind, sid):
        self.bus, self.kind, self.sid = bus, kind, sid
        self.pattern = "service.>" if kind == "service" else f"{kind}.*"
        self.owners, self.asked, self.next, self.request = {}, {}, None, ""

    def subscribe(self):
        self.bus.send(UNSUB, data={"sid": self.sid})
        self.sid += len(OWNERS)
        self.next, self.consumed, self.asked = None, [0, 0], {}
        for owner in self.owners.values():
            owner.attached, owner.asking, owner.later, owner.epoch = {}, {}, [], ""
        self.request = self.bus.send(SUB, to=self.pattern, data={"sid": self.sid, "window": 1024})

    def live(self, data):
        self.next = data["seq"]
        for one in data.get("owners", []):
            self.came(one["address"], one["owns"])

    def owner(self, address):
        who = address.rpartition("/")[0]
        return self.owners.setdefault(who, Owner(time.monotonic()))

    def came(self, address, owns):
        owner = self.owner(address)
        if not owner.attached:
            owner.moved = time.monotonic()
        owner.attached[address], owner.asking[address] = owns, {}
        to = f"srv.snapshot@{address.partition('@')[2]}"
        self.asked[self.bus.send(REQ, to=to, timeout=10_000, data={"pattern": self.pattern})] = address

    def part(self, request, items):
        address = self.asked[request]
        owner = self.owner(address)
        for item in items:
            if any(under(pattern, item["subject"]) for pattern in owner.attached.get(address, ())):
                owner.asking.get(address, {})[item["subject"]] = item["value"]

    def answered(self, request, message):
        address = self.asked.pop(request)
        owner = self.owner(address)
        fresh = owner.asking.pop(address, None)
        if address not in owner.attached or fresh is None:
            return
        if "err" in message:
            return self.came(address, owner.attached[address])
        epoch = message["data"]["epoch"]
        if epoch < owner.epoch:
            return  # a predecessor that has not left yet
        owner.speaker, owner.epoch, owner.rev = address, epoch, message["data"]["rev"]
        before, owner.facts = owner.facts, {}
        for subject, value in fresh.items():
            since = before[subject][2] if subject in before else time.time()
            self.store(owner, address, subject, value, since)
        later, owner.later = owner.later, []
        for sender, event in later:
            self.event(sender, event)

    def event(self, sender, message):
        if message["type"] == "bus.owner.v1" and sender.startswith("bus@"):
            return self.owner_changed(message["data"])
        owner = self.owner(sender)
        if owner.asking:
            owner.later.append((sender, message))
        elif sender == owner.speaker and message.get("epoch") == owner.epoch and message["rev"] > owner.rev:
            owner.rev = message["rev"]
            old = owner.facts.pop(message["subject"], None)
            if message.get("data") is not None:
                self.store(owner, sender, message["subject"], message["data"], old[2] if old else time.time())

    def owner_changed(self, data):
        address = data["owner"]["address"]
        if data["present"]:
            return self.came(address, data["owner"]["owns"])
        owner = self.owner(address)
        owner.attached.pop(address, None)
        owner.asking.pop(address, None)
        owner.moved = time.monotonic()
        if owner.speaker == address and owner.attached:
            owner.epoch = ""
            for other, owns in list(owner.attached.items()):
                self.came(other, owns)

    def store(self, owner, address, subject, value, since):
        label, _, rest = address.partition("@")
        node, key = rest.partition("/")[0], subject.partition(".")[2]
        named = value.get("uuid") if self.kind == "domain" else value.get("name")
        there = value.get("name") if self.kind == "node" else value.get("node")
        mine = self.kind in ("provider", "resource") or label == OWNERS[self.kind]
        if mine and named == key and there == node:
            owner.facts[subject] = value, address, since

    def items(self, frame, number, items, superseded):
        if number != self.next:
            return self.subscribe()
        self.next += len(items)
        head = len(msgpack.packb([self.sid, number, [], *superseded])) + (len(items) > 15) * 2
        self.consumed = [self.consumed[0] + len(items), self.consumed[1] + len(frame) - head]
        if items:
            credit = {"sid": self.sid, "messages": self.consumed[0], "size": self.consumed[1]}
            self.bus.send(CREDIT, data=credit)
        for sender, message in items:
            self.event(sender, message)

    # --- questions

    def counted(self, now):
        """(name, owner) of all whose word counts, the one of this node first."""
        expected = f"{OWNERS[self.kind]}@{self.bus.node}"
        yield expected, self.owners.setdefault(expected, Owner(self.bus.began))
        for who, owner in self.owners.items():
            if who != expected and (owner.attached or now - owner.moved < KEEP_S):
                yield who, owner

    def missing(self, now):
        return [(who, owner) for who, owner in self.counted(now) if not owner.heard or self.next is None]

    def find(self, data, now):
        wanted = terms(data.get("selector", ""))
        found = {}
        for who, owner in self.counted(now):
            for subject, (fact, address, since) in owner.facts.items():
                if data.get("name") and data["name"] not in (fact["name"], subject.partition(".")[2]):
                    continue
                if not all(holds(term, labels_of(fact)) for term in wanted):
                    continue
                rank = (owner.heard, fact.get("incarnation", 0), fact.get("generation", 0))
                key = subject if self.kind == "domain" else (who, subject)
                entry = {"fact": {**fact, "kind": self.kind}, "owner": address, "since": since}
                if not owner.heard:
                    entry |= {"stale": True, "heard": max(1, int((now - owner.moved) * 1000))}
                if key not in found or found[key][0] < rank:
                    found[key] = rank, entry
        return [entry for _, entry in found.values()]


class Bus:
    """The socket, and what comes from it."""

    def __init__(self, directory):
        keys = Path(directory).resolve() / "keys"
        pair = json.loads((keys / "service-discovery.key").read_text())
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            pair[k].encode() for k in ("public", "secret")
        )
        self.socket.curve_serverkey = (keys / "broker.pub").read_bytes().strip()
        self.socket.connect(f"ipc://{keys.parent}/run/bus.sock")
        self.instance, self.count, self.began = os.urandom(8).hex(), 0, time.monotonic()
        self.node, self.address, self.asking, self.leaving = "", "", [], False
        self.streams = {kind: Stream(self, kind, sid + 1) for sid, kind in enumerate(OWNERS)}

    def send(self, kind, **rest):
        self.count += 1
        self.socket.send(msgpack.packb({"k": kind, "id": f"{self.count}", **rest}))
        return f"{self.count}"

    def hello(self):
        serves = [] if self.leaving else ["discovery.>"]
        hello = {"protocol": [1, 1], "instance": self.instance, "pid": os.getpid(), "serves": serves}
        self.send(HELLO, data={**hello, "version": "foreign"})

    def run(self):
        self.hello()
        heard = time.monotonic()
        while not (self.leaving and not self.asking):
            if self.socket.poll(50):
                heard = time.monotonic()
                self.receive(self.socket.recv())
            elif time.monotonic() - heard > 1.0:
                heard = time.monotonic()
                self.send(PING)
            self.answer()
        self.socket.close(1_000)

    def receive(self, frame):
        sid, number, items, *superseded = msgpack.unpackb(frame)
        if sid == 0:
            for sender, message in items:
                self.take(sender, message)
            return
        for stream in self.streams.values():
            if stream.sid == sid and stream.next is not None:
                stream.items(frame, number, items, superseded)

    def take(self, sender, message):
        kind, re_ = message["k"], message.get("re", "")
        if kind == RESET:
            self.hello()
        elif kind == WELCOME:
            self.address = message["data"]["address"]
            self.node = self.address.partition("@")[2].partition("/")[0]
            for stream in self.streams.values():
                stream.subscribe()
        elif kind == DRAIN:
            self.leaving = True
        elif kind == REQ:
            self.asked(sender, message)
        for stream in self.streams.values():
            if kind == REP and re_ == stream.request:
                stream.live(message["data"])
            elif kind == PART and re_ in stream.asked:
                stream.part(re_, message["data"]["items"])
            elif kind == REP and re_ in stream.asked:
                stream.answered(re_, message)

    # --- calls

    def asked(self, sender, message):
        subject = message["to"].partition("@")[0]
        data = message.get("data") or {}
        if subject == "discovery.find" and data.get("kind") in OWNERS:
            self.asking.append((time.monotonic() + message["timeout"] / 1000 - ANSWER_S, sender, message))
        elif subject in ("srv.ping", "srv.drain"):
            self.reply(sender, message, {})
            if subject == "srv.drain":
                self.send(DRAIN)
        elif subject == "srv.info":
            me = {"name": "discovery", "instance": self.instance, "node": self.node, "pid": os.getpid()}
            self.reply(sender, message, {**me, "version": "foreign", "ready": True})
        else:
            self.refuse(sender, message, f"{subject} is not understood")

    def answer(self):
        now, waiting, self.asking = time.monotonic(), self.asking, []
        for until, sender, message in waiting:
            stream = self.streams[message["data"]["kind"]]
            missing = stream.missing(now)
            patient = max((owner.moved for _, owner in missing), default=0.0) + PATIENCE_S
            if missing and now < min(until, patient):
                self.asking.append((until, sender, message))
                continue
            try:
                found = stream.find(message["data"], now)
            except Refused as term:
                self.refuse(sender, message, f"cannot read the selector at {term}")
                continue
            for at in range(0, len(found), 200):
                self.send(PART, to=sender, re=message["id"], data={"entries": found[at : at + 200]})
            told = [f"{who} is missing since {now - owner.moved:.0f} s" for who, owner in missing]
            self.reply(sender, message, {"count": len(found), "complete": not told, "missing": told})

    def reply(self, sender, message, data):
        self.send(REP, to=sender, re=message["id"], last=True, data=data)

    def refuse(self, sender, message, text):
        err = {"kind": "bad_request", "message": text, "origin": "service", "delivered": True}
        self.send(REP, to=sender, re=message["id"], last=True, err=err)


if __name__ == "__main__":
    Bus(sys.argv[1]).run()
