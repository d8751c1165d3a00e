// ledger-node is the ledger's writer on ioredis with its defaults. See ../README.md for its flags, its work and its output.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { Cluster } from "ioredis";

import { Counter, Register } from "./memory.mjs";
import { Record } from "./record.mjs";

const WRITER = "node";
const WRITERS = ["go", "node", "python"];
const WORKERS_OF_NOTES = 2;
const KEPT_KEYS = 100;
// How many deleted keys a worker remembers, to see that they stay deleted.
const DROPPED_KEYS = 300;
const ELEMENTS = 32;
const WRITES_PER_CYCLE = 6;
const VERIFY_MS = 60_000;
const PADDING = "v".repeat(64);

async function main() {
  const { values: flags } = parseArgs({
    options: {
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "6379" },
      password: { type: "string", default: "" },
      seconds: { type: "string", default: "0" },
      rate: { type: "string", default: "300" },
      "keys-prefix": { type: "string", default: "ledger" },
      workers: { type: "string", default: "8" },
    },
  });
  const seconds = Number(flags.seconds);
  const record = new Record(WRITER);
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => stop.abort());
  obey(record, stop, seconds === 0);
  if (seconds > 0) sleep(seconds * 1000).then(() => stop.abort());
  const ticks = setInterval(() => record.tick(), 1000);

  const client = new Cluster([{ host: flags.host, port: Number(flags.port) }], {
    redisOptions: { password: flags.password || undefined },
  });
  // Errors of connections; those that reach the application come back from its commands.
  client.on("error", (error) => process.stderr.write(`${error}\n`));
  const workers = Array.from(
    { length: Number(flags.workers) },
    (_, number) => new Worker(client, record, flags["keys-prefix"], number, stop.signal),
  );
  await Promise.all(workers.map((worker) => worker.run(Number(flags.rate) / workers.length)));
  clearInterval(ticks);
  record.stop();
  await Promise.all(workers.map((worker) => worker.verify()));
  record.summary();
  client.disconnect();
  process.stdin.destroy();
}

// Follows the lines of standard input; without a time of its own the ledger stops where they end.
async function obey(record, stop, stopsAtEnd) {
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.startsWith("phase ")) record.phase(line.slice("phase ".length));
  }
  if (stopsAtEnd) stop.abort();
}

// Owns keys that nobody else writes, and has one request under way at a time.
class Worker {
  serial = 0;
  position = 0;
  counted = null;
  counter = new Counter();
  fresh = [];
  dropped = [];
  fields = Array.from({ length: ELEMENTS }, (_, n) => new Register(`field-${n}`));
  members = Array.from({ length: ELEMENTS }, (_, n) => new Register(`member-${n}`));

  constructor(client, record, prefix, number, stopped) {
    Object.assign(this, { client, record, prefix, number, stopped });
  }

  async run(writesPerSecond) {
    const cycleMs = (1000 * WRITES_PER_CYCLE) / writesPerSecond;
    let next = performance.now() + Math.random() * cycleMs;
    while (!this.stopped.aborted) {
      await sleep(Math.max(0, next - performance.now()), null, { signal: this.stopped }).catch(() => {});
      for (const work of [
        "increment", "setFresh", "setField", "increment", "setFresh", "setMember", "readOwn", "leaveNote", "readOthers",
        "dropOld",
      ]) {
        if (this.stopped.aborted) return;
        await this[work]();
      }
      next = Math.max(next + cycleMs, performance.now());
    }
  }

  async increment() {
    const key = this.key("counter");
    const { answer, error } = await this.do("INCR", key, true, () => this.client.incr(key));
    if (error) {
      if (isUnknown(error)) this.counter.slack += 1;
      return;
    }
    this.counter.judge(this.record, "INCR", key, answer);
    const now = performance.now();
    if (this.counted !== null) this.record.gap(now - this.counted);
    this.counted = now;
  }

  async setFresh() {
    const value = this.unique();
    const register = new Register(this.key(`fresh-${this.serial}`));
    await this.write("SET", register.name, register, value, () => this.client.set(register.name, value));
    this.fresh.push(register);
  }

  async setField() {
    const [key, field, value] = [this.key("hash"), this.fields[this.position % ELEMENTS], this.unique()];
    await this.compare("HGET", key, field, this.hashGet);
    await this.write("HSET", key, field, value, () => this.client.hset(key, field.name, value));
  }

  async setMember() {
    const [key, member] = [this.key("zset"), this.members[this.position % ELEMENTS]];
    this.position += 1;
    await this.compare("ZSCORE", key, member, this.score);
    this.serial += 1;
    const score = this.serial;
    await this.write("ZADD", key, member, `${score}`, () => this.client.zadd(key, score, member.name));
  }

  async readOwn() {
    if (this.fresh.length > 0) await this.compare("GET", "", this.fresh[random(this.fresh.length)], this.get);
  }

  async dropOld() {
    while (this.fresh.length > KEPT_KEYS) {
      const old = this.fresh.shift();
      await this.compare("GET", "", old, this.get);
      const { answer, error } = await this.do("DEL", old.name, true, () => this.client.del(old.name));
      if (!error && answer !== 1 && old.value !== null && old.maybe.length === 0) {
        this.record.wrong("lost", "DEL", old.name, "1", `${answer}`);
      }
      if (!error && old.maybe.length === 0) this.dropped = [...this.dropped, old.name].slice(-DROPPED_KEYS);
    }
  }

  // Tells the other writers of a key that was acknowledged.
  async leaveNote() {
    const newest = this.fresh.at(-1);
    if (this.number >= WORKERS_OF_NOTES || !newest || newest.value === null || newest.maybe.length > 0) return;
    const key = this.key("note");
    await this.do("SET", key, true, () => this.client.set(key, `${newest.name} ${newest.value}`));
  }

  async readOthers() {
    const noteKey = `${this.prefix}:${WRITERS[random(WRITERS.length)]}:${random(WORKERS_OF_NOTES)}:note`;
    const { answer } = await this.do("GET", noteKey, false, () => this.client.get(noteKey));
    if (answer) {
      const [name, value] = answer.split(" ");
      await this.compare("GET", "", new Register(name, value), this.get);
    }
  }

  // Reads back everything that was acknowledged.
  async verify() {
    const deadline = performance.now() + VERIFY_MS;
    if (this.counter.floor > 0 || this.counter.slack > 0) {
      const key = this.key("counter");
      const value = await this.verifyOne(deadline, () => this.client.get(key));
      if (value !== undefined) this.counter.judge(this.record, "GET", key, Number(value));
    }
    const registers = [
      ...this.fresh.map((register) => ["GET", "", register, this.get]),
      ...this.fields.map((field) => ["HGET", this.key("hash"), field, this.hashGet]),
      ...this.members.map((member) => ["ZSCORE", this.key("zset"), member, this.score]),
    ];
    for (const [op, key, register, read] of registers) {
      if (register.value === null) continue;
      const found = await this.verifyOne(deadline, () => read.call(this, key, register.name));
      if (found !== undefined) register.compare(this.record, op, key, found);
    }
    for (const name of this.dropped) {
      const found = await this.verifyOne(deadline, () => this.get("", name));
      if (found !== undefined && found !== null) this.record.wrong("lost", "GET", name, "(deleted)", found);
    }
  }

  async verifyOne(deadline, read) {
    for (;;) {
      try {
        const value = await read();
        this.record.verifiedOne(true);
        return value;
      } catch {
        if (performance.now() > deadline) {
          this.record.verifiedOne(false);
          return undefined;
        }
        await sleep(100);
      }
    }
  }

  get(_, name) {
    return this.client.get(name);
  }

  hashGet(key, name) {
    return this.client.hget(key, name);
  }

  score(key, name) {
    return this.client.zscore(key, name);
  }

  async write(op, key, register, value, command) {
    const { error } = await this.do(op, key, true, command);
    if (!error) register.value = value;
    else if (isUnknown(error)) register.maybe.push(value);
  }

  async compare(op, key, register, read) {
    const { answer, error } = await this.do(op, key + register.name, false, () =>
      read.call(this, key, register.name),
    );
    if (!error) register.compare(this.record, op, key, answer);
  }

  async do(op, key, isWrite, command) {
    const began = performance.now();
    try {
      const answer = await command();
      this.record.done(isWrite, performance.now() - began);
      return { answer };
    } catch (error) {
      this.record.failed(op, key, isUnknown(error), performance.now() - began, error);
      // An application, too, would not ask again at once.
      await sleep(5);
      return { error };
    }
  }

  key(name) {
    return `${this.prefix}:${WRITER}:${this.number}:${name}`;
  }

  unique() {
    this.serial += 1;
    return `${WRITER}-${this.number}-${this.serial}-${PADDING}`;
  }
}

function random(below) {
  return Math.floor(Math.random() * below);
}

// Whether the command may have had its effect: whatever is no answer of the server.
function isUnknown(error) {
  return error.name !== "ReplyError";
}

await main();
