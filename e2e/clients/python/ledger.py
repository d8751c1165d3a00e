"""ledger-python is the ledger's writer on redis-py's cluster client, with retries off beyond redirections. See ../README.md
for its flags, its work and its output."""

import argparse
import random
import signal
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from memory import Counter, Register
from record import Record

WRITER = "python"
WRITERS = ("go", "node", "python")
WORKERS_OF_NOTES = 2
KEPT_KEYS = 100
# How many deleted keys a worker remembers, to see that they stay deleted.
DROPPED_KEYS = 300
ELEMENTS = 32
WRITES_PER_CYCLE = 6
VERIFY_S = 60
PADDING = "v" * 64


def main():
    flags = arguments()
    record, stopped = Record(WRITER), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    threading.Thread(target=obey, args=(record, stopped, not flags.seconds), daemon=True).start()

    client = connect(flags)
    workers = [Worker(client, record, flags.keys_prefix, number, stopped) for number in range(flags.workers)]
    running = [threading.Thread(target=worker.run, args=(flags.rate / flags.workers,)) for worker in workers]
    for thread in running:
        thread.start()
    ends_s = time.monotonic() + (flags.seconds or float("inf"))
    while not stopped.wait(min(1, max(0, ends_s - time.monotonic()))):
        record.tick()
        if time.monotonic() >= ends_s:
            stopped.set()
    for thread in running:
        thread.join()
    record.stop()
    for worker in workers:
        worker.verify()
    record.summary()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--password")
    parser.add_argument("--seconds", type=float, default=0, help="0: until standard input ends")
    parser.add_argument("--rate", type=float, default=150, help="writes per second, of all workers")
    parser.add_argument("--keys-prefix", default="ledger")
    parser.add_argument("--workers", type=int, default=4)
    return parser.parse_args()


def connect(flags):
    while True:
        try:
            return redis.RedisCluster(
                host=flags.host,
                port=flags.port,
                password=flags.password or None,
                decode_responses=True,
                retry=Retry(NoBackoff(), 0),
            )
        except redis.RedisError as error:
            # A client that finds no cluster has promised nothing yet; whoever started it sees why it waits.
            print(f"no cluster at {flags.host}:{flags.port} yet: {error}", file=sys.stderr)
            time.sleep(0.5)


def obey(record, stopped, stops_at_end):
    """Follows the lines of standard input; without a time of its own the ledger stops where they end."""
    for line in sys.stdin:
        if line.startswith("phase "):
            record.phase(line.removeprefix("phase ").strip())
    if stops_at_end:
        stopped.set()


class Worker:
    """Owns keys that nobody else writes, and has one request under way at a time."""

    def __init__(self, client, record, prefix, number, stopped):
        self.client, self.record, self.prefix, self.number, self.stopped = client, record, prefix, number, stopped
        self.serial, self.position, self.counted_s = 0, 0, None
        self.counter, self.fresh, self.dropped = Counter(), [], []
        self.fields = [Register(f"field-{n}") for n in range(ELEMENTS)]
        self.members = [Register(f"member-{n}") for n in range(ELEMENTS)]

    def run(self, writes_per_second):
        cycle_s = WRITES_PER_CYCLE / writes_per_second
        next_s = time.monotonic() + random.random() * cycle_s
        while not self.stopped.wait(max(0, next_s - time.monotonic())):
            for work in (
                self.increment, self.set_fresh, self.set_field, self.increment, self.set_fresh, self.set_member,
                self.read_own, self.leave_note, self.read_others, self.drop_old,
            ):  # fmt: skip
                if self.stopped.is_set():
                    return
                work()
            next_s = max(next_s + cycle_s, time.monotonic())

    def increment(self):
        key = self.key("counter")
        value, error = self.do("INCR", key, True, lambda: self.client.incr(key))
        if error:
            self.counter.slack += is_unknown(error)
            return
        self.counter.judge(self.record, "INCR", key, value)
        now_s = time.monotonic()
        if self.counted_s:
            self.record.gap((now_s - self.counted_s) * 1000)
        self.counted_s = now_s

    def set_fresh(self):
        value = self.unique()
        register = Register(self.key(f"fresh-{self.serial}"))
        self.write("SET", register.name, register, value, lambda: self.client.set(register.name, value))
        self.fresh.append(register)

    def set_field(self):
        key, field, value = self.key("hash"), self.fields[self.position % ELEMENTS], self.unique()
        self.compare("HGET", key, field, self.hash_get)
        self.write("HSET", key, field, value, lambda: self.client.hset(key, field.name, value))

    def set_member(self):
        key, member = self.key("zset"), self.members[self.position % ELEMENTS]
        self.position += 1
        self.compare("ZSCORE", key, member, self.score)
        self.serial += 1
        score = self.serial
        self.write("ZADD", key, member, str(score), lambda: self.client.zadd(key, {member.name: score}))

    def read_own(self):
        if self.fresh:
            self.compare("GET", "", random.choice(self.fresh), self.get)

    def drop_old(self):
        while len(self.fresh) > KEPT_KEYS:
            old = self.fresh.pop(0)
            self.compare("GET", "", old, self.get)
            removed, error = self.do("DEL", old.name, True, lambda key=old.name: self.client.delete(key))
            if not error and removed != 1 and old.value and not old.maybe:
                self.record.wrong("lost", "DEL", old.name, "1", str(removed))
            if not error and not old.maybe:
                self.dropped = [*self.dropped, Register(old.name)][-DROPPED_KEYS:]

    def leave_note(self):
        """Tells the other writers of a key that was acknowledged."""
        newest = self.fresh[-1] if self.fresh else None
        if self.number < WORKERS_OF_NOTES and newest and newest.value and not newest.maybe:
            key = self.key("note")
            self.do("SET", key, True, lambda: self.client.set(key, f"{newest.name} {newest.value}"))

    def read_others(self):
        note_key = f"{self.prefix}:{random.choice(WRITERS)}:{random.randrange(WORKERS_OF_NOTES)}:note"
        note, _ = self.do("GET", note_key, False, lambda: self.client.get(note_key))
        if note:
            name, _, value = note.partition(" ")
            self.compare("GET", "", Register(name, value), self.get)

    def verify(self):
        """Reads back everything that was acknowledged."""
        deadline_s = time.monotonic() + VERIFY_S
        if self.counter.floor or self.counter.slack:
            key = self.key("counter")
            value = self.verify_one(deadline_s, lambda: int(self.client.get(key) or 0))
            if value is not None:
                self.counter.judge(self.record, "GET", key, value)
        registers = [("GET", "", register, self.get) for register in self.fresh]
        registers += [("HGET", self.key("hash"), field, self.hash_get) for field in self.fields]
        registers += [("ZSCORE", self.key("zset"), member, self.score) for member in self.members]
        for op, key, register, read in registers:
            if register.value is not None:
                found = self.verify_one(deadline_s, lambda r=read, k=key, n=register.name: (r(k, n),))
                if found is not None:
                    register.compare(self.record, op, key, found[0])
        for register in self.dropped:
            found = self.verify_one(deadline_s, lambda n=register.name: (self.get("", n),))
            if found is not None:
                register.compare(self.record, "GET", "", found[0])

    def verify_one(self, deadline_s, read):
        while True:
            try:
                value = read()
                self.record.verified_one(True)
                return value
            except (redis.RedisError, OSError):
                if time.monotonic() > deadline_s:
                    self.record.verified_one(False)
                    return None
                time.sleep(0.1)

    def get(self, _, name):
        return self.client.get(name)

    def hash_get(self, key, name):
        return self.client.hget(key, name)

    def score(self, key, name):
        score = self.client.zscore(key, name)
        return None if score is None else str(int(score))

    def write(self, op, key, register, value, command):
        _, error = self.do(op, key, True, command)
        if not error:
            register.value = value
        elif is_unknown(error):
            register.maybe.append(value)

    def compare(self, op, key, register, read):
        found, error = self.do(op, key + register.name, False, lambda: read(key, register.name))
        if not error:
            register.compare(self.record, op, key, found)

    def do(self, op, key, write, command):
        began_s = time.monotonic()
        try:
            answer = command()
        except (redis.RedisError, OSError) as error:
            self.record.failed(op, key, is_unknown(error), (time.monotonic() - began_s) * 1000, error)
            # An application, too, would not ask again at once.
            time.sleep(0.005)
            return None, error
        self.record.done(write, (time.monotonic() - began_s) * 1000)
        return answer, None

    def key(self, name):
        return f"{self.prefix}:{WRITER}:{self.number}:{name}"

    def unique(self):
        self.serial += 1
        return f"{WRITER}-{self.number}-{self.serial}-{PADDING}"


def is_unknown(error):
    """Whether the command may have had its effect: whatever is no answer of the server."""
    if isinstance(error, redis.ConnectionError) and "connecting to" in str(error):
        return False
    return not isinstance(error, redis.ResponseError)


if __name__ == "__main__":
    main()
