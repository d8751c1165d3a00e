// A worker that begins a job, says so, and never ends it.
import { Worker } from 'bullmq'
import Redis from 'ioredis'

const connection = { host: '127.0.0.1', port: Number(process.env.PORT), maxRetriesPerRequest: null }
const client = new Redis(connection.port)
new Worker(
  'precious',
  async () => {
    await client.incr('bullmq:begun')
    process.send('begun')
    await new Promise(() => {})
  },
  { connection, lockDuration: 500, stalledInterval: 500 },
)
