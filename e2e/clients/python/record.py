"""Owns what a writer saw: counts by phase, the errors that reached the application, the answers that were wrong. In:
calls from any thread. Out: lines of JSON on standard output, as ../README.md says."""

import json
import sys
import threading
import time

# Single errors that are printed; all are counted.
LINES_MAX = 2000
# Different error texts that are kept apart.
TEXTS_MAX = 50


class Phase:
    def __init__(self, name):
        self.name, self.began_s, self.ended_s = name, time.monotonic(), None
        self.writes = self.reads = self.errors = 0
        self.latencies_ms, self.gap_ms = [], 0.0

    def percentile(self, share):
        if not self.latencies_ms:
            return 0
        return round(self.latencies_ms[int(share * (len(self.latencies_ms) - 1))], 2)

    def figures(self):
        self.latencies_ms.sort()
        return {
            "name": self.name,
            "seconds": round(self.ended_s - self.began_s, 2),
            "writes": self.writes,
            "reads": self.reads,
            "errors": self.errors,
            "p50_ms": self.percentile(0.5),
            "p99_ms": self.percentile(0.99),
            "p999_ms": self.percentile(0.999),
            "max_ms": self.percentile(1),
            "gap_ms": round(self.gap_ms, 2),
        }


class Record:
    def __init__(self, writer):
        self.writer, self.lock = writer, threading.Lock()
        self.errors = self.unknown = self.lost = self.doubled = self.verified = self.unverified = 0
        self.texts, self.lines, self.phases = {}, 0, []
        self.second = {"writes": 0, "reads": 0, "errors": 0, "wrong": 0, "max_ms": 0.0}
        self.print(kind="started")
        self.phase("all")

    def print(self, **content):
        line = json.dumps({**content, "writer": self.writer, "t": int(time.time() * 1000)})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def phase(self, name):
        """Begins a phase; what is counted from now on is counted there."""
        with self.lock:
            following = Phase(name)
            if self.phases:
                self.phases[-1].ended_s = following.began_s
            self.phases.append(following)

    def done(self, write, took_ms):
        with self.lock:
            current = self.phases[-1]
            if write:
                current.writes += 1
                self.second["writes"] += 1
            else:
                current.reads += 1
                self.second["reads"] += 1
            current.latencies_ms.append(took_ms)
            self.second["max_ms"] = max(self.second["max_ms"], took_ms)

    def gap(self, gap_ms):
        with self.lock:
            self.phases[-1].gap_ms = max(self.phases[-1].gap_ms, gap_ms)

    def failed(self, op, key, unknown, took_ms, error):
        text = f"{type(error).__name__}: {error}"
        with self.lock:
            self.errors += 1
            self.unknown += unknown
            current = self.phases[-1]
            current.errors += 1
            current.latencies_ms.append(took_ms)
            self.second["errors"] += 1
            self.second["max_ms"] = max(self.second["max_ms"], took_ms)
            kept = text if text in self.texts or len(self.texts) < TEXTS_MAX else "others"
            self.texts[kept] = self.texts.get(kept, 0) + 1
            self.lines += 1
            if self.lines <= LINES_MAX:
                self.print(kind="error", op=op, key=key, unknown=unknown, ms=round(took_ms, 2), text=text)

    def wrong(self, what, op, key, expected, found):
        """Notes an answer that no kept promise explains: `what` is "lost" or "doubled"."""
        with self.lock:
            if what == "doubled":
                self.doubled += 1
            else:
                self.lost += 1
            self.second["wrong"] += 1
            self.lines += 1
            if self.lines <= LINES_MAX:
                self.print(kind="wrong", what=what, op=op, key=key, expected=expected, found=found)

    def verified_one(self, was_read):
        with self.lock:
            if was_read:
                self.verified += 1
            else:
                self.unverified += 1

    def tick(self):
        with self.lock:
            second, self.second = self.second, dict.fromkeys(self.second, 0)
            second["max_ms"] = round(second["max_ms"], 2)
            self.print(kind="second", phase=self.phases[-1].name, **second)

    def stop(self):
        """Ends the last phase: what follows is verification, not load."""
        self.phase("verification")

    def summary(self):
        with self.lock:
            loaded = self.phases[:-1]
            self.print(
                kind="summary",
                acknowledged=sum(phase.writes for phase in loaded),
                errors=self.errors,
                unknown=self.unknown,
                lost=self.lost,
                doubled=self.doubled,
                verified=self.verified,
                unverified=self.unverified,
                error_texts=self.texts,
                phases=[phase.figures() for phase in loaded],
            )
