// The official event handler middleware, unmodified, in an Express application that the daemon tells of events; the
// official client on the other side.
// usage: NODE_MODULES_DIR=... node events_express.mjs PATH-OF-THE-DAEMON [PART OF A CASE'S NAME]

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

import { Inbox, check, equal, load, run, soon, test } from './cases.mjs'

const { SendMessageError, WebPubSubClient, WebPubSubJsonProtocol } = load('@azure/web-pubsub-client')
const { WebPubSubEventHandler } = load('@azure/web-pubsub-express')
const { WebSocket } = load('ws')
const express = load('express')

const connected = new Inbox()
const disconnected = new Inbox()

const chat = new WebPubSubEventHandler('chat', {
  handleConnect(request, response) {
    const [user] = request.queries.user ?? []
    if (!user) return response.fail(401, 'who are you?')
    if (user === 'mallory') return response.fail(403)
    response.setState('visits', 1)
    response.success({ userId: user, groups: ['lobby'], roles: ['webpubsub.sendToGroup.lobby'] })
  },
  onConnected: (request) => connected.put(request),
  onDisconnected: (request) => disconnected.put(request),
  handleUserEvent(request, response) {
    const { eventName, states, userId } = request.context
    if (eventName === 'fail') return response.fail(500, 'no')
    if (eventName === 'nothing') return response.success()
    if (eventName === 'visit') {
      const { visits } = states
      response.setState('visits', visits + 1)
      return response.success(JSON.stringify({ userId, visits }), 'json')
    }
    const data = request.dataType === 'json' ? JSON.stringify(request.data) : request.data
    response.success(data, request.dataType)
  },
})

const app = express()
app.use(chat.getMiddleware())
const server = app.listen(0, '127.0.0.1')
await once(server, 'listening')

const flags = ['--listen', '127.0.0.1:0', '--control', '127.0.0.1:0', '--event-handler', `http://127.0.0.1:${server.address().port}/api/webpubsub/hubs/{hub}/`]
const daemon = spawn(process.argv[2], flags, { stdio: ['ignore', 'ignore', 'pipe'] })
process.on('exit', () => daemon.kill('SIGKILL'))
const log = createInterface(daemon.stderr)[Symbol.asyncIterator]()
async function logged(pattern) {
  for (;;) {
    const { value, done } = await soon(log.next(), 'a line of the log')
    check(!done, 'the daemon ended')
    const found = value.match(pattern)
    if (found) return found[1]
  }
}
const endpoint = await logged(/control on (http:\S+)/)
const address = await logged(/listening on (127\.0\.0\.1:\d+)/)
daemon.stderr.resume()

// Hubs without any handler of events; only their origins are looked at.
for (const [hub, allowed] of [['ours', endpoint], ['foreign', 'http://other.example.com']]) {
  app.use(new WebPubSubEventHandler(hub, { allowedEndpoints: [allowed] }).getMiddleware())
}

async function start(query, hub = 'chat') {
  const options = { protocol: WebPubSubJsonProtocol(), autoReconnect: false, messageRetryOptions: { maxRetries: 0 } }
  const sdk = new WebPubSubClient(`ws://${address}/client/hubs/${hub}${query}`, options)
  const [opened, messages, stopped] = [new Inbox(), new Inbox(), new Inbox()]
  sdk.on('connected', (event) => opened.put(event))
  sdk.on('server-message', (event) => messages.put(event.message))
  sdk.on('stopped', () => stopped.put())
  await soon(sdk.start(), 'start')
  const stop = async () => {
    sdk.stop()
    await stopped.take('stopped')
  }
  return { sdk, messages, stop, connected: await opened.take('connected') }
}

async function refusal(path) {
  const socket = new WebSocket(`ws://${address}${path}`)
  const [, response] = await soon(once(socket, 'unexpected-response'), 'a refusal')
  let text = ''
  for await (const chunk of response) text += chunk
  return [response.statusCode, text]
}

test('connect: the application refuses, with its status and text', async () => {
  equal(await refusal('/client/hubs/chat'), [401, 'who are you?\n'])
  equal((await refusal('/client/hubs/chat?user=mallory'))[0], 403)
})

test('connect: the application gives a name, groups and rights; connected and disconnected follow', async () => {
  const client = await start('?user=ann')
  equal(client.connected.userId, 'ann')
  const { context } = await connected.take('onConnected')
  equal([context.userId, context.hub, context.eventName], ['ann', 'chat', 'connected'])
  equal([context.connectionId, context.states], [client.connected.connectionId, { visits: 1 }])
  await soon(client.sdk.sendToGroup('lobby', 'x', 'text'), 'the ack of what is allowed')
  const error = await soon(client.sdk.sendToGroup('other', 'x', 'text').catch((error) => error), 'the ack')
  equal(error.errorDetail?.name, 'Forbidden')
  await client.stop()
  const end = await disconnected.take('onDisconnected')
  equal([end.context.connectionId, typeof end.reason], [client.connected.connectionId, 'string'])
})

test('a user event: the answer comes back as it was given, and the event is acknowledged', async () => {
  const client = await start('?user=ann')
  const binary = new Uint8Array([0, 1, 254, 255]).buffer
  for (const [dataType, data] of [['text', 'Grüße 😀'], ['json', { a: [1, { b: null }] }], ['binary', binary]]) {
    await soon(client.sdk.sendEvent('echo', data, dataType), 'the ack')
    const message = await client.messages.take('the answer')
    equal([message.kind, message.dataType, message.data], ['serverData', dataType, data])
  }
  await soon(client.sdk.sendEvent('nothing', 'x', 'text'), 'the ack without an answer')
  await client.sdk.sendEvent('echo', 'next', 'text')
  equal((await client.messages.take('the answer')).data, 'next')
  await client.stop()
})

test('the state of a connection is carried round', async () => {
  const client = await start('?user=ann')
  for (const visits of [1, 2, 3]) {
    await soon(client.sdk.sendEvent('visit', '', 'text'), 'the ack')
    equal((await client.messages.take('the answer')).data, { userId: 'ann', visits })
  }
  await client.stop()
})

test('a user event that fails is InternalServerError', async () => {
  const client = await start('?user=ann')
  const error = await soon(client.sdk.sendEvent('fail', 'x', 'text').catch((error) => error), 'the ack')
  check(error instanceof SendMessageError, `got ${error}`)
  equal(error.errorDetail.name, 'InternalServerError')
  await client.stop()
})

test('a simple client sends messages and gets bare answers', async () => {
  const socket = new WebSocket(`ws://${address}/client/hubs/chat?user=bob`)
  await soon(once(socket, 'open'), 'open')
  for (const sent of ['plain', Buffer.from([0, 255])]) {
    socket.send(sent)
    const [data, isBinary] = await soon(once(socket, 'message'), 'the answer')
    equal(isBinary ? data : data.toString(), sent)
  }
  socket.close()
})

test('only an application that allows this daemon is sent events', async () => {
  const client = await start('', 'ours')
  await client.stop()
  equal((await refusal('/client/hubs/foreign'))[0], 502)
  equal((await refusal('/client/hubs/nobody'))[0], 502)
})

await run()
