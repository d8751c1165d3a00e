"""The guide's patterns, as docs/patterns.md has them: each block of code is run against the playground by many clients at once, and
what its text promises is asserted. In: the guide. A section without a test, or a test without its section, fails."""

import collections
import concurrent.futures
import pathlib
import re
import threading
import time
import types

import pytest
import redis

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "patterns.md"
THREADS = 8


def sections():
    """The code of each section, by its heading. The code before the first heading is the connection."""
    parts = re.split(r"^## (.+)$", GUIDE.read_text(), flags=re.MULTILINE)
    named = zip(["(connection)", *parts[1::2]], parts[::2], strict=True)
    return {name: "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)) for name, text in named}


SECTIONS = sections()
TESTED = set()


def pattern(name):
    """Runs the test with that section's names, and the client that the guide makes."""
    TESTED.add(name)
    return pytest.mark.parametrize("guide", [name], indirect=True, ids=[name])


@pytest.fixture(scope="module")
def connection(playground, cache):
    names = {"host": "127.0.0.1", "port": playground.port}
    exec(compile(SECTIONS["(connection)"], str(GUIDE), "exec"), names)
    # It is closed with the process: listeners of the bus use it until then.
    return names


@pytest.fixture
def guide(request, connection):
    module = types.ModuleType("guide")
    module.redis, module.cache = connection["redis"], connection["cache"]
    exec(compile(SECTIONS[request.param], f"{GUIDE}, {request.param}", "exec"), module.__dict__)
    return module


def at_once(work, items):
    """What `work` makes of each item, by many threads, in the order of the items."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, items))


def until(holds, what, within_s=20):
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_every_section_is_tested():
    assert set(SECTIONS) - {"(connection)"} == TESTED
    assert all(SECTIONS.values()), "a section without code"


@pattern("Write buffer")
def test_what_was_written_last_is_stored_and_nothing_is_lost(guide):
    guide.cache.delete(guide.BUFFER)
    database, done, writes = {}, threading.Event(), collections.Counter()

    def flush_all_the_time():
        while not done.is_set():
            guide.flush(database.update, rows_max=50)

    flusher = threading.Thread(target=flush_all_the_time)
    flusher.start()

    def write(number):
        row = f"order-{number % 100}"
        # Each row has one writer, so its last version is known.
        for version in range(5):
            guide.write_later(row, f"{number}:{version}")
            writes[row] += 1
        return row, f"{number}:4"

    try:
        last = dict(at_once(write, range(100)))
    finally:
        done.set()
        flusher.join()
    guide.flush(database.update)
    assert database == last and sum(writes.values()) == 500
    assert guide.cache.exists(guide.BUFFER) == 0


@pattern("Write buffer")
def test_a_worker_that_dies_midway_loses_no_row(guide):
    guide.cache.delete(guide.BUFFER)
    guide.write_later("a", "1")

    def die(rows):
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError):
        guide.flush(die)
    # It is written again while it is being stored: the newer version stays for the next time.
    assert guide.flush(lambda rows: guide.write_later("a", "2")) == 0
    stored = {}
    assert guide.flush(stored.update) == 1
    assert stored == {"a": "2"}


@pattern("Throttle")
def test_as_many_pass_as_the_limit_says(guide):
    guide.time = types.SimpleNamespace(time=lambda: 6_000_000.0)
    passed = at_once(lambda n: (n % 3, allowed_at(guide, f"user-{n % 3}")), range(150))
    assert [sum(passes for asked, passes in passed if asked == user) for user in range(3)] == [20] * 3
    (key,) = guide.cache.keys("throttle:{user-0}:*", target_nodes="primaries")
    assert 0 < guide.cache.ttl(key) <= 7_200


def allowed_at(guide, user):
    return guide.allowed(user, limit=20, window_s=3_600)


@pattern("Sequential ids by compare and set")
def test_no_id_is_given_twice_and_each_tells_its_time(guide):
    began_ms = time.time_ns() // 1_000_000
    ids = at_once(lambda _: guide.next_id("by-cas"), range(200))
    assert len(set(ids)) == 200
    assert began_ms <= min(ids) and max(ids) <= time.time_ns() // 1_000_000 + 200
    assert guide.next_id("by-cas") > max(ids)


@pattern("Sequential ids by range")
def test_ranges_of_processes_do_not_overlap(guide):
    guide.cache.delete("ids:order")
    processes = [guide.Ids("order", range_size=10) for _ in range(4)]
    ids = at_once(lambda n: (n % 4, processes[n % 4].take()), range(200))
    assert sorted(number for _, number in ids) == list(range(1, 201)), "each process used its ranges to the end"
    assert guide.cache.get("ids:order") == "200", "one request for ten ids"


@pattern("Lock with fencing")
def test_one_holds_the_lock_and_numbers_grow(guide):
    inside, seen = [], []

    def work(_):
        lock = guide.Lock("one", lasts_ms=30_000)
        while (fence := lock.acquire()) is None:
            time.sleep(0.002)
        inside.append(fence)
        assert len(inside) == 1
        seen.append(fence)
        inside.remove(fence)
        assert lock.release()

    at_once(work, range(60))
    assert len(seen) == 60 and all(one < other for one, other in zip(seen, seen[1:]))


@pattern("Lock with fencing")
def test_a_holder_that_was_paused_does_no_harm(guide):
    late, other = guide.Lock("late", lasts_ms=50), guide.Lock("late", lasts_ms=30_000)
    first = late.acquire()
    assert other.acquire() is None
    until(lambda: guide.cache.exists("lock:{late}:holder") == 0, "the lock does not end")
    second = other.acquire()
    assert second > first
    assert guide.write_fenced("guarded", second, "of the second")
    assert not guide.write_fenced("guarded", first, "of the first")
    assert not late.release(), "another holds it"
    assert guide.cache.hget("guarded", "value") == "of the second"
    assert other.release()


@pattern("Bus")
def test_copies_are_dropped_everywhere_when_somebody_writes(guide):
    processes = [guide.LocalCopies() for _ in range(4)]
    until(lambda: subscribers(guide.cache) >= 4, "they do not subscribe")
    for round_ in range(20):
        processes[round_ % 4].write("setting", str(round_))
        until(lambda: [one.read("setting") for one in processes] == [str(round_)] * 4, f"round {round_} is not heard")
    reads = guide.cache.info("commandstats", target_nodes="primaries")
    [processes[0].read("setting") for _ in range(100)]
    again = guide.cache.info("commandstats", target_nodes="primaries")
    assert gets(again) - gets(reads) < 100, "what is kept is not read again"


def subscribers(cache):
    return sum(count for _, count in cache.pubsub_numsub("changed", target_nodes="all"))


def gets(commandstats):
    return sum(stats.get("cmdstat_get", {}).get("calls", 0) for stats in commandstats.values())


@pattern("Cardinality")
def test_users_are_counted_once_within_two_percent(guide):
    guide.cache.delete(*(f"visitors:{{shop}}:{day}" for day in ("mon", "tue")))
    at_once(lambda n: guide.seen("shop", "mon" if n % 2 else "tue", f"user-{n % 1_000}"), range(3_000))
    at_once(lambda n: guide.seen("shop", "tue", f"user-{n}"), range(500))
    assert abs(guide.visitors("shop", "mon", "tue") - 1_000) < 20
    assert abs(guide.visitors("shop", "mon") - 500) < 10
    assert guide.visitors("shop", "sun") == 0


@pattern("Score board")
def test_points_add_up_and_the_order_follows(guide):
    guide.cache.delete(guide.BOARD)
    at_once(lambda n: guide.add_points(f"player-{n % 10}", n % 10), range(400))
    assert guide.best(3) == [("player-9", 360.0), ("player-8", 320.0), ("player-7", 280.0)]
    assert guide.around("player-8", 1) == (2, ["player-9", "player-8", "player-7"])
    assert guide.around("player-9", 1) == (1, ["player-9", "player-8"])
    assert guide.around("nobody") is None


@pattern("Recent files")
def test_the_newest_ten_are_kept_each_once(guide):
    guide.cache.delete("recent:{ada}")
    for at, file in enumerate(["a.txt", "b.txt", "a.txt"]):
        guide.opened("ada", file, at)
    assert guide.recent("ada") == ["a.txt", "b.txt"]
    at_once(lambda at: guide.opened("ada", f"{at}.txt", at), range(3, 50))
    assert guide.recent("ada", 100) == [f"{at}.txt" for at in range(49, 39, -1)]
    assert guide.forget("ada", "49.txt") and not guide.forget("ada", "49.txt")
    assert guide.recent("ada", 1) == ["48.txt"]
    assert guide.recent("nobody") == []


@pattern("Sorted pagination")
def test_a_reader_pages_through_one_edition(guide):
    computed, rows = [], [f"post-{n:03}" for n in range(95)]

    def compute():
        computed.append(len(rows))
        return sorted(rows, reverse=True)

    pages = guide.Pages(f"posts-{time.time_ns()}", compute, fresh_s=1)
    firsts = at_once(lambda _: pages.read(0), range(40))
    assert len(computed) == 1, "of many readers one refreshes"
    assert {tuple(entries) for entries, _ in firsts} == {tuple(sorted(rows, reverse=True)[:10])}
    edition, read, expected = firsts[0][1], list(firsts[0][0]), sorted(rows, reverse=True)
    time.sleep(1.1)
    rows.append("post-999")
    for page in range(1, 10):
        entries, same = pages.read(page, edition=edition)
        assert same == edition
        read += entries
    assert read == expected, "none twice, none missed"
    assert pages.read(0)[0][0] == "post-999", "a newer edition for who begins now"
    assert len(computed) == 2


@pattern("Counting service")
def test_each_user_counts_once(guide):
    posts = [f"post-{time.time_ns()}-{n}" for n in range(5)]
    at_once(lambda n: guide.like(posts[n % 5], f"user-{n % 100}"), range(300))
    assert guide.likes(posts) == [20] * 5
    at_once(lambda n: guide.unlike(posts[0], f"user-{n}"), [0, 5, 10, 0, 5, 1])
    assert guide.likes(posts) == [17, 20, 20, 20, 20]
    guide.cache.set(guide.keys_of(posts[1])[1], 7)
    assert guide.recount(posts[1]) == 20
    assert guide.likes([posts[1], "unknown"]) == [20, 0]


def test_the_connection_is_a_cluster_client(connection):
    assert isinstance(connection["cache"], redis.RedisCluster)
