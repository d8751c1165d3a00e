"""Starts `ringmaster playground` for tests in Python: the README's first command, and a cluster client of it. In:
RINGMASTER, the program (default: target/release/ringmaster, else target/debug/ringmaster)."""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest
import redis

ROOT = pathlib.Path(__file__).resolve().parents[1]
STARTS_WITHIN_S = 60


def program():
    given = os.environ.get("RINGMASTER")
    candidates = [given] if given else [ROOT / "target" / kind / "ringmaster" for kind in ("release", "debug")]
    found = next((path for path in candidates if os.access(path, os.X_OK)), None)
    assert found, f"no program at {candidates}; build it with `cargo build -p ringmaster-operator`"
    return str(found)


class Playground:
    def __init__(self, scratch, *arguments):
        # Its own scratch folder: what it leaves behind is seen there, and no other playground is met.
        self.environment = {**os.environ, "TMPDIR": str(scratch), "XDG_RUNTIME_DIR": str(scratch)}
        self.process = subprocess.Popen(
            [program(), "playground", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
        )  # fmt: skip
        self.lines, self.port, self.changed = [], None, threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()
        deadline = time.monotonic() + STARTS_WITHIN_S
        with self.changed:
            while not self.port:
                assert self.changed.wait(max(0, deadline - time.monotonic())), self.said("it gives no address")
                assert self.process.poll() is None or self.port, self.said("it ended")

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line)
                found = re.search(r"127\.0\.0\.1:(\d+)", line)
                if found and not self.port:
                    self.port = int(found[1])
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def said(self, why):
        return f"the playground does not come up: {why}\n{''.join(self.lines[-40:])}"

    def command(self, *words):
        result = subprocess.run(
            [program(), "playground", *words], capture_output=True, text=True, timeout=60, env=self.environment
        )
        assert result.returncode == 0, result.stderr + result.stdout
        return result.stdout

    def members(self):
        """The rows of `playground status`, by the names in its head."""
        head, *rows = self.command("status").splitlines()
        starts = [found.start() for found in re.finditer(r"\S+", head)]
        cells = [[row[start:end].strip() for start, end in zip(starts, [*starts[1:], None])] for row in rows]
        names = [name.lower() for name in head.split()]
        return [dict(zip(names, row)) for row in cells if row[names.index("port")].isdigit()]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.said("Ctrl-C ended it badly")


@pytest.fixture(scope="session")
def start_playground(tmp_path_factory):
    """Starts a playground of its own, which ends with the session."""
    started = []

    def start(*arguments):
        started.append(Playground(tmp_path_factory.mktemp("playground"), *arguments))
        return started[-1]

    yield start
    for playground in started:
        playground.end()


@pytest.fixture(scope="session")
def playground(start_playground):
    return start_playground()


@pytest.fixture(scope="session")
def cache(playground):
    """An ordinary cluster client with its defaults."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            client = redis.RedisCluster(host="127.0.0.1", port=playground.port, decode_responses=True)
            client.set("ready", "yes")
            return client
        except redis.RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def pytest_sessionfinish(session, exitstatus):
    """What is skipped has not been shown: with STRICT set it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("STRICT") and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
