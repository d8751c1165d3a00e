// An Express site whose sessions connect-redis keeps in the cache. In: PORT, the cache's. Out: the site's port on standard output.
import { RedisStore } from 'connect-redis'
import express from 'express'
import session from 'express-session'
import { createClient } from 'redis'

const client = await createClient({ url: `redis://127.0.0.1:${process.env.PORT}/5` })
  .on('error', (error) => process.stderr.write(`${error}\n`))
  .connect()
const site = express()
site.use(session({ store: new RedisStore({ client }), secret: 'of a test', resave: false, saveUninitialized: false }))

site.get('/login', (request, response, next) => {
  request.session.regenerate((error) => {
    if (error) return next(error)
    request.session.user = request.query.user
    request.session.visits = 0
    if (request.query.seconds) request.session.cookie.maxAge = Number(request.query.seconds) * 1000
    response.json({})
  })
})

site.get('/visit', (request, response) => {
  if (!request.session.user) return response.json({ user: null })
  request.session.visits += 1
  response.json({ user: request.session.user, visits: request.session.visits })
})

site.get('/logout', (request, response, next) => {
  request.session.destroy((error) => (error ? next(error) : response.json({})))
})

const server = site.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))
