// The official Web PubSub client for JavaScript, unmodified, over json.webpubsub.azure.v1.
// usage: NODE_MODULES_DIR=... node webpubsub_client.mjs ws://HOST:PORT [PART OF A CASE'S NAME]
//
// What the client does that the cases rely on: it sends `ackId` with everything but `ping` unless told to fire and
// forget, counts them from 1 in each client object (over reconnections too), takes a Duplicate for success, drops
// messages whose `from` is not `group` or `server`, and repeats a failed operation 3 times, a second apart, with a
// new ackId. The retries are switched off here: the first answer is what is tested.

import { Inbox, check, equal, load, run, soon, test } from './cases.mjs'

const { SendMessageError, WebPubSubClient, WebPubSubJsonProtocol } = load('@azure/web-pubsub-client')
const url = `${process.argv[2].replace(/\/$/, '')}/client/hubs/chat`
const OPTIONS = { autoReconnect: false, messageRetryOptions: { maxRetries: 0 } }

class Client {
  events = Object.fromEntries(['connected', 'disconnected', 'stopped', 'group-message'].map((name) => [name, new Inbox()]))

  constructor(options = { protocol: WebPubSubJsonProtocol() }, address = url) {
    this.sdk = new WebPubSubClient(address, { ...structuredClone(OPTIONS), ...options })
    for (const [name, inbox] of Object.entries(this.events)) this.sdk.on(name, (event) => inbox.put(event))
  }

  static async started() {
    const client = new Client()
    await soon(client.sdk.start(), 'start')
    client.connected = await client.events.connected.take('connected')
    return client
  }

  nextMessage = async () => (await this.events['group-message'].take('a group message')).message

  async stop() {
    this.sdk.stop()
    await this.events.stopped.take('stopped')
  }
}

async function withClients(count, body) {
  const clients = await Promise.all(Array.from({ length: count }, Client.started))
  await body(...clients)
  await Promise.all(clients.map((client) => client.stop()))
}

test('start: connected brings a connection id and no user', () =>
  withClients(2, async (one, two) => {
    check(typeof one.connected.connectionId === 'string' && one.connected.connectionId, 'no connection id')
    check(one.connected.connectionId !== two.connected.connectionId, 'two clients have one connection id')
    equal(one.connected.userId, undefined)
  }))

test('joinGroup, sendToGroup: text, json and binary reach the other member as sent', () =>
  withClients(2, async (ann, bob) => {
    equal(await soon(bob.sdk.joinGroup('lobby'), 'the ack of joinGroup'), { ackId: 1, isDuplicated: false })
    const binary = new Uint8Array([0, 1, 254, 255]).buffer
    const payloads = [['text', 'Grüße 😀'], ['json', { a: [1, { b: null }] }], ['json', 0], ['binary', binary], ['protobuf', binary]]
    for (const [dataType, data] of payloads) {
      equal((await soon(ann.sdk.sendToGroup('lobby', data, dataType), 'the ack')).isDuplicated, false)
      const message = await bob.nextMessage()
      equal([message.kind, message.group, message.dataType, message.data], ['groupData', 'lobby', dataType, data])
      check(!('fromUserId' in message), 'an anonymous sender has a fromUserId')
    }
  }))

test('an echo comes to a sender who is a member, with noEcho none comes', () =>
  withClients(1, async (ann) => {
    await ann.sdk.joinGroup('lobby')
    await ann.sdk.sendToGroup('lobby', 'not back', 'text', { noEcho: true })
    await ann.sdk.sendToGroup('lobby', 'back', 'text')
    equal((await ann.nextMessage()).data, 'back')
  }))

test('leaveGroup: nothing comes any more', () =>
  withClients(2, async (ann, bob) => {
    await bob.sdk.joinGroup('left')
    await bob.sdk.joinGroup('stayed')
    await soon(bob.sdk.leaveGroup('left'), 'the ack of leaveGroup')
    await ann.sdk.sendToGroup('left', 'missed', 'text')
    await ann.sdk.sendToGroup('stayed', 'marker', 'text')
    equal((await bob.nextMessage()).data, 'marker')
  }))

test('fire and forget is delivered too, in order', () =>
  withClients(2, async (ann, bob) => {
    await bob.sdk.joinGroup('g')
    for (let i = 0; i < 100; i++) await ann.sdk.sendToGroup('g', i, 'json', { fireAndForget: true })
    for (let i = 0; i < 100; i++) equal((await bob.nextMessage()).data, i)
  }))

test('an ackId used again is a success marked as duplicate, and sends nothing', () =>
  withClients(2, async (ann, bob) => {
    await bob.sdk.joinGroup('g')
    equal(await ann.sdk.sendToGroup('g', 'once', 'text', { ackId: 42 }), { ackId: 42, isDuplicated: false })
    equal(await soon(ann.sdk.sendToGroup('g', 'again', 'text', { ackId: 42 }), 'the ack'), { ackId: 42, isDuplicated: true })
    await ann.sdk.sendToGroup('g', 'marker', 'text')
    equal([(await bob.nextMessage()).data, (await bob.nextMessage()).data], ['once', 'marker'])
  }))

test('sendEvent without an event handler fails with NotFound', () =>
  withClients(1, async (ann) => {
    const error = await soon(ann.sdk.sendEvent('order', 'x', 'text').catch((error) => error), 'the ack')
    check(error instanceof SendMessageError, `got ${error}`)
    equal([error.ackId, error.errorDetail.name], [1, 'NotFound'])
    check(error.errorDetail.message, 'the error has no message')
  }))

test('a bad group name fails with BadRequest and the client stays connected', () =>
  withClients(1, async (ann) => {
    const error = await soon(ann.sdk.joinGroup(' ').catch((error) => error), 'the ack')
    equal(error.errorDetail?.name, 'BadRequest')
    await soon(ann.sdk.joinGroup('good'), 'the next ack')
  }))

test('pings that keep the connection alive are answered', async () => {
  // The client closes by itself when nothing came for keepAliveTimeoutInMs; only pongs can come here. It looks each
  // third of that time, so several pings and looks have passed when the fifth pong is there.
  const pongs = new Inbox()
  const json = WebPubSubJsonProtocol()
  const watched = { ...json, name: json.name, isReliableSubProtocol: false,
    writeMessage: (message) => json.writeMessage(message),
    parseMessages: (input) => {
      const message = json.parseMessages(input)
      if (message?.kind === 'pong') pongs.put(message)
      return message
    } }
  const client = new Client({ protocol: watched, keepAliveIntervalInMs: 50, keepAliveTimeoutInMs: 5000 })
  await soon(client.sdk.start(), 'start')
  for (let i = 0; i < 5; i++) await pongs.take('a pong')
  await client.stop()
})

test('stop ends with disconnected and stopped, and the client can start again', async () => {
  const client = await Client.started()
  await client.stop()
  equal((await client.events.disconnected.take('disconnected')).connectionId, client.connected.connectionId)
  await soon(client.sdk.start(), 'the second start')
  const again = await client.events.connected.take('connected again')
  check(again.connectionId !== client.connected.connectionId, 'the connection id was used again')
  await client.stop()
})

test('the default protocol is the reliable one: not selected, so start fails and says so', async () => {
  // Until the daemon speaks json.reliable.webpubsub.azure.v1 a user of this client has to ask for the other protocol.
  const client = new Client({})
  const error = await soon(client.sdk.start().then(() => undefined, (error) => error), 'start')
  equal(error?.message, 'Server sent no subprotocol')
})

await run()
