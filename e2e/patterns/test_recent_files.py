"""The recent-files list: for each user, the files opened last, newest first, each once, no more than ten."""

import pytest

KEPT = 10


class RecentFiles:
    """A sorted set a user, by the time of the last opening."""

    def __init__(self, cache):
        self.cache = cache

    def open(self, user, file, at_ms):
        key = self.key(user)
        # All keys of a user have one slot, so one round trip does it.
        with self.cache.pipeline() as batch:
            batch.zadd(key, {file: at_ms})
            batch.zremrangebyrank(key, 0, -KEPT - 1)
            batch.expire(key, 3600)
            batch.execute()

    def newest(self, user, count=KEPT):
        return self.cache.zrevrange(self.key(user), 0, count - 1)

    def forget(self, user, file):
        return self.cache.zrem(self.key(user), file)

    @staticmethod
    def key(user):
        return f"recent:{{{user}}}"


@pytest.fixture
def recent(cache, request):
    files = RecentFiles(cache)
    cache.delete(files.key(request.node.name))
    return files


def test_the_newest_file_comes_first(recent, request):
    user = request.node.name
    for at, file in enumerate(["a.txt", "b.txt", "c.txt"]):
        recent.open(user, file, at)
    assert recent.newest(user) == ["c.txt", "b.txt", "a.txt"]


def test_a_file_opened_again_moves_up_and_stays_one_entry(recent, request):
    user = request.node.name
    for at, file in enumerate(["a.txt", "b.txt", "a.txt"]):
        recent.open(user, file, at)
    assert recent.newest(user) == ["a.txt", "b.txt"]


def test_no_more_than_ten_are_kept(recent, request):
    user = request.node.name
    for at in range(25):
        recent.open(user, f"{at}.txt", at)
    assert recent.newest(user, 100) == [f"{at}.txt" for at in range(24, 14, -1)]


def test_a_forgotten_file_is_gone_and_the_others_stay(recent, request):
    user = request.node.name
    for at, file in enumerate(["a.txt", "b.txt"]):
        recent.open(user, file, at)
    assert recent.forget(user, "a.txt") == 1
    assert recent.newest(user) == ["b.txt"]
    assert recent.forget(user, "a.txt") == 0


def test_the_list_ends_with_its_time(recent, request, cache):
    user = request.node.name
    recent.open(user, "a.txt", 1)
    assert 0 < cache.ttl(recent.key(user)) <= 3600


def test_lists_of_many_users_do_not_mix(recent, request):
    users = [f"{request.node.name}-{n}" for n in range(50)]
    for n, user in enumerate(users):
        recent.open(user, f"of-{n}.txt", n)
    assert [recent.newest(user) for user in users] == [[f"of-{n}.txt"] for n in range(50)]
