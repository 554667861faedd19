// The official Web PubSub service SDK for JavaScript, unmodified: every operation that it has, with the official client
// for JavaScript at the other end.
// usage: NODE_MODULES_DIR=... node webpubsub_service.mjs CONNECTION_STRING [PART OF A CASE'S NAME]

import { Inbox, check, equal, load, run, soon, test } from './cases.mjs'

const { SendMessageError, WebPubSubClient, WebPubSubJsonProtocol } = load('@azure/web-pubsub-client')
const { WebPubSubServiceClient, odata } = load('@azure/web-pubsub')
const connectionString = process.argv[2]
// It speaks plain HTTP only if it is told so, and repeats what fails unless told not to.
const OPTIONS = { allowInsecureConnection: true, retryOptions: { maxRetries: 0 } }
const service = new WebPubSubServiceClient(connectionString, 'chat', OPTIONS)
const ROLES = ['webpubsub.joinLeaveGroup', 'webpubsub.sendToGroup']

class Client {
  events = Object.fromEntries(
    ['connected', 'disconnected', 'stopped', 'server-message', 'group-message'].map((name) => [name, new Inbox()]),
  )

  constructor(url) {
    const options = { protocol: WebPubSubJsonProtocol(), autoReconnect: false, messageRetryOptions: { maxRetries: 0 } }
    this.sdk = new WebPubSubClient(url, options)
    for (const [name, inbox] of Object.entries(this.events)) this.sdk.on(name, (event) => inbox.put(event))
  }

  /** A client with the URL that the service SDK makes for it. */
  static async started(userId, options = {}) {
    const { url } = await service.getClientAccessToken({ userId, roles: ROLES, ...options })
    const client = new Client(url)
    await soon(client.sdk.start(), 'start')
    client.id = (client.connected = await client.events.connected.take('connected')).connectionId
    return client
  }

  message = async (kind = 'server') => (await this.events[`${kind}-message`].take(`a ${kind} message`)).message

  closed = async () => (await this.events.disconnected.take('disconnected')).message?.message

  async stop() {
    this.sdk.stop()
    await this.events.stopped.take('stopped')
  }
}

/** Runs `body` with a client for each user; those who are still connected then are stopped. */
async function withClients(users, options, body) {
  const clients = []
  for (const user of users) clients.push(await Client.started(user, options))
  await body(...clients)
  await Promise.all(clients.map((client) => client.stop()))
}

/** How the promise fails. */
async function failure(promise) {
  return soon(promise, 'an answer').then(() => check(false, 'it did not fail'), (error) => error)
}

/** All of a list; `listConnections` gives a promise of one, whatever its type says. */
async function collect(list) {
  const all = []
  for await (const one of await list) all.push(one)
  return all
}

test('getClientAccessToken: user, roles and groups are those of the token', () =>
  withClients(['ann'], { groups: ['first'], roles: [] }, async (ann) => {
    equal(ann.connected.userId, 'ann')
    equal(await service.groupExists('first'), true)
    const error = await failure(ann.sdk.joinGroup('second'))
    check(error instanceof SendMessageError && error.errorDetail.name === 'Forbidden', `${error}`)
  }))

test('generateClientToken: the server signs a token that it takes', async () => {
  const { token } = await service.client.webPubSub.generateClientToken('chat', { userId: 'ann', groups: ['g'] })
  const { baseUrl } = await service.getClientAccessToken()
  const client = new Client(`${baseUrl}?access_token=${token}`)
  await soon(client.sdk.start(), 'start')
  equal((await client.events.connected.take('connected')).userId, 'ann')
  equal(await service.groupExists('g'), true)
  await client.stop()
})

test('getServiceStatus', () => service.client.healthApi.getServiceStatus())

test('sendToAll: json, text and bytes arrive as they were sent', () =>
  withClients(['ann', 'bob'], {}, async (...both) => {
    await service.sendToAll({ a: [1, null, 'ä'] })
    await service.sendToAll('json text')
    await service.sendToAll('Grüße', { contentType: 'text/plain' })
    await service.sendToAll(new Uint8Array([0, 255]).buffer)
    const expected = [['json', { a: [1, null, 'ä'] }], ['json', 'json text'], ['text', 'Grüße'], ['binary', new Uint8Array([0, 255]).buffer]]
    for (const client of both) {
      for (const [dataType, data] of expected) {
        const message = await client.message()
        equal([message.dataType, message.data], [dataType, data])
      }
    }
  }))

test('sendToAll: excluded connections and a filter leave others alone', () =>
  withClients(['ann', "o'neil"], { groups: ['g'] }, async (ann, neil) => {
    const text = { contentType: 'text/plain' }
    await service.sendToAll('1', { ...text, excludedConnections: [ann.id] })
    await service.sendToAll('2', { ...text, filter: odata`userId eq ${"o'neil"} and ${'g'} in groups` })
    await service.sendToAll('3', { ...text, filter: odata`userId eq ${null}` })
    await service.sendToAll('end', { ...text, messageTtlSeconds: 10 })
    equal([(await ann.message()).data], ['end'])
    equal([(await neil.message()).data, (await neil.message()).data, (await neil.message()).data], ['1', '2', 'end'])
    const error = await failure(service.sendToAll('x', { filter: 'userId =' }))
    equal([error.statusCode, error.code], [400, 'BadRequest'])
    check(error.message.includes('character 8'), error.message)
  }))

test('group.sendToAll, sendToUser, sendToConnection reach these and no others', () =>
  withClients(['ann', 'bob'], {}, async (ann, bob) => {
    await service.group('a group').addConnection(ann.id)
    await service.group('a group').sendToAll({ x: 1 })
    const message = await ann.message('group')
    equal([message.group, message.dataType, message.data, message.fromUserId], ['a group', 'json', { x: 1 }, undefined])
    await service.sendToUser('ann', 'for ann', { contentType: 'text/plain', filter: 'userId ne null' })
    await service.sendToConnection(bob.id, [1, 2])
    await service.sendToConnection('nobody', 'lost')
    await service.sendToAll('end', { contentType: 'text/plain' })
    equal([(await ann.message()).data, (await ann.message()).data], ['for ann', 'end'])
    equal([(await bob.message()).data, (await bob.message()).data], [[1, 2], 'end'])
  }))

test('connectionExists, userExists, groupExists', () =>
  withClients(['ann'], { groups: ['here'] }, async (ann) => {
    equal([await service.connectionExists(ann.id), await service.connectionExists('nobody')], [true, false])
    equal([await service.userExists('ann'), await service.userExists('nobody')], [true, false])
    equal([await service.groupExists('here'), await service.groupExists('there')], [true, false])
  }))

test('connections and users join and leave groups', () =>
  withClients(['ann', 'ann'], {}, async (one, two) => {
    const group = service.group('g')
    const members = async () => (await collect(group.listConnections())).map((member) => member.connectionId)
    await group.addConnection(one.id)
    equal(await members(), [one.id])
    await group.addUser('ann')
    equal(await members(), [one.id, two.id])
    await group.removeConnection(one.id)
    equal(await members(), [two.id])
    await group.removeUser('ann')
    equal(await members(), [])
    await group.addUser('ann')
    await service.removeConnectionFromAllGroups(one.id)
    equal(await members(), [two.id])
    await service.removeUserFromAllGroups('ann')
    equal(await members(), [])
    equal((await failure(group.addConnection('nobody'))).statusCode, 404)
    equal((await failure(group.removeConnection('nobody'))).statusCode, 404)
  }))

test('addConnectionsToGroups and removeConnectionsFromGroups take those of a filter', () =>
  withClients(['ann', 'bob'], {}, async (ann, bob) => {
    const members = async (name) => (await collect(service.group(name).listConnections())).map((member) => member.userId)
    await service.addConnectionsToGroups(['one', 'two'], odata`startswith(userId, ${'a'}) or connectionId eq ${bob.id}`)
    equal([await members('one'), await members('two')], [['ann', 'bob'], ['ann', 'bob']])
    await service.removeConnectionsFromGroups(['one'], odata`userId ne ${'ann'}`)
    equal([await members('one'), await members('two')], [['ann'], ['ann', 'bob']])
    equal((await failure(service.addConnectionsToGroups(['one'], 'nonsense'))).statusCode, 400)
  }))

test('listConnections: all pages, and top', () =>
  withClients(['ann', 'bob', undefined, 'dee', 'eve'], { groups: ['list'] }, async (...five) => {
    const everybody = five.map((client) => [client.id, client.connected.userId])
    const listed = async (options) =>
      (await collect(service.group('list').listConnections(options))).map((member) => [member.connectionId, member.userId])
    equal(await listed(), everybody)
    equal(await listed({ maxPageSize: 2 }), everybody)
    equal(await listed({ top: 3, maxPageSize: 2 }), everybody.slice(0, 3))
    const sizes = []
    for await (const page of (await service.group('list').listConnections({ maxPageSize: 2 })).byPage()) sizes.push(page.length)
    equal(sizes, [2, 2, 1])
  }))

test('permissions change for a live connection', () =>
  withClients(['ann'], { roles: [] }, async (ann) => {
    const group = { targetName: 'g' }
    for (const permission of ['joinLeaveGroup', 'sendToGroup']) {
      equal(await service.hasPermission(ann.id, permission, group), false)
      await service.grantPermission(ann.id, permission, group)
      equal([await service.hasPermission(ann.id, permission, group), await service.hasPermission(ann.id, permission)], [true, false])
    }
    await ann.sdk.joinGroup('g')
    await ann.sdk.sendToGroup('g', 'granted', 'text')
    equal((await ann.message('group')).data, 'granted')
    await service.revokePermission(ann.id, 'sendToGroup', group)
    const error = await failure(ann.sdk.sendToGroup('g', 'revoked', 'text'))
    equal(error.errorDetail.name, 'Forbidden')
    equal((await failure(service.grantPermission('nobody', 'sendToGroup'))).statusCode, 404)
  }))

test('closeConnection, closeUserConnections, group.closeAllConnections, closeAllConnections', () =>
  withClients(['ann', 'bob', 'bob', 'cem', 'dee'], { groups: ['g'] }, async (ann, bob, spared, cem, dee) => {
    await service.closeConnection(ann.id, { reason: 'one' })
    equal(await ann.closed(), 'one')
    await service.closeUserConnections('bob', { excluded: [spared.id], reason: 'user' })
    equal(await bob.closed(), 'user')
    await service.group('g').closeAllConnections({ excluded: [cem.id, dee.id], reason: 'group' })
    equal(await spared.closed(), 'group')
    await service.closeAllConnections({ excluded: [dee.id], reason: 'all' })
    equal(await cem.closed(), 'all')
    equal(await service.connectionExists(dee.id), true)
  }))

test('a wrong key is refused', async () => {
  const stranger = new WebPubSubServiceClient(connectionString.replace('AccessKey=', 'AccessKey=x'), 'chat', OPTIONS)
  const error = await failure(stranger.sendToAll({}))
  equal([error.statusCode, error.code], [401, 'Unauthorized'])
})

run()
