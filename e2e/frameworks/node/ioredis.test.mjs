// ioredis: cluster and not, queues, scripts as commands, messages.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import Redis, { Cluster } from 'ioredis'

const PORT = Number(process.env.PORT)
const CLUSTER_PORT = Number(process.env.CLUSTER_PORT)

test('a cluster is found from one member, and scripts are commands', async () => {
  const cluster = new Cluster([{ host: '127.0.0.1', port: CLUSTER_PORT }])
  try {
    cluster.defineCommand('addCapped', {
      numberOfKeys: 1,
      lua: `local n = redis.call('RPUSH', KEYS[1], ARGV[1])
            redis.call('LTRIM', KEYS[1], -3, -1)
            return redis.call('LRANGE', KEYS[1], 0, -1)`,
    })
    for (let number = 0; number < 30; number++) {
      const key = `list:${number % 10}`
      const list = await cluster.addCapped(key, number)
      assert.equal(list.at(-1), String(number))
    }
    assert.deepEqual(await cluster.lrange('list:3', 0, -1), ['3', '13', '23'])
    const replies = await cluster.pipeline().set('{a}1', 'x').get('{a}1').incr('{a}2').exec()
    assert.deepEqual(replies.map(([error, value]) => [error, value]), [[null, 'OK'], [null, 'x'], [null, 1]])
  } finally {
    await cluster.quit()
  }
})

test('messages cross the cluster, shard channels too', async () => {
  const subscriber = new Cluster([{ host: '127.0.0.1', port: CLUSTER_PORT }])
  const publisher = new Cluster([{ host: '127.0.0.1', port: CLUSTER_PORT }])
  try {
    await subscriber.subscribe('news')
    for (const node of publisher.nodes('master')) {
      const heard = once(subscriber, 'message')
      await node.publish('news', `from ${node.options.port}`)
      assert.deepEqual(await heard, ['news', `from ${node.options.port}`])
    }
  } finally {
    subscriber.disconnect()
    publisher.disconnect()
  }
})

test('a worker waits for what another client pushes', async () => {
  const worker = new Redis(PORT)
  const client = new Redis(PORT)
  try {
    const waiting = worker.blpop('none', 'jobs', 0)
    await new Promise((resolve) => setTimeout(resolve, 100))
    await client.rpush('jobs', 'a')
    assert.deepEqual(await waiting, ['jobs', 'a'])
    assert.equal(await worker.blpop('jobs', 0.1), null)
    const results = await client.multi().set('n', 1).incr('n').exec()
    assert.deepEqual(results, [[null, 'OK'], [null, 2]])
    assert.deepEqual(await client.eval('return {KEYS[1], ARGV[1], 3}', 1, 'k', 'v'), ['k', 'v', 3])
  } finally {
    worker.disconnect()
    client.disconnect()
  }
})

test('values end by their time, and increments of many at once all count', async () => {
  const cluster = new Cluster([{ host: '127.0.0.1', port: CLUSTER_PORT }])
  try {
    await cluster.set('ioredis:short', 'x', 'PX', 150)
    assert.equal(await cluster.set('ioredis:short', 'y', 'NX'), null)
    assert.ok((await cluster.pttl('ioredis:short')) <= 150)
    const deadline = Date.now() + 5_000
    while (await cluster.exists('ioredis:short')) assert.ok(Date.now() < deadline, 'it does not end')
    await cluster.del('ioredis:counter')
    const answers = await Promise.all(Array.from({ length: 2_000 }, () => cluster.incr('ioredis:counter')))
    assert.deepEqual(answers.sort((a, b) => a - b), Array.from({ length: 2_000 }, (_, n) => n + 1))
  } finally {
    await cluster.quit()
  }
})

test('copies answer reads', async () => {
  const cluster = new Cluster([{ host: '127.0.0.1', port: CLUSTER_PORT }], { scaleReads: 'slave' })
  try {
    for (let number = 0; number < 60; number++) await cluster.set(`copied:${number}`, `value-${number}`)
    for (let number = 0; number < 60; number++) assert.equal(await cluster.get(`copied:${number}`), `value-${number}`)
    assert.equal(cluster.nodes('slave').length, 3)
  } finally {
    await cluster.quit()
  }
})
