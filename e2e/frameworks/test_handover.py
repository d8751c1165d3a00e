"""Clients that do not speak cluster, while the primary's node is drained: each is connected to one member, whichever it is, and no request
fails."""

import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE_S = 60


def connect(port):
    """A client that tries nothing twice: whatever goes wrong is seen."""
    return redis.Redis(port=port, decode_responses=True, retry=Retry(NoBackoff(), 0), single_connection_client=True)


class Busy(threading.Thread):
    """Does one thing again and again, until it is told to stop or it fails."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.stopped, self.failure, self.done = work, threading.Event(), None, 0

    def run(self):
        try:
            while not self.stopped.is_set():
                self.work(self.done)
                self.done += 1
        except BaseException as failure:
            self.failure = failure

    def stop(self):
        self.stopped.set()
        self.join()


def test_no_request_fails_while_the_primary_is_replaced(handover):
    playground, primary, copy = handover
    counter, sessions, pipelines, jobs, worker = (connect(copy) for _ in range(5))

    def count(done):
        assert counter.incr("counter") == done + 1, "each exactly once"

    def visit(done):
        key = f"session:{done % 20}"
        sessions.hset(key, mapping={"user": f"user-{done}", "visits": done})
        assert sessions.hgetall(key) == {"user": f"user-{done}", "visits": str(done)}

    def transact(done):
        with pipelines.pipeline(transaction=True) as batch:
            batch.incr("pair:one")
            batch.incr("pair:other")
            assert batch.execute() == [done + 1, done + 1]

    def push(done):
        jobs.rpush("jobs", done)
        time.sleep(0.005)

    def take(done):
        # It waits in the server most of the time.
        assert worker.blpop("jobs", timeout=PATIENCE_S)[1] == str(done), "in order, none twice, none lost"

    busy = [Busy(work) for work in (count, visit, transact, push, take)]
    [one.start() for one in busy]
    (node,) = [member["node"] for member in playground.members() if member["port"] == str(primary)]
    playground.command("cordon", node)
    deadline = time.monotonic() + PATIENCE_S
    while any(member["node"].startswith(node) for member in playground.members()):
        assert time.monotonic() < deadline, playground.command("status")
        assert not any(one.failure for one in busy), [one.failure for one in busy]
        time.sleep(0.1)
    before = [one.done for one in busy]
    deadline = time.monotonic() + 20
    while any(one.done < least + 20 for one, least in zip(busy, before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    [one.stop() for one in busy[:4]]
    while busy[4].done < busy[3].done and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [one.failure for one in busy] == [None] * 5
    assert all(one.done >= least + 20 for one, least in zip(busy, before)), "all go on afterwards"
    assert busy[4].done == busy[3].done
    assert str(primary) not in [member["port"] for member in playground.members()], "the old primary is gone"
    after = connect(copy)
    assert int(after.get("counter")) == busy[0].done
    assert after.get("pair:one") == after.get("pair:other") == str(busy[2].done)


def test_clients_of_the_former_primary_are_served_by_the_next(handover):
    """They are let go between two requests once it is retired; until then it forwards."""
    playground, primary, copy = handover
    client = connect(primary)
    assert client.incr("n") == 1
    (node,) = [member["node"] for member in playground.members() if member["port"] == str(primary)]
    playground.command("cordon", node)
    done, deadline = 1, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            answer = client.incr("n")
        except redis.ConnectionError:
            # Let go: nothing of it was executed, and what was answered before counts.
            assert connect(copy).get("n") == str(done)
            break
        done += 1
        assert answer == done
    else:
        raise AssertionError("it is never let go")
    assert done > 1
