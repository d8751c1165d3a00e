"""ioredis, node-redis, BullMQ, go-redis, Jedis and Lettuce: programs of their own languages, which assert for themselves. None may be
left out: a language that is missing is a failure."""

import os
import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).parent
LIBRARIES = pathlib.Path(os.environ.get("FRAMEWORKS", "~/.cache/ringmaster/tools/frameworks")).expanduser()


@pytest.mark.parametrize("name", ["ioredis", "node-redis", "bullmq"])
def test_node(name, cluster, standalone, client, program):
    folder = LIBRARIES / "node"
    said = program(
        "node", "--test", "--test-reporter", "tap", f"{name}.test.mjs", folder=folder, CLUSTER_PORT=cluster, PORT=standalone
    )  # fmt: skip
    counts = dict(re.findall(r"^# (\w+) (\d+)$", said, re.MULTILINE))
    written = len(re.findall(r"^test\(", (folder / f"{name}.test.mjs").read_text(), re.MULTILINE))
    assert counts["pass"] == counts["tests"] == str(written), said


def test_go_redis(cluster, standalone, client, program):
    said = program("go", "test", "-count=1", "-v", "./...", folder=HERE / "go", CLUSTER_PORT=cluster, PORT=standalone)
    written = len(re.findall(r"^func Test", (HERE / "go" / "goredis_test.go").read_text(), re.MULTILINE))
    assert said.count("--- PASS: ") == written and "--- SKIP" not in said, said


@pytest.mark.parametrize("name", ["Jedis", "Lettuce"])
def test_java(name, cluster, standalone, client, program):
    libraries = f"{LIBRARIES / 'java'}/*"
    said = program("java", "-cp", libraries, HERE / "java" / f"{name}Test.java", CLUSTER_PORT=cluster, PORT=standalone)
    assert said.splitlines()[-1] == "passed", said
