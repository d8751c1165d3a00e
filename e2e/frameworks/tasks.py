"""Work for Celery and RQ. Celery's broker and result store is BROKER; what was done is noted there too."""

import os
import time

import celery
import redis
import rq

BROKER = os.environ.get("BROKER", "redis://127.0.0.1:6379/0")
app = celery.Celery("tasks", broker=BROKER, backend=BROKER)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_track_started=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    # After how long a task that was not acknowledged is given to another worker, and that it is looked for every second.
    broker_transport_options={
        "visibility_timeout": int(os.environ.get("VISIBILITY_S", "3600")),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)


@app.task
def add(one, other):
    return one + other


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def works_the_third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(bind=True)
def note(self, number):
    """Counts how often this was done, and by whom."""
    store = redis.Redis.from_url(BROKER)
    store.hincrby("done:by", self.request.hostname, 1)
    return store.hincrby("done", number, 1)


@app.task
def note_and_wait(number):
    """As `note`, but not before HOLD is gone."""
    store = redis.Redis.from_url(BROKER)
    store.hincrby("begun", number, 1)
    while store.exists("hold"):
        time.sleep(0.05)
    return store.hincrby("done", number, 1)


@app.task
def fails():
    raise ValueError("on purpose")


def double(number):
    return number * 2


def count(url, number):
    store = redis.Redis.from_url(url)
    store.hincrby("done:by", rq.get_current_job().worker_name, 1)
    return store.hincrby("done", number, 1)


def break_down():
    raise ValueError("on purpose")
