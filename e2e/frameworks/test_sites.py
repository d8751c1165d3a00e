"""Web servers behind a load balancer: Django, Flask and Express, each as two processes that know nothing of each other but the cache. Every
request of a user may go to either."""

import collections
import concurrent.futures
import http.cookiejar
import json
import time
import urllib.request

import pytest

FRAMEWORKS = ["django", "flask", "express"]
# Where each keeps its sessions: database and the beginning of their keys.
KEPT = {"django": (3, "django:"), "flask": (4, "session:"), "express": (5, "sess:")}


class Browser:
    """A user: its cookies, and each request to the next server in turn."""

    def __init__(self, *ports):
        self.ports = collections.deque(ports)
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def visits(self, path):
        self.ports.rotate()
        # Behind a load balancer all servers have one name.
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[0]}/{path}", headers={"Host": "site.test"})
        with self.opener.open(request, timeout=30) as response:
            return json.load(response)


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def servers(framework, site, client):
    return [site(framework), site(framework)]


def kept_sessions(client, framework):
    database, prefix = KEPT[framework]
    with client.client() as there:
        there.execute_command("SELECT", database)
        return {key: there.ttl(key) for key in there.scan_iter(f"{prefix}*")}


def ports(servers):
    return [server.port for server in servers]


def test_a_session_is_the_same_on_every_server(servers, framework, client):
    browser = Browser(*ports(servers))
    assert browser.visits("visit")["user"] is None
    browser.visits("login?user=ada")
    assert [browser.visits("visit") for _ in range(10)] == [{"user": "ada", "visits": n} for n in range(1, 11)]
    kept = kept_sessions(client, framework)
    assert len(kept) == 1 and all(0 < ttl <= 14 * 24 * 3600 for ttl in kept.values()), kept


def test_sessions_of_many_users_do_not_mix(servers):
    def live(number):
        browser = Browser(*ports(servers))
        browser.visits(f"login?user=user-{number}")
        return [browser.visits("visit") for _ in range(4)]

    with concurrent.futures.ThreadPoolExecutor(8) as users:
        seen = list(users.map(live, range(40)))
    assert seen == [[{"user": f"user-{number}", "visits": n} for n in range(1, 5)] for number in range(40)]


def test_an_ended_session_is_gone_everywhere(servers, framework, client):
    browser = Browser(*ports(servers))
    browser.visits("login?user=ada")
    assert browser.visits("visit")["user"] == "ada"
    browser.visits("logout")
    assert [browser.visits("visit")["user"] for _ in range(2)] == [None, None]
    assert kept_sessions(client, framework) == {}


def test_a_session_ends_by_its_time(framework, site, client):
    # Flask's sessions all last equally long; the others let each say how long.
    servers = [site(framework, SESSION_S=1), site(framework, SESSION_S=1)]
    browser = Browser(*ports(servers))
    browser.visits("login?user=ada&seconds=1")
    (ttl,) = kept_sessions(client, framework).values()
    assert 0 <= ttl <= 1
    deadline = time.monotonic() + 10
    while kept_sessions(client, framework):
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.05)
    assert browser.visits("visit")["user"] is None


def test_a_session_outlives_its_server(servers, framework, site):
    browser = Browser(*ports(servers))
    browser.visits("login?user=ada")
    for server in servers:
        server.process.kill()
    browser.ports = collections.deque(ports([site(framework), site(framework)]))
    assert browser.visits("visit") == {"user": "ada", "visits": 1}


@pytest.fixture
def django(site, client):
    return [site("django"), site("django")]


def test_a_page_is_computed_by_one_server_and_served_by_all(django):
    browser = Browser(*ports(django))
    first = browser.visits("page")
    assert first["computed"] == 1
    assert [browser.visits("page") for _ in range(6)] == [first] * 6


def test_of_many_servers_one_is_first_and_every_count_counts(django):
    def ask(number):
        browser = Browser(*ports(django))
        browser.ports.rotate(number)
        return browser.visits("once/mail")["first"], browser.visits("count/hits")["count"]

    with concurrent.futures.ThreadPoolExecutor(8) as users:
        answers = list(users.map(ask, range(80)))
    assert sum(first for first, _ in answers) == 1
    assert sorted(count for _, count in answers) == list(range(1, 81))
