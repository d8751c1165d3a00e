// BullMQ: jobs with priorities, delays, retries and events; each step is a script.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Queue, QueueEvents, Worker } from 'bullmq'

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
