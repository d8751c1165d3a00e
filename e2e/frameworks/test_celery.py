"""Celery with broker and results here: queues (BRPOP), results (SUBSCRIBE), chords (counters), control (fan-out by PUBLISH)."""

import time

import celery
import pytest
import redis

import tasks

PATIENCE_S = 60


@pytest.fixture(scope="module")
def url(standalone):
    url = f"redis://127.0.0.1:{standalone}/1"
    redis.Redis.from_url(url).flushdb()
    tasks.app.conf.update(broker_url=url, result_backend=url)
    tasks.app.set_current()
    return url


@pytest.fixture(scope="module")
def start(url, worker):
    """Starts a worker, and waits until it listens."""

    def start(name, queue="celery", **variables):
        process = worker(
            "celery", "-A", "tasks", "worker", "--pool", "threads", "--concurrency", "2", "--loglevel", "INFO",
            "--hostname", name, "--queues", queue, "--without-mingle", BROKER=url, **variables,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while not any(name in answer for answer in tasks.app.control.ping(timeout=0.5)):
            assert process.poll() is None and time.monotonic() < deadline, f"{name} does not answer"
        return process

    return start


@pytest.fixture(scope="module")
def celery_app(start):
    start("first@here")
    return tasks.app


@pytest.fixture
def store(url):
    store = redis.Redis.from_url(url, decode_responses=True)
    store.delete("done", "done:by", "begun", "hold")
    return store


def test_tasks_are_done_and_their_results_come_back(celery_app):
    assert tasks.add.delay(1, 2).get(timeout=PATIENCE_S) == 3
    results = [tasks.add.delay(number, number) for number in range(50)]
    assert [result.get(timeout=PATIENCE_S) for result in results] == [2 * number for number in range(50)]


def test_a_chord_counts_its_parts(celery_app):
    parts = celery.chord((tasks.add.s(number, 1) for number in range(20)), tasks.total.s())
    assert parts.delay().get(timeout=PATIENCE_S) == sum(number + 1 for number in range(20))
    assert celery.chain(tasks.add.s(1, 2), tasks.add.s(4)).delay().get(timeout=PATIENCE_S) == 7


def test_tasks_are_retried_fail_and_wait_for_their_time(celery_app):
    assert tasks.works_the_third_time.delay().get(timeout=PATIENCE_S) == 2
    with pytest.raises(ValueError, match="on purpose"):
        tasks.fails.delay().get(timeout=PATIENCE_S)
    began = time.monotonic()
    assert tasks.add.apply_async((2, 2), countdown=1).get(timeout=PATIENCE_S) == 4
    assert time.monotonic() - began >= 1


def test_results_end_by_their_time(celery_app, store):
    result = tasks.add.apply_async((1, 1), expires=60)
    assert result.get(timeout=PATIENCE_S) == 2
    assert 0 < store.ttl(f"celery-task-meta-{result.id}") <= 24 * 3600


def test_workers_are_asked_and_told(celery_app):
    (answers,) = [answer for answer in celery_app.control.inspect(timeout=2).stats().values()]
    assert answers["pool"]["max-concurrency"] == 2
    assert celery_app.control.purge() == 0


def test_each_task_is_done_once_by_one_of_two_workers(celery_app, start, store):
    start("second@here")
    results = [tasks.note.delay(number) for number in range(200)]
    assert [result.get(timeout=PATIENCE_S) for result in results] == [1] * 200
    assert store.hgetall("done") == {str(number): "1" for number in range(200)}
    by = {name: int(count) for name, count in store.hgetall("done:by").items()}
    assert set(by) == {"first@here", "second@here"} and sum(by.values()) == 200, "both had their share"


def test_a_task_of_a_worker_that_was_killed_is_done_by_another(start, store):
    """Celery promises at least once where tasks are acknowledged late."""
    doomed = start("doomed@here", "precious", VISIBILITY_S=2)
    store.set("hold", "yes")
    result = tasks.note_and_wait.apply_async((7,), queue="precious")
    deadline = time.monotonic() + PATIENCE_S
    while store.hget("begun", 7) is None:
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.05)
    doomed.kill()
    doomed.wait()
    store.delete("hold")
    start("heir@here", "precious", VISIBILITY_S=2)
    assert result.get(timeout=PATIENCE_S) == 1
    assert (store.hget("begun", 7), store.hget("done", 7)) == ("2", "1")
