// BullMQ: jobs with priorities, delays, retries and events; each step is a script.
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { Queue, QueueEvents, Worker } from 'bullmq'
import Redis from 'ioredis'

const connection = { host: '127.0.0.1', port: Number(process.env.PORT), maxRetriesPerRequest: null }

test('jobs are done, retried, delayed and reported', async () => {
  const queue = new Queue('paint', { connection })
  const events = new QueueEvents('paint', { connection })
  await events.waitUntilReady()
  const order = []
  const worker = new Worker(
    'paint',
    async (job) => {
      if (job.name === 'stumbles' && job.attemptsMade < 2) throw new Error('on purpose')
      if (job.name === 'fails') throw new Error('for good')
      order.push(job.data.number)
      return job.data.number * 2
    },
    { connection, concurrency: 4 },
  )
  try {
    const jobs = await queue.addBulk(
      Array.from({ length: 40 }, (_, number) => ({ name: 'paint', data: { number } })),
    )
    const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 30_000)))
    assert.deepEqual(results, jobs.map((_, number) => number * 2))
    const stumbling = await queue.add('stumbles', { number: 7 }, { attempts: 3, backoff: 50 })
    assert.equal(await stumbling.waitUntilFinished(events, 30_000), 14)
    const failing = await queue.add('fails', { number: 0 })
    await assert.rejects(failing.waitUntilFinished(events, 30_000), /for good/)
    const later = await queue.add('paint', { number: 9 }, { delay: 500 })
    assert.equal(await later.getState(), 'delayed')
    assert.equal(await later.waitUntilFinished(events, 30_000), 18)
    const first = await queue.add('paint', { number: 1 }, { priority: 5 })
    await first.waitUntilFinished(events, 30_000)
    const counts = await queue.getJobCounts('completed', 'failed', 'waiting', 'active', 'delayed')
    assert.deepEqual(counts, { completed: 43, failed: 1, waiting: 0, active: 0, delayed: 0 })
  } finally {
    await worker.close()
    await events.close()
    await queue.obliterate({ force: true })
    await queue.close()
  }
})

test('each job is done once by one of two workers', async () => {
  const queue = new Queue('shared', { connection })
  const events = new QueueEvents('shared', { connection })
  await events.waitUntilReady()
  const done = new Map()
  const count = async (job) => done.set(job.data.number, (done.get(job.data.number) ?? 0) + 1)
  const workers = [1, 2].map(() => new Worker('shared', count, { connection, concurrency: 8 }))
  try {
    const jobs = await queue.addBulk(Array.from({ length: 300 }, (_, number) => ({ name: 'count', data: { number } })))
    await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 30_000)))
    assert.deepEqual([...done.values()], Array(300).fill(1))
    assert.equal(await queue.getCompletedCount(), 300)
  } finally {
    await Promise.all(workers.map((worker) => worker.close()))
    await events.close()
    await queue.obliterate({ force: true })
    await queue.close()
  }
})

test('a job of a worker that was killed is done by another', async () => {
  const queue = new Queue('precious', { connection })
  const events = new QueueEvents('precious', { connection })
  const client = new Redis(connection.port)
  await events.waitUntilReady()
  const doomed = fork(new URL('./bullmq-worker.mjs', import.meta.url))
  let heir
  try {
    const job = await queue.add('precious', {})
    await once(doomed, 'message')
    doomed.kill('SIGKILL')
    await once(doomed, 'exit')
    assert.equal(await job.getState(), 'active')
    heir = new Worker('precious', async () => client.incr('bullmq:done'), { connection, lockDuration: 500, stalledInterval: 500 })
    assert.equal(await job.waitUntilFinished(events, 30_000), 1)
    assert.equal(await client.get('bullmq:begun'), '1')
  } finally {
    await heir?.close()
    await events.close()
    await queue.obliterate({ force: true })
    await queue.close()
    client.disconnect()
  }
})
