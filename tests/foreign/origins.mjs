// Pages of other origins in Chromium: the daemon refuses their sockets, unless it was told to allow them.
//
//   NODE_MODULES_DIR=DIR node origins.mjs DAEMON
//
// DAEMON is the program: it is started here, because --allow-origin names a page whose port is known only then.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'

import { check, equal, load, run, soon, test } from './cases.mjs'

const { chromium } = load('playwright-core')
const [program] = process.argv.splice(2, 1)
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update'],
})
const daemons = []
process.on('exit', () => daemons.forEach((daemon) => daemon.kill()))

/** A web site of its own: an origin that differs from every other in its port. */
async function site(policy = '') {
  const server = createServer((_, answer) => {
    answer.setHeader('content-type', 'text/html').setHeader('content-security-policy', policy)
    answer.end('<!doctype html><title>a page</title>')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${server.address().port}`
}

/** Starts a daemon; `refused()` waits until it has logged so many answers of 403. */
async function start(...flags) {
  const daemon = spawn(program, ['--listen', '127.0.0.1:0', '--log-level', 'debug', ...flags], { stdio: ['ignore', 'ignore', 'pipe'] })
  daemons.push(daemon)
  const lines = []
  const log = createInterface({ input: daemon.stderr })
  log.on('line', (line) => lines.push(line))
  const seen = async (what, count) => {
    while (lines.filter((line) => line.includes(what)).length < count) await once(log, 'line')
    return lines.find((line) => line.includes(what))
  }
  const line = await soon(seen('listening on ', 1), 'the daemon to listen')
  const address = line.match(/127\.0\.0\.1:\d+/)[0]
  const refused = (count) => soon(seen('is answered 403', count), `${count} answers of 403`)
  return { address, refused, refusals: () => lines.filter((line) => line.includes('is answered 403')).length }
}

/** What a page sees of a socket that it opens: the names of its events up to an echo or the close, with its code. */
async function opens(page, url) {
  const tab = await browser.newPage()
  await tab.goto(page)
  const events = tab.evaluate((url) => new Promise((resolve) => {
    const events = []
    const socket = new WebSocket(url)
    socket.onopen = () => { events.push('open'); socket.send('hello') }
    socket.onerror = () => events.push('error')
    socket.onclose = ({ code }) => resolve([...events, code])
    socket.onmessage = ({ data }) => resolve([...events, data])
  }), url)
  const seen = await soon(events, 'the end of a socket')
  await tab.close()
  return seen
}

const paths = ['/echo', '/ws', '/ws/eve', '/client/hubs/chat']

test("a page of another origin is refused with 403 and sees an error and 1006", async () => {
  const { address, refused } = await start()
  const page = await site()
  for (const [index, path] of paths.entries()) {
    equal(await opens(page, `ws://${address}${path}`), ['error', 1006])
    await refused(index + 1)
  }
})

test('a sandboxed page, whose origin is null, is refused wherever it comes from', async () => {
  const page = await site('sandbox allow-scripts')
  const { address, refused } = await start('--allow-origin', page)
  equal(await opens(page, `ws://${address}/echo`), ['error', 1006])
  await refused(1)
})

test("the daemon's own page opens a socket", async () => {
  const { address, refusals } = await start()
  equal(await opens(`http://${address}/`, `ws://${address}/echo`), ['open', 'hello'])
  equal(refusals(), 0)
})

test('a page that --allow-origin names opens a socket, and no other does', async () => {
  const [friend, stranger] = [await site(), await site()]
  const { address, refused, refusals } = await start('--allow-origin', friend)
  equal(await opens(friend, `ws://${address}/echo`), ['open', 'hello'])
  check(refusals() === 0, 'an allowed page was refused')
  equal(await opens(stranger, `ws://${address}/echo`), ['error', 1006])
  await refused(1)
})

test('with --allow-origin * every page opens a socket', async () => {
  const { address, refusals } = await start('--allow-origin', '*')
  equal(await opens(await site(), `ws://${address}/echo`), ['open', 'hello'])
  equal(refusals(), 0)
})

await run()
