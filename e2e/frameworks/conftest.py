"""Two playgrounds for the frameworks: one with the cluster protocol, one without. In: RINGMASTER, the program; or CLUSTER_PORT and PORT,
servers that run already: against Valkey the same tests show what is expected."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest
import redis

HERE = pathlib.Path(__file__).parent
SPEC = importlib.util.spec_from_file_location("e2e_conftest", HERE.parent / "conftest.py")
shared = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shared)


def until(works, within_s=30):
    """What `works` gives, once it raises no more."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return works()
        except (redis.RedisError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def primary_port(playground):
    """The port of the only shard's primary: the one that takes a write."""

    def find():
        for line in list(playground.lines):
            for word in line.replace(",", " ").split():
                host, colon, port = word.rpartition(":")
                if not (host.endswith("127.0.0.1") and colon and port.isdigit()):
                    continue
                client = redis.Redis(port=int(port), socket_timeout=2)
                try:
                    if client.role()[0] in (b"master", "master"):
                        client.set("ready", "yes")
                        return int(port)
                except redis.RedisError:
                    continue
        raise AssertionError(playground.said("no primary"))

    return until(find)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The port of a member of a cluster of 3 shards."""
    if given := os.environ.get("CLUSTER_PORT"):
        yield int(given)
        return
    playground = shared.Playground(tmp_path_factory.mktemp("cluster"))
    until(lambda: redis.RedisCluster(host="127.0.0.1", port=playground.port).set("ready", "yes"))
    yield playground.port
    playground.end()


@pytest.fixture(scope="session")
def standalone(tmp_path_factory):
    """The port of a primary without the cluster protocol."""
    if given := os.environ.get("PORT"):
        yield int(given)
        return
    playground = shared.Playground(tmp_path_factory.mktemp("standalone"), "-f", str(HERE / "standalone.yaml"))
    yield primary_port(playground)
    playground.end()


@pytest.fixture
def client(standalone):
    client = redis.Redis(port=standalone, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def program():
    """Runs a program of this folder to its end, with its own library, and shows what it said if it failed."""

    def run(*words, folder=".", **variables):
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        result = subprocess.run(
            words, cwd=HERE / folder, env=environment, capture_output=True, text=True, timeout=240
        )  # fmt: skip
        assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return run


@pytest.fixture
def worker():
    """Starts a worker of this folder in the background, and ends it."""
    started = []

    def start(*words, **variables):
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
