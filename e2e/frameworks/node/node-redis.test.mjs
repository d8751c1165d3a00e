// node-redis: RESP3, scripts, messages, queues, and a cache that the server keeps right.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BasicClientSideCache, createClient, createCluster, defineScript } from 'redis'

const url = `redis://127.0.0.1:${process.env.PORT}`

test('values, transactions and a script', async () => {
  const client = await createClient({
    url,
    RESP: 3,
    scripts: {
      addIfThere: defineScript({
        NUMBER_OF_KEYS: 1,
        SCRIPT: "if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end return redis.call('INCRBY', KEYS[1], ARGV[1])",
        parseCommand(parser, key, by) {
          parser.pushKey(key)
          parser.push(String(by))
        },
        transformReply: (reply) => reply,
      }),
    },
  }).connect()
  try {
    assert.equal(await client.addIfThere('counter', 5), -1)
    await client.set('counter', '1')
    assert.equal(await client.addIfThere('counter', 5), 6)
    assert.deepEqual(await client.multi().set('a', '1').incr('a').exec(), ['OK', 2])
    await client.hSet('h', { field: 'value' })
    assert.deepEqual({ ...(await client.hGetAll('h')) }, { field: 'value' })
    await client.zAdd('z', [{ score: 1.5, value: 'm' }])
    assert.deepEqual((await client.zRangeWithScores('z', 0, -1)).map((entry) => ({ ...entry })), [{ value: 'm', score: 1.5 }])
  } finally {
    await client.close()
  }
})

test('messages and queues', async () => {
  const client = await createClient({ url, RESP: 3 }).connect()
  const other = await client.duplicate().connect()
  try {
    const heard = new Promise((resolve) => client.subscribe('news', (message, channel) => resolve([channel, message])))
    while (Number((await other.pubSubNumSub('news')).news) === 0) await new Promise((resolve) => setTimeout(resolve, 20))
    await other.publish('news', 'hello')
    assert.deepEqual(await heard, ['news', 'hello'])
    // On one connection, which RESP3 leaves free for commands.
    assert.equal(await client.ping(), 'PONG')
    const waiting = client.blPop('jobs', 5)
    await other.rPush('jobs', 'a')
    assert.deepEqual({ ...(await waiting) }, { key: 'jobs', element: 'a' })
  } finally {
    await other.close()
    await client.close()
  }
})

test('what the client keeps is dropped when another writes', async () => {
  const clientSideCache = new BasicClientSideCache({ ttl: 0, maxEntries: 100 })
  const client = await createClient({ url, RESP: 3, clientSideCache }).connect()
  const other = await createClient({ url }).connect()
  try {
    await other.set('kept', '1')
    for (let reads = 0; reads < 10; reads++) assert.equal(await client.get('kept'), '1')
    assert.equal(clientSideCache.stats().hitCount, 9)
    await other.set('kept', '2')
    const deadline = Date.now() + 5_000
    while ((await client.get('kept')) !== '2') {
      assert.ok(Date.now() < deadline, 'it is not told')
      // What is kept is given without a look at the socket, on which the news comes.
      await sleep(5)
    }
  } finally {
    await other.close()
    await client.close()
  }
})

test('values end by their time, and an interfered transaction does nothing', async () => {
  const client = await createClient({ url }).connect()
  const other = await client.duplicate().connect()
  try {
    await client.set('short', 'x', { expiration: { type: 'PX', value: 150 } })
    const deadline = Date.now() + 5_000
    while (await client.exists('short')) assert.ok(Date.now() < deadline, 'it does not end')
    await client.set('watched', '1')
    await client.watch('watched')
    await other.set('watched', '2')
    await assert.rejects(client.multi().set('watched', '3').exec(), /watched keys has been changed/)
    assert.equal(await client.get('watched'), '2')
  } finally {
    await other.close()
    await client.close()
  }
})

test('each job goes to one worker', async () => {
  const client = await createClient({ url }).connect()
  const done = []
  const work = async () => {
    const worker = await client.duplicate().connect()
    for (let job; (job = await worker.blPop('node:jobs', 10)).element !== 'end'; ) done.push(job.element)
    await worker.close()
  }
  try {
    const workers = Array.from({ length: 4 }, work)
    const jobs = Array.from({ length: 200 }, (_, number) => `job-${number}`)
    await Promise.all(jobs.map((job) => client.rPush('node:jobs', job)))
    for (let worker = 0; worker < 4; worker++) await client.rPush('node:jobs', 'end')
    await Promise.all(workers)
    assert.deepEqual(done.sort(), jobs.sort())
  } finally {
    await client.close()
  }
})

test('a cluster', async () => {
  const cluster = await createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${process.env.CLUSTER_PORT}` }] }).connect()
  try {
    for (let number = 0; number < 50; number++) await cluster.set(`key:${number}`, String(number))
    for (let number = 0; number < 50; number++) assert.equal(await cluster.get(`key:${number}`), String(number))
  } finally {
    await cluster.close()
  }
})
