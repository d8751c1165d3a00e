"""Two playgrounds for the frameworks: one with the cluster protocol, which e2e/conftest.py starts, and one without. In: RINGMASTER, the
program; FRAMEWORKS, the folder of libraries that `run` made; or CLUSTER_PORT and PORT, servers that run already: against Valkey the same
tests show what is expected."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
import redis

HERE = pathlib.Path(__file__).parent
LIBRARIES = pathlib.Path(os.environ.get("FRAMEWORKS", "~/.cache/ringmaster/tools/frameworks")).expanduser()


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


def start_standalone(start_playground):
    """A playground without the cluster protocol, and the ports of its primary and of its copy."""
    playground = start_playground("-f", str(HERE / "standalone.yaml"))

    def find():
        roles = {member["role"]: int(member["port"]) for member in playground.members() if member["state"] == "InSync"}
        for role in ("Primary", "Copy"):
            assert role in roles, playground.said(f"no {role}: {playground.command('status')}")
            redis.Redis(port=roles[role], socket_timeout=5).set("ready", "yes")
        return playground, roles["Primary"], roles["Copy"]

    return until(find)


@pytest.fixture(scope="session")
def cluster(request):
    """The port of a member of a cluster of 3 shards."""
    if given := os.environ.get("CLUSTER_PORT"):
        return int(given)
    port = request.getfixturevalue("playground").port
    until(lambda: redis.RedisCluster(host="127.0.0.1", port=port).set("ready", "yes"))
    return port


@pytest.fixture(scope="session")
def standalone(start_playground):
    """The port of a member without the cluster protocol: of the copy, so that all requests go on to the primary."""
    if given := os.environ.get("PORT"):
        return int(given)
    _, _, copy = start_standalone(start_playground)
    return copy


@pytest.fixture
def handover(start_playground):
    """Such a playground of its own, and the ports of its primary and its copy."""
    return start_standalone(start_playground)


@pytest.fixture
def client(standalone):
    client = redis.Redis(port=standalone, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def program():
    """Runs a program in a folder to its end, and shows what it said if it failed."""

    def run(*words, folder=HERE, **variables):
        result = subprocess.run(
            words, cwd=folder, env=environment(variables), capture_output=True, text=True, timeout=100
        )  # fmt: skip
        assert result.returncode == 0, f"{' '.join(map(str, words))}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return run


class Background:
    """A program of this folder that runs until it is ended."""

    def __init__(self, words, variables, stdout=subprocess.DEVNULL):
        self.process = subprocess.Popen(words, cwd=HERE, env=environment(variables), stdout=stdout, text=True)

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def worker():
    """Starts Python workers of this folder in the background, and ends them with the module."""
    started = []

    def start(*words, **variables):
        started.append(Background([sys.executable, "-m", *words], variables))
        return started[-1].process

    yield start
    for one in started:
        one.end()


@pytest.fixture
def site(standalone):
    """Starts servers of a web site whose sessions are kept in the cache; each has its `port`."""
    started = []

    def start(framework, **variables):
        words = {
            "django": [sys.executable, HERE / "sites" / "django_site.py"],
            "flask": [sys.executable, HERE / "sites" / "flask_site.py"],
            "express": ["node", LIBRARIES / "node" / "express-site.mjs"],
        }[framework]
        started.append(Background(words, {"PORT": standalone, **variables}, stdout=subprocess.PIPE))
        line = started[-1].process.stdout.readline()
        assert line.strip().isdigit(), f"{framework} does not come up: {line}"
        started[-1].port = int(line)
        return started[-1]

    yield start
    for one in started:
        one.end()


def environment(variables):
    return {**os.environ, **{name: str(value) for name, value in variables.items()}}
