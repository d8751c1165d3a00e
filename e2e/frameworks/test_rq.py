"""RQ: queues, results, failures, and jobs for later."""

import datetime

import redis
import rq
import rq.job

import tasks


def work(standalone, program):
    url = f"redis://127.0.0.1:{standalone}/2"
    import sys

    program(sys.executable, "-m", "rq.cli", "worker", "--burst", "--with-scheduler", "--url", url, "main")


def test_jobs_are_done_in_order_and_failures_are_kept(standalone, client, program):
    connection = redis.Redis(port=standalone, db=2)
    queue = rq.Queue("main", connection=connection)
    jobs = [queue.enqueue(tasks.double, number) for number in range(5)]
    dependent = queue.enqueue(tasks.double, 100, depends_on=jobs)
    broken = queue.enqueue(tasks.break_down)
    assert len(queue) == 6, "one waits for the others"
    work(standalone, program)
    assert [job.return_value(refresh=True) for job in jobs] == [0, 2, 4, 6, 8]
    assert dependent.return_value(refresh=True) == 200
    assert broken.get_status(refresh=True) == rq.job.JobStatus.FAILED
    assert "on purpose" in broken.latest_result().exc_string
    assert broken.id in queue.failed_job_registry.get_job_ids()
    assert (len(queue), len(queue.finished_job_registry)) == (0, 6)


def test_a_job_for_later_waits_in_its_registry(standalone, client):
    connection = redis.Redis(port=standalone, db=2)
    queue = rq.Queue("main", connection=connection)
    job = queue.enqueue_in(datetime.timedelta(minutes=5), tasks.double, 1)
    assert job.id in queue.scheduled_job_registry
    assert len(queue) == 0
    job.delete()
    assert job.id not in queue.scheduled_job_registry
