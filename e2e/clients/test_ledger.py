"""What the ledger claims to find, it finds: each writer works on a Redis Cluster of three processes, somebody tampers with
its keys, and its summary must say so. In: RINGMASTER_CLIENTS, the folder that `build` made; redis-server in the PATH."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

CLIENTS = pathlib.Path(os.environ.get("RINGMASTER_CLIENTS", "target/e2e/clients")).resolve()
COMMANDS = {
    "go": [CLIENTS / "bin/ledger"],
    "node": ["node", CLIENTS / "node/ledger.mjs"],
    "python": ["python3", CLIENTS / "python/ledger.py"],
}
PORTS = (17100, 17101, 17102)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    servers = []
    for port in PORTS:
        folder = tmp_path_factory.mktemp(str(port))
        servers.append(
            subprocess.Popen(
                ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", ""],
                cwd=folder, stdout=subprocess.DEVNULL,
            )
        )  # fmt: skip
    try:
        until(lambda: all(cli(port, "PING") == "PONG" for port in PORTS))
        share = 16384 // len(PORTS) + 1
        for at, port in enumerate(PORTS):
            cli(port, "CLUSTER", "ADDSLOTSRANGE", str(at * share), str(min((at + 1) * share, 16384) - 1))
            cli(port, "CLUSTER", "MEET", "127.0.0.1", str(PORTS[0]))
        until(lambda: all("cluster_state:ok" in cli(port, "CLUSTER", "INFO") for port in PORTS))
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait()


def cli(port, *words):
    return subprocess.run(
        ["redis-cli", "-c", "-p", str(port), *words], capture_output=True, text=True, check=False
    ).stdout.strip()  # fmt: skip


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the Redis Cluster does not come up"
        time.sleep(0.1)


class Ledger:
    """A writer at work, whose keys can be tampered with."""

    def __init__(self, writer, prefix):
        self.writer, self.prefix = writer, prefix
        self.process = subprocess.Popen(
            [*COMMANDS[writer], "--port", str(PORTS[0]), "--keys-prefix", prefix, "--rate", "200", "--workers", "2"],
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
def ledger(request):
    ledger = Ledger(request.param, f"{request.node.name}-{time.time_ns()}")
    yield ledger
    ledger.process.kill()
    ledger.process.wait()


def test_an_untouched_run_is_clean(ledger):
    summary = ledger.summary()
    assert summary["acknowledged"] > 50 and summary["verified"] > 50
    assert [summary[name] for name in ("errors", "unknown", "lost", "doubled", "unverified")] == [0] * 5


def test_a_lost_key_is_found(ledger):
    fresh = next(key for n in range(1, 100) if cli(PORTS[0], "EXISTS", key := ledger.key(f"fresh-{n}")) == "1")
    assert cli(PORTS[0], "DEL", fresh) == "1"
    assert ledger.summary()["lost"] > 0


def test_a_lost_field_and_a_lost_member_are_found(ledger):
    cli(PORTS[0], "DEL", ledger.key("hash"))
    cli(PORTS[0], "DEL", ledger.key("zset"))
    assert ledger.summary()["lost"] > 1


def test_a_lost_increment_is_found(ledger):
    cli(PORTS[0], "DECR", ledger.key("counter"))
    assert ledger.summary()["lost"] > 0


def test_a_doubled_increment_is_found(ledger):
    cli(PORTS[0], "INCR", ledger.key("counter"))
    summary = ledger.summary()
    assert summary["doubled"] == 1 and summary["lost"] == 0


def test_an_error_that_reaches_the_application_is_counted(ledger):
    # The next HSET of this worker is refused: its hash is a string now.
    cli(PORTS[0], "DEL", ledger.key("hash"))
    cli(PORTS[0], "SET", ledger.key("hash"), "a string")
    while ledger.read()["kind"] != "error":
        pass
    cli(PORTS[0], "DEL", ledger.key("hash"))
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
