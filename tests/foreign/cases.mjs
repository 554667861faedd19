// Runs the cases of a test script in order and prints what tests/all counts: one line a case, `ok - NAME` or
// `not ok - NAME: why`, then `N passed, N failed`. The stack of a failed case goes to standard error.

import { createRequire } from 'node:module'
import { inspect, isDeepStrictEqual } from 'node:util'

// ES modules do not look into NODE_PATH, so packages are loaded from the folder that tests/all installs them in.
export const load = createRequire(`${process.env.NODE_MODULES_DIR}/`)

// How long a case waits for anything that has to come. Generous, because it is only ever used up by a failure.
const DEADLINE = 10_000

const cases = []

export const test = (name, body) => cases.push([name, body])

const short = (value) => {
  const text = inspect(value, { depth: 9, breakLength: Infinity, maxStringLength: 200 })
  return text.length <= 300 ? text : `${text.slice(0, 200)}... (${text.length} characters)`
}

export function equal(got, wanted) {
  if (!isDeepStrictEqual(got, wanted)) throw new Error(`got ${short(got)}, wanted ${short(wanted)}`)
}

export function check(condition, why) {
  if (!condition) throw new Error(why)
}

/** The promise's value, or an error once the deadline has passed. */
export async function soon(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${DEADLINE} ms for ${what}`)), DEADLINE)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** A queue between callbacks and a case that wants one thing after the other. */
export class Inbox {
  #items = []
  #takers = []

  put(item) {
    const taker = this.#takers.shift()
    taker ? taker(item) : this.#items.push(item)
  }

  take(what) {
    if (this.#items.length) return this.#items.shift()
    return soon(new Promise((resolve) => this.#takers.push(resolve)), what)
  }
}

/** Runs the cases whose names contain argv[3], or all, and ends the process: some clients leave timers behind. */
export async function run() {
  let passed = 0
  let failed = 0
  for (const [name, body] of cases.filter(([name]) => name.includes(process.argv[3] ?? ''))) {
    try {
      await body()
      passed += 1
      console.log(`ok - ${name}`)
    } catch (error) {
      failed += 1
      console.log(`not ok - ${name}: ${String(error.message ?? error).replace(/\s+/g, ' ')}`)
      console.error(error)
    }
  }
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed ? 1 : 0)
}
