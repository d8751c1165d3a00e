"""Celery with broker and results here: queues (BRPOP), results (SUBSCRIBE), chords (counters), control (fan-out by PUBLISH)."""

import pytest

import tasks

PATIENCE_S = 60


@pytest.fixture
def celery_app(standalone, client, worker):
    url = f"redis://127.0.0.1:{standalone}/1"
    tasks.app.conf.update(broker_url=url, result_backend=url)
    tasks.app.set_current()
    worker("celery", "-A", "tasks", "worker", "--pool", "threads", "--concurrency", "2", "--loglevel", "INFO", BROKER=url)
    # The worker answers on a channel of its own once it listens.
    for _ in range(PATIENCE_S):
        if tasks.app.control.ping(timeout=1):
            return tasks.app
    pytest.fail("the worker does not answer")


def test_tasks_are_done_and_their_results_come_back(celery_app):
    assert tasks.add.delay(1, 2).get(timeout=PATIENCE_S) == 3
    results = [tasks.add.delay(number, number) for number in range(50)]
    assert [result.get(timeout=PATIENCE_S) for result in results] == [2 * number for number in range(50)]


def test_a_chord_counts_its_parts(celery_app):
    import celery

    parts = celery.chord((tasks.add.s(number, 1) for number in range(20)), tasks.total.s())
    assert parts.delay().get(timeout=PATIENCE_S) == sum(number + 1 for number in range(20))
    assert celery.chain(tasks.add.s(1, 2), tasks.add.s(4)).delay().get(timeout=PATIENCE_S) == 7


def test_tasks_are_retried_fail_and_wait_for_their_time(celery_app):
    assert tasks.works_the_third_time.delay().get(timeout=PATIENCE_S) == 2
    with pytest.raises(ValueError, match="on purpose"):
        tasks.fails.delay().get(timeout=PATIENCE_S)
    assert tasks.add.apply_async((2, 2), countdown=1).get(timeout=PATIENCE_S) == 4


def test_workers_are_asked_and_told(celery_app):
    (answers,) = [answer for answer in celery_app.control.inspect(timeout=5).stats().values()]
    assert answers["pool"]["max-concurrency"] == 2
    assert celery_app.control.purge() == 0
