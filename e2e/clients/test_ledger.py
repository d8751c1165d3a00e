"""What the ledger claims to find, it finds: the writers of all three languages work on the playground at the same time, somebody tampers
with the keys of each, and the summary of each must say so. In: RINGMASTER_CLIENTS, the folder that `build` made."""

import json
import os
import pathlib
import queue
import subprocess
import threading
import time

import pytest

CLIENTS = pathlib.Path(os.environ.get("RINGMASTER_CLIENTS", "target/e2e/clients")).resolve()
COMMANDS = {
    "go": [CLIENTS / "bin/ledger"],
    "node": ["node", CLIENTS / "node/ledger.mjs"],
    "python": ["python3", CLIENTS / "python/ledger.py"],
}
# Nothing is waited for beyond this, and nothing comes near it unless a request stays without its answer.
PATIENCE_S = 20

pytestmark = pytest.mark.timeout(3 * PATIENCE_S)


class Ledger:
    """A writer at work, whose keys can be tampered with."""

    def __init__(self, writer, port, prefix):
        self.writer, self.prefix = writer, prefix
        self.process = subprocess.Popen(
            [*COMMANDS[writer], "--port", str(port), "--keys-prefix", prefix, "--rate", "300", "--workers", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines, self.coming = [], queue.SimpleQueue()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.coming.put(line)
        self.coming.put(None)

    def until(self, wanted, what):
        """The first line to come that is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                line = self.coming.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(self.said(f"after {PATIENCE_S} s still no {what}"))
            if line is None:
                pytest.fail(self.said(f"it ended without {what}"))
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"kind": "said", "text": line})
            if wanted(self.lines[-1]):
                return self.lines[-1]

    def said(self, why):
        return f"{self.writer}: {why}\n" + "\n".join(map(str, self.lines[-20:]))

    def key(self, name):
        return f"{self.prefix}:{self.writer}:0:{name}"

    def tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def summary(self):
        self.process.stdin.close()
        summary = self.until(lambda line: line["kind"] == "summary", "summary")
        assert self.process.wait(PATIENCE_S) == 0
        return summary


@pytest.fixture
def ledgers(request, playground, cache):
    """One of each language, each of which has written for a while."""
    prefix = f"{request.node.name}-{time.time_ns()}"
    ledgers = [Ledger(writer, playground.port, prefix) for writer in COMMANDS]
    try:
        for ledger in ledgers:
            ledger.until(lambda line: line["kind"] == "second" and line["writes"] >= 50, "second with 50 writes")
        yield ledgers
    finally:
        for ledger in ledgers:
            ledger.process.kill()
            ledger.process.wait()


def summaries(ledgers):
    """Each ledger with its summary; all stop at the same time."""
    for ledger in ledgers:
        ledger.process.stdin.close()
    return [(ledger, ledger.summary()) for ledger in ledgers]


def test_an_untouched_run_is_clean(ledgers):
    for ledger, summary in summaries(ledgers):
        assert summary["acknowledged"] > 50 and summary["verified"] > 50, ledger.said("too little was done")
        found = [summary[name] for name in ("errors", "unknown", "lost", "doubled", "unverified")]
        assert found == [0] * 5, ledger.said(summary)


def test_a_lost_key_is_found(ledgers, cache):
    for ledger in ledgers:
        fresh = next(key for n in range(1, 100) if cache.exists(key := ledger.key(f"fresh-{n}")))
        assert cache.delete(fresh) == 1
    for ledger, summary in summaries(ledgers):
        assert summary["lost"] > 0, ledger.said(summary)


def test_a_deletion_that_comes_back_is_found(ledgers, cache):
    for ledger in ledgers:
        names = [ledger.key(f"fresh-{n}") for n in range(30)]
        written = [name for name in names if cache.exists(name)]
        assert written, ledger.said("none of its first keys is there")
        deadline = time.monotonic() + PATIENCE_S
        while any(cache.exists(name) for name in written):
            assert time.monotonic() < deadline, ledger.said("it does not delete its oldest keys")
            time.sleep(0.05)
        cache.set(written[-1], "again")
    for ledger, summary in summaries(ledgers):
        assert summary["lost"] == 1, ledger.said(summary)


def test_a_lost_field_and_a_lost_member_are_found(ledgers, cache):
    for ledger in ledgers:
        assert cache.delete(ledger.key("hash")) == 1
        assert cache.delete(ledger.key("zset")) == 1
    for ledger, summary in summaries(ledgers):
        assert summary["lost"] > 1, ledger.said(summary)


def test_a_lost_increment_is_found(ledgers, cache):
    for ledger in ledgers:
        cache.decr(ledger.key("counter"))
    for ledger, summary in summaries(ledgers):
        assert summary["lost"] > 0, ledger.said(summary)


def test_a_doubled_increment_is_found(ledgers, cache):
    for ledger in ledgers:
        cache.incr(ledger.key("counter"))
    for ledger, summary in summaries(ledgers):
        assert (summary["doubled"], summary["lost"]) == (1, 0), ledger.said(summary)


def test_an_error_that_reaches_the_application_is_counted(ledgers, cache):
    for ledger in ledgers:
        # The next HSET of this worker is refused: its hash is a string now.
        cache.set(ledger.key("hash"), "a string")
        ledger.until(lambda line: line["kind"] == "error", "error")
        cache.delete(ledger.key("hash"))
    for ledger, summary in summaries(ledgers):
        assert summary["errors"] > 0, ledger.said(summary)
        assert any("WRONGTYPE" in text for text in summary["error_texts"]), ledger.said(summary)


def test_a_phase_has_figures_of_its_own(ledgers):
    for ledger in ledgers:
        ledger.tell("phase drain")
    for ledger in ledgers:
        ledger.until(lambda line: line["kind"] == "second" and line["phase"] == "drain", "phase")
        ledger.until(lambda line: line["kind"] == "second" and line["writes"] > 0, "second of the phase")
    for ledger, summary in summaries(ledgers):
        phases = {phase["name"]: phase for phase in summary["phases"]}
        assert phases["drain"]["writes"] > 0 and phases["drain"]["max_ms"] > 0, ledger.said(summary)
