// Watch objects on Manor's bus from another language: docs/wire.md, spoken by a stranger.
//
//     npm ci --prefix examples --ignore-scripts
//     node examples/watch.js STATE_DIRECTORY [PATTERN [KEY_FILE]]
//
// Prints one JSON object a line: {"subject": …, "value": …}; value null means that the object is gone. Broker
// and services may come and go: after every loss it subscribes anew and makes its view equal to the owners'.
"use strict";
const { randomBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join, resolve } = require("node:path");
const { isDeepStrictEqual } = require("node:util");
const { decode, encode } = require("@msgpack/msgpack");
const { Dealer } = require("zeromq");

const HELLO = 1, WELCOME = 2, REQ = 3, PART = 4, REP = 5, SUB = 8, UNSUB = 9, CREDIT = 10, PING = 11, RESET = 13;
const withoutInstance = (address) => address.slice(0, address.lastIndexOf("/"));

class Watcher {
  constructor(directory, pattern = "domain.*", keyFile = undefined) {
    const keys = join(resolve(directory), "keys");
    const pair = JSON.parse(readFileSync(keyFile ?? join(keys, "operator-admin.key"), "utf8"));
    this.socket = new Dealer({
      curvePublicKey: pair.public,
      curveSecretKey: pair.secret,
      curveServerKey: readFileSync(join(keys, "broker.pub"), "utf8").trim(),
    });
    this.socket.connect(`ipc://${resolve(directory)}/run/bus.sock`);
    this.pattern = pattern;
    this.instance = randomBytes(8).toString("hex");
    this.count = 0;
    this.sid = 0;
    this.next = this.subscription = this.waiting = null;
    this.view = new Map(); // subject -> {value, role}
    this.sending = Promise.resolve(); // the socket takes one message at a time
  }

  async run() {
    this.hello();
    // A broker that does not know us (any more) answers PING with RESET.
    let silence = setInterval(() => this.send(PING), 2000);
    for await (const [frame] of this.socket) {
      silence.refresh();
      this.receive(frame);
    }
  }

  send(kind, rest = {}) {
    const id = String(++this.count);
    this.sending = this.sending.then(() => this.socket.send(encode({ k: kind, id, ...rest })));
    return id;
  }

  hello() {
    this.next = null;
    this.send(HELLO, { data: { protocol: [1, 1], instance: this.instance, pid: process.pid } });
  }

  // Begin anew: live events wait until every owner's snapshot is there.
  subscribe() {
    this.send(UNSUB, { data: { sid: this.sid } });
    this.sid += 1;
    this.next = this.waiting = null;
    this.consumed = { messages: 0, size: 0 };
    this.fresh = new Map();
    this.later = [];
    this.owners = new Map(); // address -> {epoch, rev}
    this.subscription = this.send(SUB, { to: this.pattern, data: { sid: this.sid, window: 256 } });
  }

  receive(frame) {
    const [sid, number, items, ...superseded] = decode(frame);
    if (sid === 0) {
      for (const [, message] of items) this.take(message);
    } else if (sid === this.sid && this.next !== null) {
      if (number !== this.next) return this.subscribe(); // something was dropped for us
      this.next += items.length;
      const head = encode([sid, number, [], ...superseded]).length + (items.length > 15 ? 2 : 0);
      this.consumed.messages += items.length;
      this.consumed.size += frame.length - head;
      if (items.length) this.send(CREDIT, { data: { sid, ...this.consumed } });
      for (const [sender, message] of items) this.event(sender, message);
    }
  }

  take({ k: kind, re, data, err }) {
    if (kind === RESET) return this.hello();
    if (kind === WELCOME && !err) return this.subscribe();
    if (kind === WELCOME || (kind === REP && re === this.subscription && err)) {
      console.error(`${err.kind}: ${err.message}`);
      process.exit(1);
    }
    if (kind === REP && re === this.subscription) {
      this.next = data.seq;
      this.waiting = new Map((data.owners ?? []).map(({ address }) => [this.ask(address), address]));
    } else if (this.waiting?.has(re)) {
      const owner = this.waiting.get(re);
      if (kind === PART) {
        for (const { subject, value } of data.items) {
          this.fresh.set(subject, { value, role: withoutInstance(owner) });
        }
      } else {
        this.waiting.delete(re);
        if (!err) this.owners.set(owner, data); // else it left, and its successor announces itself
      }
    }
    if (kind === REP && this.waiting?.size === 0 && this.later) this.complete();
  }

  ask(owner) {
    const to = `srv.snapshot@${owner.slice(owner.indexOf("@") + 1)}`;
    return this.send(REQ, { to, timeout: 5000, data: { pattern: this.pattern } });
  }

  complete() {
    const roles = new Set([...this.owners.keys()].map(withoutInstance));
    for (const [subject, { role }] of [...this.view]) {
      if (roles.has(role) && !this.fresh.has(subject)) this.show(subject, null, "");
    }
    for (const [subject, one] of this.fresh) {
      if (!isDeepStrictEqual(this.view.get(subject), one)) this.show(subject, one.value, one.role);
    }
    const later = this.later;
    this.later = null;
    for (const [sender, message] of later) this.event(sender, message);
  }

  event(sender, message) {
    const known = this.owners.get(sender);
    if (this.later) {
      this.later.push([sender, message]);
    } else if (message.type === "bus.owner.v1") {
      if (message.data.present) this.subscribe();
    } else if (!message.epoch) {
      this.show(message.subject, message.data ?? null, ""); // passing news, of which nobody keeps state
    } else if (known?.epoch === message.epoch && message.rev > known.rev) {
      known.rev = message.rev;
      this.show(message.subject, message.data ?? null, withoutInstance(sender));
    }
  }

  show(subject, value, role) {
    if (value === null) this.view.delete(subject);
    else this.view.set(subject, { value, role });
    console.log(JSON.stringify({ subject, value }));
  }
}

new Watcher(...process.argv.slice(2)).run();
