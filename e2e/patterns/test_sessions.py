"""A session store: a hash a session that lives on as long as it is used, and counters; also while a node is cordoned."""

import secrets
import threading
import time

import pytest

LIVES_S = 1800


class Sessions:
    def __init__(self, cache):
        self.cache = cache

    def begin(self, user):
        token = secrets.token_hex(16)
        self.cache.hset(self.key(token), mapping={"user": user, "visits": 0})
        self.cache.expire(self.key(token), LIVES_S)
        return token

    def visit(self, token):
        """Counts a visit and lets the session live on; None when there is no such session."""
        if not self.cache.expire(self.key(token), LIVES_S):
            return None
        return self.cache.hincrby(self.key(token), "visits", 1)

    def user(self, token):
        return self.cache.hget(self.key(token), "user")

    def end(self, token):
        return self.cache.delete(self.key(token))

    @staticmethod
    def key(token):
        return f"session:{token}"


@pytest.fixture
def sessions(cache):
    return Sessions(cache)


def test_a_session_is_found_by_its_token(sessions):
    token = sessions.begin("ada")
    assert sessions.user(token) == "ada"
    assert [sessions.visit(token) for _ in range(3)] == [1, 2, 3]


def test_an_unknown_token_is_nobody(sessions):
    assert sessions.user("unknown") is None
    assert sessions.visit("unknown") is None


def test_an_ended_session_is_gone(sessions):
    token = sessions.begin("ada")
    assert sessions.end(token) == 1
    assert sessions.user(token) is None
    assert sessions.end(token) == 0


def test_a_session_expires_unless_it_is_visited(sessions, cache):
    kept, left = sessions.begin("kept"), sessions.begin("left")
    cache.pexpire(sessions.key(kept), 200)
    cache.pexpire(sessions.key(left), 200)
    sessions.visit(kept)
    deadline = time.monotonic() + 5
    while sessions.user(left) is not None:
        assert time.monotonic() < deadline, "the session does not expire"
        time.sleep(0.02)
    assert sessions.user(kept) == "kept"


def test_sessions_survive_the_cordon_of_a_node(sessions, playground):
    """Every visit counts exactly once while the members of a node are replaced."""
    tokens = [sessions.begin(f"user-{n}") for n in range(30)]
    stop, counted = threading.Event(), dict.fromkeys(tokens, 0)

    def visit():
        while not stop.is_set():
            for token in tokens:
                counted[token] += 1
                assert sessions.visit(token) == counted[token]

    failures = []

    def watched():
        try:
            visit()
        except BaseException as failure:
            failures.append(failure)

    visits = threading.Thread(target=watched)
    visits.start()
    try:
        playground.command("cordon", "node1")
        deadline = time.monotonic() + 60
        while "node1" in members_by_node(playground):
            assert not failures, failures
            assert time.monotonic() < deadline, "the members of node1 are not replaced"
            time.sleep(0.2)
    finally:
        stop.set()
        visits.join()
        playground.command("uncordon", "node1")
    assert not failures, failures
    assert all(sessions.visit(token) == counted[token] + 1 for token in tokens)


def members_by_node(playground):
    """The nodes on which `playground status` shows members."""
    table = playground.command("status")
    return {word for line in table.splitlines() for word in line.split() if word.startswith("node")}
