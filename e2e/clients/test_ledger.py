"""What the ledger claims to find, it finds: each writer works on the playground, somebody tampers with its keys, and its
summary must say so. In: RINGMASTER_CLIENTS, the folder that `build` made."""

import json
import os
import pathlib
import subprocess
import time

import pytest

CLIENTS = pathlib.Path(os.environ.get("RINGMASTER_CLIENTS", "target/e2e/clients")).resolve()
COMMANDS = {
    "go": [CLIENTS / "bin/ledger"],
    "node": ["node", CLIENTS / "node/ledger.mjs"],
    "python": ["python3", CLIENTS / "python/ledger.py"],
}

class Ledger:
    """A writer at work, whose keys can be tampered with."""

    def __init__(self, writer, port, prefix):
        self.writer, self.prefix = writer, prefix
        self.process = subprocess.Popen(
            [*COMMANDS[writer], "--port", str(port), "--keys-prefix", prefix, "--rate", "200", "--workers", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines = []
        while self.read()["kind"] != "second" or self.lines[-1]["writes"] < 50:
            pass

    def read(self):
        self.lines.append(json.loads(self.process.stdout.readline()))
        return self.lines[-1]

    def key(self, name):
        return f"{self.prefix}:{self.writer}:0:{name}"

    def summary(self):
        self.process.stdin.close()
        while self.read()["kind"] != "summary":
            pass
        assert self.process.wait(20) == 0
        return self.lines[-1]


@pytest.fixture(params=COMMANDS)
def ledger(request, playground, cache):
    ledger = Ledger(request.param, playground.port, f"{request.node.name}-{time.time_ns()}")
    yield ledger
    ledger.process.kill()
    ledger.process.wait()


def test_an_untouched_run_is_clean(ledger):
    summary = ledger.summary()
    assert summary["acknowledged"] > 50 and summary["verified"] > 50
    assert [summary[name] for name in ("errors", "unknown", "lost", "doubled", "unverified")] == [0] * 5


def test_a_lost_key_is_found(ledger, cache):
    fresh = next(key for n in range(1, 100) if cache.exists(key := ledger.key(f"fresh-{n}")))
    assert cache.delete(fresh) == 1
    assert ledger.summary()["lost"] > 0


def test_a_deletion_that_comes_back_is_found(ledger, cache):
    names = [ledger.key(f"fresh-{n}") for n in range(1, 30)]
    while any(cache.exists(name) for name in names):
        ledger.read()
    cache.set(names[-1], "again")
    assert ledger.summary()["lost"] == 1


def test_a_lost_field_and_a_lost_member_are_found(ledger, cache):
    cache.delete(ledger.key("hash"))
    cache.delete(ledger.key("zset"))
    assert ledger.summary()["lost"] > 1


def test_a_lost_increment_is_found(ledger, cache):
    cache.decr(ledger.key("counter"))
    assert ledger.summary()["lost"] > 0


def test_a_doubled_increment_is_found(ledger, cache):
    cache.incr(ledger.key("counter"))
    summary = ledger.summary()
    assert summary["doubled"] == 1 and summary["lost"] == 0


def test_an_error_that_reaches_the_application_is_counted(ledger, cache):
    # The next HSET of this worker is refused: its hash is a string now.
    cache.set(ledger.key("hash"), "a string")
    while ledger.read()["kind"] != "error":
        pass
    cache.delete(ledger.key("hash"))
    summary = ledger.summary()
    assert summary["errors"] > 0 and any("WRONGTYPE" in text for text in summary["error_texts"])


def test_a_phase_has_figures_of_its_own(ledger):
    ledger.process.stdin.write("phase drain\n")
    ledger.process.stdin.flush()
    while ledger.read().get("phase") != "drain":
        pass
    ledger.read()
    phases = {phase["name"]: phase for phase in ledger.summary()["phases"]}
    assert phases["drain"]["writes"] > 0 and phases["drain"]["max_ms"] > 0
