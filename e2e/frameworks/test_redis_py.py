"""redis-py: locks, transactions, blocking queues, and messages between the members of a cluster."""

import threading
import time

import pytest
import redis


def test_a_lock_is_held_by_one_and_given_back_by_its_owner_alone(client):
    counted = {"n": 0}

    def count():
        for _ in range(20):
            # Its release and its extension are scripts.
            with client.lock("lock", timeout=10, blocking_timeout=30):
                seen = counted["n"]
                time.sleep(0.001)
                counted["n"] = seen + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert counted["n"] == 80
    lock = client.lock("lock", timeout=5)
    assert lock.acquire()
    lock.extend(5)
    client.set("lock", "somebody else")
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        lock.release()


def test_a_transaction_is_tried_until_nobody_interferes(client):
    client.set("sum", 0)

    def add(pipe):
        value = int(pipe.get("sum"))
        pipe.multi()
        pipe.set("sum", value + 1)

    threads = [threading.Thread(target=lambda: [client.transaction(add, "sum") for _ in range(25)]) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert client.get("sum") == "100"


def test_workers_share_a_queue_and_each_item_goes_to_one(client):
    got, done = [], threading.Event()

    def work():
        while not done.is_set():
            item = client.blpop(["urgent", "usual"], timeout=1)
            if item:
                got.append(item)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    for number in range(200):
        client.rpush("urgent" if number % 10 == 0 else "usual", number)
    deadline = time.monotonic() + 20
    while len(got) < 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    done.set()
    [thread.join() for thread in threads]
    assert sorted(int(item) for _, item in got) == list(range(200))
    assert client.exists("urgent", "usual") == 0


def test_an_item_in_work_is_in_a_list_of_its_own_until_it_is_done(client):
    client.rpush("todo", "a")
    assert client.blmove("todo", "doing", 1, "LEFT", "RIGHT") == "a"
    assert (client.lrange("doing", 0, -1), client.llen("todo")) == (["a"], 0)
    assert client.brpoplpush("todo", "doing", timeout=1) is None
    client.zadd("scores", {"one": 1, "two": 2})
    assert client.bzpopmin("scores", timeout=1) == ("scores", "one", 1.0)


def test_what_is_published_at_one_member_is_heard_at_every_other(cluster):
    nodes = redis.RedisCluster(host="127.0.0.1", port=cluster).get_nodes()
    assert len(nodes) == 6
    subscribers = []
    for node in nodes:
        subscriber = redis.Redis(host=node.host, port=node.port, decode_responses=True).pubsub()
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=5)["type"] == "subscribe"
        subscribers.append(subscriber)
    for number, node in enumerate(nodes):
        assert redis.Redis(host=node.host, port=node.port).publish("news", number) == 1, "those of this member are counted"
        for subscriber in subscribers:
            message = subscriber.get_message(timeout=10)
            assert message and message["data"] == str(number), f"from {node.port}"


def test_scripts_of_a_cluster_run_where_their_keys_are(cluster):
    client = redis.RedisCluster(host="127.0.0.1", port=cluster, decode_responses=True)
    script = client.register_script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
    for number in range(50):
        assert script(keys=[f"key:{number}"], args=[number]) == str(number)
