"""Work for Celery and RQ. Celery's broker and result store is BROKER."""

import os

import celery

BROKER = os.environ.get("BROKER", "redis://127.0.0.1:6379/0")
app = celery.Celery("tasks", broker=BROKER, backend=BROKER)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_track_started=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
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


@app.task
def fails():
    raise ValueError("on purpose")


def double(number):
    return number * 2


def break_down():
    raise ValueError("on purpose")
