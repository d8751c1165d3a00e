"""A sliding window in a script, by many clients at once: exactly as many pass as may."""

import concurrent.futures
import time

import redis

SLIDING_WINDOW = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now_ms - ARGV[1])
local passed = redis.call('ZCARD', KEYS[1])
if passed >= tonumber(ARGV[2]) then return {0, 0} end
redis.call('ZADD', KEYS[1], now_ms, ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {1, tonumber(ARGV[2]) - passed - 1}
"""


def test_exactly_as_many_pass_as_the_limit_says(cluster):
    client = redis.RedisCluster(host="127.0.0.1", port=cluster)
    limiter = client.register_script(SLIDING_WINDOW)
    window_ms, limit = 30_000, 50

    def ask(number):
        passes, left = limiter(keys=[f"limit:user:{number % 3}"], args=[window_ms, limit, f"request:{number}"])
        assert 0 <= left < limit
        return number % 3, passes

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(600)))
    assert time.monotonic() - began < window_ms / 1000
    for user in range(3):
        assert sum(passes for asked, passes in answers if asked == user) == limit


def test_a_window_that_is_over_lets_pass_again(client):
    limiter = client.register_script(SLIDING_WINDOW)
    ask = lambda number: limiter(keys=["limit"], args=[300, 2, number])[0]  # noqa: E731
    assert [ask(number) for number in range(4)] == [1, 1, 0, 0]
    time.sleep(0.4)
    assert ask(9) == 1
