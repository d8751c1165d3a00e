"""ioredis, node-redis, BullMQ and go-redis: programs of their own languages, which assert for themselves."""

import pathlib
import shutil

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("name", ["ioredis", "node-redis", "bullmq"])
def test_node(name, cluster, standalone, client, program):
    assert (HERE / "node" / "node_modules").is_dir(), "npm install --prefix e2e/frameworks/node"
    if name == "bullmq" and not client.command_info("xadd")[0]:
        pytest.skip("its events are streams, which are not served yet")
    program("node", "--test", f"{name}.test.mjs", folder="node", CLUSTER_PORT=cluster, PORT=standalone)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_redis(cluster, standalone, client, program):
    program("go", "test", "-count=1", "./...", folder="go", CLUSTER_PORT=cluster, PORT=standalone)
