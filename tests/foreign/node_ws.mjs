// The daemon as Node's `ws` sees it: the addresses, the closing handshake and the JSON protocol in short.
// usage: NODE_MODULES_DIR=... node node_ws.mjs ws://HOST:PORT [PART OF A CASE'S NAME]

import http from 'node:http'
import { Inbox, check, equal, load, run, soon, test } from './cases.mjs'

const WebSocket = load('ws')
const base = process.argv[2].replace(/\/$/, '')
const JSON_PROTOCOL = 'json.webpubsub.azure.v1'
const MAX_MESSAGE = 1024 * 1024 // the default of --max-message-size

/** A socket whose messages wait in an inbox: strings for text, buffers for binary. */
class Socket {
  messages = new Inbox()
  pongs = new Inbox()

  static async open(path, protocols = [], options = {}) {
    const socket = new Socket()
    const ws = (socket.ws = new WebSocket(base + path, protocols, { perMessageDeflate: false, ...options }))
    ws.on('message', (data, binary) => socket.messages.put(binary ? data : data.toString()))
    ws.on('pong', (data) => socket.pongs.put(data.toString()))
    socket.closed = new Promise((resolve) => {
      ws.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
    })
    const opened = new Promise((resolve, reject) => {
      ws.on('open', resolve)
      ws.on('error', reject)
    })
    await soon(opened, `${path} to open`)
    return socket
  }

  next = () => this.messages.take('a message')
  nextFrame = async () => JSON.parse(await this.next())
  send = (frame) => this.ws.send(JSON.stringify(frame))
  close = (code, reason) => {
    this.ws.close(code, reason)
    return soon(this.closed, 'the close frame')
  }
}

/** Opens a user of the JSON protocol for each path, past its `connected`, and closes them all at the end. */
async function withPeers(paths, body, protocols = []) {
  const peers = await Promise.all(paths.map((path) => Socket.open(path, protocols)))
  for (const peer of peers) peer.connected = await peer.nextFrame()
  await body(...peers)
  await Promise.all(peers.map((peer) => peer.close()))
}

async function join(peer, group, ackId) {
  peer.send({ type: 'joinGroup', group, ackId })
  equal(await peer.nextFrame(), { type: 'ack', ackId, success: true })
}

function request(method, path, headers = {}) {
  const answer = new Promise((resolve, reject) => {
    const sent = http.request(base.replace(/^ws/, 'http') + path, { method, headers }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (part) => (body += part))
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }))
    })
    sent.on('error', reject).end()
  })
  return soon(answer, `${method} ${path}`)
}

test('/ws greets text and gives binary back', async () => {
  const socket = await Socket.open('/ws')
  for (const text of ['hello', '', 'Grüße 😀']) {
    socket.ws.send(text)
    equal(await socket.next(), `Message received: ${text}`)
  }
  socket.ws.send(Buffer.from([0, 1, 255]))
  equal(await socket.next(), Buffer.from([0, 1, 255]))
  equal(await socket.close(1000, 'done'), { code: 1000, reason: 'done' })
})

test('/echo gives everything back: empty, 1 MiB, in fragments, with a ping between', async () => {
  const socket = await Socket.open('/echo')
  for (const message of ['', Buffer.alloc(0), 'x'.repeat(MAX_MESSAGE), Buffer.alloc(MAX_MESSAGE, 90)]) {
    socket.ws.send(message)
    check((await socket.next()).toString() === message.toString(), `${message.length} bytes came back changed`)
  }
  socket.ws.send('one ', { fin: false })
  socket.ws.ping('between')
  equal(await socket.pongs.take('a pong between fragments'), 'between')
  socket.ws.send('', { fin: false })
  socket.ws.send('two', { fin: true })
  equal(await socket.next(), 'one two')
  await socket.close()
})

test('1,000 messages sent at once come back in order', async () => {
  const socket = await Socket.open('/echo')
  for (let i = 0; i < 1000; i++) socket.ws.send(`${i}`)
  for (let i = 0; i < 1000; i++) equal(await socket.next(), `${i}`)
  await socket.close()
})

test('messages sent before a close are answered before the close', async () => {
  const socket = await Socket.open('/echo')
  for (let i = 0; i < 100; i++) socket.ws.send(`${i}`)
  equal((await socket.close(1000)).code, 1000)
  for (let i = 0; i < 100; i++) equal(await socket.next(), `${i}`)
})

test('a message over 1 MiB ends the connection with 1009', async () => {
  const socket = await Socket.open('/echo')
  socket.ws.send('x'.repeat(MAX_MESSAGE + 1))
  equal((await soon(socket.closed, 'the close frame')).code, 1009)
})

test('a close is answered with its code, an empty one with an empty one or 1000', async () => {
  for (const path of ['/ws', '/echo', '/ws/u1', '/client/hubs/chat']) {
    equal((await (await Socket.open(path)).close(4321, 'why')).code, 4321)
    check([1000, 1005].includes((await (await Socket.open(path)).close()).code), `${path}: an empty close`)
  }
})

test('compression is offered and declined', async () => {
  const socket = await Socket.open('/echo', [], { perMessageDeflate: true })
  equal(socket.ws.extensions, '')
  socket.ws.send('x'.repeat(5000))
  equal((await socket.next()).length, 5000)
  await socket.close()
})

test('JSON: connected, direct, group and broadcast messages, noEcho, leave', () =>
  withPeers(['/ws/ann', '/ws/J%C3%BCrgen'], async (ann, bob) => {
    equal(ann.connected, { type: 'system', event: 'connected', userId: 'ann', connectionId: ann.connected.connectionId })
    equal(bob.connected.userId, 'Jürgen')
    const message = { type: 'message', fromUserId: 'ann', dataType: 'json' }
    ann.send({ type: 'sendToUser', user: 'Jürgen', data: { a: [1] } })
    equal(await bob.nextFrame(), { ...message, from: 'user', data: { a: [1] } })
    ann.send({ type: 'sendToUser', users: ['Jürgen', 'ann'], data: 2 })
    for (const peer of [ann, bob]) equal(await peer.nextFrame(), { ...message, from: 'user', data: 2 })
    await join(ann, 'g', 1)
    await join(bob, 'g', 1)
    ann.send({ type: 'sendToGroup', group: 'g', data: 3, noEcho: true })
    equal(await bob.nextFrame(), { ...message, from: 'group', group: 'g', data: 3 })
    ann.send({ type: 'sendToAll', dataType: 'binary', data: 'AAH/' })
    for (const peer of [ann, bob]) {
      equal(await peer.nextFrame(), { ...message, from: 'all', dataType: 'binary', data: 'AAH/' })
    }
    bob.send({ type: 'leaveGroup', group: 'g', ackId: 2 })
    equal(await bob.nextFrame(), { type: 'ack', ackId: 2, success: true })
    ann.send({ type: 'sendToGroup', group: 'g', data: 'missed', noEcho: true })
    ann.send({ type: 'sendToUser', user: 'Jürgen', data: 'marker' })
    equal((await bob.nextFrame()).data, 'marker')
  }))

test('JSON: errors by name, and the connection stays', () =>
  withPeers(['/ws/ann'], async (ann) => {
    const failures = [
      [{ type: 'event', event: 'e', data: 1, ackId: 1 }, 'NotFound'],
      // What failed was not carried out: its ackId may be used again.
      [{ type: 'event', event: 'e', data: 1, ackId: 1 }, 'NotFound'],
      [{ type: 'joinGroup', ackId: 2 }, 'BadRequest'],
      [{ type: 'what', ackId: 3 }, 'BadRequest'],
    ]
    for (const [frame, name] of failures) {
      ann.send(frame)
      const { type, ackId, success, error } = await ann.nextFrame()
      equal([type, ackId, success, error.name], ['ack', frame.ackId, false, name])
    }
    ann.ws.send('{')
    const { type, error } = await ann.nextFrame()
    equal([type, error.name], ['error', 'BadRequest'])
    ann.send({ type: 'joinGroup', group: 'g', ackId: 9 })
    equal(await ann.nextFrame(), { type: 'ack', ackId: 9, success: true })
    ann.send({ type: 'joinGroup', group: 'g', ackId: 9 })
    equal((await ann.nextFrame()).error.name, 'Duplicate')
    ann.send({ type: 'ping' })
    equal(await ann.nextFrame(), { type: 'pong' })
  }))

test('JSON: data keeps its characters', () =>
  withPeers(['/ws/ann'], async (ann) => {
    const data = '{"b":1.0, "a" :[12345678901234567890,1e3],"b":"\\u00e9"}'
    ann.ws.send(`{"type":"sendToUser","user":"ann","data":${data}}`)
    const got = await ann.next()
    check(got.includes(`"data":${data}`), `the data was changed: ${got}`)
  }))

test('/client/hubs/{hub}: the JSON subprotocol is selected, the reliable one refused', async () => {
  await withPeers(['/client/hubs/chat'], async (peer) => {
    equal(peer.ws.protocol, JSON_PROTOCOL)
    equal(Object.keys(peer.connected).sort(), ['connectionId', 'event', 'type'])
  }, ['json.reliable.webpubsub.azure.v1', JSON_PROTOCOL])
  // `ws` ends the handshake itself when nothing that it offered was selected.
  const refused = await Socket.open('/client/hubs/chat', ['json.reliable.webpubsub.azure.v1']).catch((error) => error)
  equal(refused.message, 'Server sent no subprotocol')
})

test('404, 405, 426 and the plain pages', async () => {
  equal((await request('GET', '/nowhere')).status, 404)
  const wrongMethod = await request('POST', '/ws')
  equal([wrongMethod.status, wrongMethod.headers.allow], [405, 'GET'])
  const plain = await request('GET', '/ws')
  equal([plain.status, plain.headers.upgrade], [426, 'websocket'])
  equal((await request('GET', '/healthz')).body.trim(), 'ok')
  check((await request('GET', '/')).headers['content-type'].startsWith('text/html'), 'GET / is no page')
  const unknown = await Socket.open('/nowhere').catch((error) => error)
  equal(unknown.message, 'Unexpected server response: 404')
})

await run()
