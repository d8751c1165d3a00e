"""RQ: queues, results, failures, and jobs for later."""

import datetime
import sys

import redis
import rq
import rq.job

import tasks


def work(standalone, program):
    url = f"redis://127.0.0.1:{standalone}/2"
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


def test_each_job_is_done_once_by_one_of_two_workers(standalone, client, worker):
    url = f"redis://127.0.0.1:{standalone}/2"
    connection = redis.Redis(port=standalone, db=2)
    queue = rq.Queue("shared", connection=connection)
    jobs = [queue.enqueue(tasks.count, url, number) for number in range(40)]
    workers = [worker("rq.cli", "worker", "--burst", "--quiet", "--url", url, "shared") for _ in range(2)]
    assert [process.wait(80) for process in workers] == [0, 0]
    assert connection.hgetall("done") == {str(number).encode(): b"1" for number in range(40)}
    assert [job.return_value(refresh=True) for job in jobs] == [1] * 40
    by = [int(count) for count in connection.hgetall("done:by").values()]
    assert len(by) == 2 and sum(by) == 40, "both had their share"


def test_a_result_ends_by_its_time(standalone, client, program):
    queue = rq.Queue("main", connection=redis.Redis(port=standalone, db=2))
    job = queue.enqueue(tasks.double, 4, result_ttl=100)
    work(standalone, program)
    assert job.return_value(refresh=True) == 8
    assert 0 < queue.connection.ttl(job.key) <= 100
