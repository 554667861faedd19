// Drives the console page in Chromium: tabs that talk to each other through a running daemon.
//
//   NODE_MODULES_DIR=DIR node console.mjs http://127.0.0.1:8000 SCREENSHOTS
//
// DIR is the folder that has `node_modules` with `playwright-core` in it. Nothing sleeps: every step waits for what
// the page shows. Prints `ok - name` or `not ok - name` per check, and `N passed, N failed` as its last line.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";

const [base, screenshots] = process.argv.slice(2);
assert(base && screenshots, "usage: console.mjs BASE_URL SCREENSHOT_DIRECTORY");
const { chromium } = createRequire(`${process.env.NODE_MODULES_DIR}/`)("playwright-core");

const HOSTILE = '<img src=x onerror="window.pwned=1">';
const BIG = "12345678901234567890";
const NEVER_AGAIN = [1000, 1002, 1003, 1007, 1008, 1009, 4000];

// ---- A proxy between browser and daemon, to be the network that fails

class Proxy {
  constructor(url) {
    this.to = { host: url.hostname, port: Number(url.port || 80) };
    this.pairs = new Set();
    this.cutOff = this.held = false;
    this.upgrades = 0;
    this.server = net.createServer((client) => this.accept(client));
  }

  async listen() {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  accept(client) {
    if (this.cutOff) return client.destroy();
    const daemon = net.connect(this.to);
    const pair = { client, daemon, webSocket: false };
    this.pairs.add(pair);
    client.on("data", (bytes) => {
      if (/^GET \/ws\//.test(bytes.toString("latin1", 0, 16))) { pair.webSocket = true; this.upgrades++; }
      if (!this.held) daemon.write(bytes);
    });
    daemon.on("data", (bytes) => client.write(bytes));
    for (const [one, other] of [[client, daemon], [daemon, client]]) {
      one.on("error", () => {});
      one.on("close", () => { other.destroy(); this.pairs.delete(pair); });
    }
  }

  cut() {
    this.cutOff = true;
    for (const { client } of this.pairs) client.destroy();
  }

  restore() {
    this.cutOff = this.held = false;
  }

  /** Closes every WebSocket with this code, as a daemon would: one unmasked close frame. */
  closeWith(code, reason = "") {
    const body = Buffer.from([code >> 8, code & 255, ...Buffer.from(reason)]);
    for (const { client, daemon, webSocket } of this.pairs) {
      if (!webSocket) continue;
      daemon.removeAllListeners("data"); // nothing after a close frame
      client.write(Buffer.concat([Buffer.from([0x88, body.length]), body]));
    }
  }
}

// ---- Tabs

const proxy = new Proxy(new URL(base));
const proxied = await proxy.listen();
mkdirSync(screenshots, { recursive: true });
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const tabs = [];
const complaints = [];
const requests = new Set();
let networkMayFail = false;

/** Opens a tab of its own (nothing shared with the others) and notes everything that it complains about. */
async function openTab(url, options = {}, prepare = async () => {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(15_000);
  const tab = await context.newPage();
  await prepare(tab);
  await tab.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  tab.on("request", (request) => requests.add(new URL(request.url()).origin));
  tab.on("pageerror", (error) => complaints.push(String(error)));
  tab.on("console", (message) => {
    const expected = networkMayFail && /WebSocket connection to .* failed/.test(message.text());
    if (!expected && ["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  tabs.push(tab);
  tab.response = await tab.goto(url);
  return tab;
}

const userUrl = (origin, user) => `${origin}/#${encodeURIComponent(user)}`;
const state = (tab, wanted) => tab.locator(`#state[data-state=${wanted}]`).waitFor();
const focused = (tab) => tab.evaluate(() => document.activeElement.id);
const texts = (tab, direction) => tab.locator(`#log li[data-direction=${direction}] pre`).allTextContents();
const lastAck = (tab) => tab.locator("#log li[data-direction=out] .ack").last();

async function openUser(origin, user, options) {
  const tab = await openTab(userUrl(origin, user), options);
  await state(tab, "open");
  return tab;
}

/** Waits for an entry with exactly this text; answers how often it is there. */
async function arrives(tab, text, kind = "") {
  const entries = `#log li[data-direction=in]${kind && `[data-kind=${kind}]`} pre`;
  const found = await tab.waitForFunction(
    ([selector, wanted]) => [...document.querySelectorAll(selector)].filter((node) => node.textContent === wanted).length,
    [entries, text],
  );
  return found.jsonValue();
}

async function joins(tab, group) {
  await tab.fill("#group", group);
  await tab.click("#join");
  await tab.waitForFunction(
    (name) => [...document.querySelectorAll("#chips li")].some((chip) => chip.dataset.group === name && chip.dataset.groupState === "joined"),
    group,
  );
}

async function compose(tab, target, to, format, text) {
  await tab.check(`#to-${target}`);
  if (target !== "all") await tab.fill("#to", to);
  await tab.selectOption("#format", format);
  await tab.fill("#payload", text);
}

async function sends(tab, ...message) {
  await compose(tab, ...message);
  await tab.click("#send-button");
}

async function tabTo(tab, id) {
  for (let presses = 0; presses < 40; presses++) {
    if (await focused(tab) === id) return;
    await tab.keyboard.press("Tab");
  }
  assert.fail(`${id} cannot be reached with the Tab key`);
}

// ---- Checks

let passed = 0, failed = 0;

async function check(name, act) {
  try {
    await act();
    passed++;
    console.log(`ok - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok - ${name}\n${String(error.stack ?? error).replace(/^/gm, "    ")}`);
  }
}

async function finish() {
  await browser.close();
  proxy.cut();
  proxy.server.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

const alice = await openTab(userUrl(proxied, "alice"));
const bob = await openTab(base);

await check("the page is served with a policy that allows its own style and script and nothing else", async () => {
  const { "content-security-policy": policy = "", "content-type": type } = alice.response.headers();
  assert.match(type, /^text\/html; *charset=utf-8$/i);
  assert.match(policy, /default-src 'none'/);
  for (const source of ["style-src 'sha256-", "script-src 'sha256-", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]) assert(policy.includes(source), source);
  assert.doesNotMatch(policy, /unsafe/);
  assert.deepEqual(complaints, []);
});

await check("a user name in the fragment connects at once; a typed one by the Enter key", async () => {
  await state(alice, "open");
  assert.equal(await alice.inputValue("#user"), "alice");
  assert.equal(await bob.textContent("#state"), "closed");
  assert.equal(await focused(bob), "user");
  await bob.keyboard.type("bob");
  await bob.keyboard.press("Enter");
  await state(bob, "open");
  assert.equal(await bob.textContent("#detail"), "Connected as bob.");
});

if (failed > 0) await finish(); // nothing below can work

await check("the round-trip time is shown", () => alice.waitForFunction(() => / ms$/.test(document.getElementById("rtt").textContent)));

await check("names that a browser cannot ask for are refused at the field", async () => {
  const tab = await openTab(base);
  for (const name of ["", "..", "x".repeat(129)]) {
    await tab.fill("#user", name);
    await tab.click("#connect");
    assert.notEqual(await tab.textContent("#user-fault"), "", `"${name}" is refused`);
    assert.equal(await tab.getAttribute("#user", "aria-invalid"), "true");
  }
  assert.equal(await tab.textContent("#state"), "closed");
});

await check("direct text arrives and its ack is shown at the message", async () => {
  await sends(alice, "user", "bob", "text", "hello bob");
  assert.equal(await arrives(bob, "hello bob", "user"), 1);
  await alice.locator("#log [data-ack=ok]").waitFor();
  assert.match(await lastAck(alice).textContent(), /^✓ .* ms$/);
  assert.match(await bob.locator("#log li[data-kind=user] .route").first().textContent(), /^alice → you · text$/);
  assert.equal(await alice.inputValue("#payload"), "", "the field is free for the next one");
});

await check("one message reaches several users", async () => {
  await sends(bob, "user", "alice, bob , nobody", "text", "to both of us");
  await Promise.all([arrives(alice, "to both of us", "user"), arrives(bob, "to both of us", "user")]);
});

await check("group messages reach members; no echo leaves the sender out", async () => {
  await joins(alice, "lobby");
  await joins(bob, "lobby");
  await alice.check("#to-group");
  await alice.check("#no-echo");
  await sends(alice, "group", "lobby", "text", "not for me");
  await alice.uncheck("#no-echo");
  await sends(alice, "group", "lobby", "text", "for all of us");
  await Promise.all([arrives(bob, "not for me", "group"), arrives(bob, "for all of us", "group"), arrives(alice, "for all of us", "group")]);
  assert(!(await texts(alice, "in")).includes("not for me"));
});

await check("after leaving a group its messages no longer come", async () => {
  await joins(bob, "short");
  await bob.click('[data-leave="short"]');
  assert.equal(await bob.locator('[data-group="short"]').count(), 0);
  await bob.waitForFunction(() => !document.querySelector("#log [data-kind=error]"));
  await sends(bob, "group", "short", "text", "nobody hears this");
  await bob.locator("#log [data-direction=out]:has-text('nobody hears this') [data-ack=ok]").waitFor();
  await sends(bob, "group", "lobby", "text", "after it");
  await arrives(bob, "after it");
  assert(!(await texts(bob, "in")).includes("nobody hears this"));
});

await check("a broadcast reaches everybody", async () => {
  await sends(bob, "all", "", "text", "to all");
  await Promise.all([arrives(alice, "to all", "all"), arrives(bob, "to all", "all")]);
});

await check("JSON arrives verbatim: big numbers, trailing zeros, key order, white space", async () => {
  const data = `{"z": ${BIG}, "a":1.50,  "data": {"data": [1e400, "\\u0041 }]\\""]}}`;
  for (const json of [data, BIG, '"text"']) {
    await sends(alice, "user", "bob", "json", json);
    await arrives(bob, json, "user");
  }
});

await check("JSON null is a message like any other", async () => {
  await sends(alice, "user", "bob", "json", "null");
  await arrives(bob, "null", "user");
});

await check("what is not JSON is refused at the field and not sent", async () => {
  // The page shows what was sent with its next frame, which may be later than it arrives.
  await alice.locator("#log [data-direction=out]:has-text('null') [data-ack=ok]").last().waitFor();
  const before = await alice.locator("#log li").count();
  await sends(alice, "user", "bob", "json", '{"a": 1,}');
  assert.match(await alice.textContent("#send-fault"), /^Not JSON: /);
  assert.equal(await alice.getAttribute("#payload", "aria-invalid"), "true");
  assert.equal(await alice.inputValue("#payload"), '{"a": 1,}');
  assert.equal(await alice.locator("#log li").count(), before);
});

await check("binary goes out as hex, base64 or a file, and arrives byte for byte", async () => {
  await sends(alice, "user", "bob", "hex", "0x68:65 6C6c,6f 00");
  await arrives(bob, "6 bytes  68 65 6c 6c 6f 00  |hello.|", "user");
  await sends(alice, "user", "bob", "base64", "_-8A");
  await arrives(bob, "3 bytes  ff ef 00  |...|", "user");
  await alice.selectOption("#format", "file");
  await alice.setInputFiles("#file", { name: "a.bin", mimeType: "", buffer: Buffer.alloc(100_000, 0xab) });
  await alice.click("#send-button");
  await arrives(bob, `100,000 bytes  ${"ab ".repeat(48)}…  |${".".repeat(48)}|`, "user");
  for (const [format, text] of [["hex", "abc"], ["base64", "a"]]) {
    await sends(alice, "user", "bob", format, text);
    assert.match(await alice.textContent("#send-fault"), new RegExp(`^Not ${format}: `));
  }
});

await check("markup in text, JSON, group names and user names is shown as text", async () => {
  const mallory = await openUser(base, HOSTILE);
  await joins(mallory, HOSTILE);
  await joins(alice, HOSTILE);
  await sends(mallory, "group", HOSTILE, "text", HOSTILE);
  await arrives(alice, HOSTILE, "group");
  await sends(mallory, "user", "alice", "json", JSON.stringify({ [HOSTILE]: HOSTILE }));
  await arrives(alice, JSON.stringify({ [HOSTILE]: HOSTILE }), "user");
  assert((await alice.locator("#log .route").allTextContents()).includes(`${HOSTILE} → group ${HOSTILE} · text`));
  assert((await alice.locator("#chips li").allTextContents()).some((text) => text.startsWith(HOSTILE)));
  await sends(mallory, "group", "g".repeat(1025), "text", HOSTILE);
  await mallory.locator("#log [data-ack=failed]").waitFor();
  await alice.click(`[data-leave='${HOSTILE}']`);
  await mallory.context().close();
});

await check("a failed ack is shown by its name at the message", async () => {
  await sends(alice, "group", "g".repeat(1025), "text", "too long a name");
  await alice.locator("#log li:has-text('too long a name') [data-ack=failed]").waitFor();
  assert.match(await lastAck(alice).textContent(), /^✗ BadRequest: /);
  await alice.selectOption("#kind", "error");
  assert.equal(await alice.locator("#log li:visible:has-text('too long a name')").count(), 1);
  await alice.selectOption("#kind", "");
});

await check("everything can be done from the keyboard, with the focus in sight", async () => {
  const carol = await openTab(base);
  await carol.keyboard.type("carol");
  await carol.keyboard.press("Enter");
  await state(carol, "open");
  await tabTo(carol, "group");
  await carol.keyboard.type("lobby");
  await carol.keyboard.press("Enter");
  await carol.locator("[data-group=lobby][data-group-state=joined]").waitFor();
  await tabTo(carol, "to-user");
  await carol.keyboard.press("ArrowRight");
  assert.equal(await focused(carol), "to-group");
  await tabTo(carol, "to");
  await carol.keyboard.type("lobby");
  await tabTo(carol, "payload");
  assert.notEqual(await carol.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none");
  await carol.keyboard.type("/ no mouse");
  await carol.keyboard.press("Control+Enter");
  await arrives(bob, "/ no mouse", "group");
  await carol.keyboard.press("ArrowUp");
  assert.equal(await carol.inputValue("#payload"), "/ no mouse");
  await tabTo(carol, "send-button");
  await carol.keyboard.press("/");
  assert.equal(await focused(carol), "filter");
  await carol.keyboard.press("Escape");
  assert.equal(await focused(carol), "log-view");
  await tabTo(carol, "to-group");
  await carol.keyboard.press("Shift+Tab");
  await carol.locator("[data-leave=lobby]").focus();
  await carol.keyboard.press("Enter");
  assert.equal(await focused(carol), "group", "the focus is not lost with the chip");
  await carol.context().close();
});

await check("the filter shows what matches by text and by kind", async () => {
  const visible = () => alice.locator("#log li:visible pre").allTextContents();
  await alice.fill("#filter", "HELLO BOB");
  assert.deepEqual(await visible(), ["hello bob"]);
  await alice.selectOption("#kind", "in");
  assert.deepEqual(await visible(), []);
  assert.equal(await alice.textContent("#log-empty"), "Nothing matches the filter.");
  await alice.fill("#filter", "");
  await alice.selectOption("#kind", "all");
  assert.deepEqual(await visible(), ["to all"]);
  await alice.selectOption("#kind", "");
});

await check("a pause holds messages back, says how many wait, and loses none", async () => {
  await alice.click("#pause");
  for (const text of ["one", "two", "three"]) await sends(bob, "user", "alice", "text", text);
  await alice.locator("#log-count:has-text('3 waiting')").waitFor();
  assert.equal(await alice.textContent("#pause"), "Resume");
  assert(!(await texts(alice, "in")).includes("one"));
  await alice.click("#pause");
  await arrives(alice, "three");
  assert.deepEqual((await texts(alice, "in")).slice(-3), ["one", "two", "three"]);
});

await check("the export is JSON lines, with the numbers as they came", async () => {
  const [download] = await Promise.all([bob.waitForEvent("download"), bob.click("#export")]);
  const chunks = [];
  for await (const chunk of await download.createReadStream()) chunks.push(chunk);
  const lines = Buffer.concat(chunks).toString().trimEnd().split("\n");
  assert.match(download.suggestedFilename(), /\.jsonl$/);
  assert.equal(lines.length, await bob.locator("#log li").count());
  assert(lines.map((line) => JSON.parse(line)).some((entry) => entry.direction === "in" && entry.data === "hello bob" && entry.from === "alice"));
  assert(lines.some((line) => line.endsWith(`"data":${BIG}}`)));
});

for (const [name, options] of [
  ["phone-light", { viewport: { width: 360, height: 800 }, colorScheme: "light", deviceScaleFactor: 2, isMobile: true, hasTouch: true }],
  ["wide-dark", { viewport: { width: 1920, height: 1080 }, colorScheme: "dark" }],
]) {
  await check(`the page fits: ${name}`, async () => {
    const tab = await openUser(base, "dora", options);
    await joins(tab, "lobby");
    await joins(tab, "build-status");
    await sends(tab, "group", "lobby", "text", "Good morning. The nightly build is green again.");
    await sends(bob, "group", "lobby", "text", "Then I tag the release after lunch.");
    await arrives(tab, "Then I tag the release after lunch.");
    await sends(bob, "user", "dora", "json", `{"id": ${BIG}, "state": "ready"}`);
    await sends(tab, "user", "bob", "hex", "68 65 6c 6c 6f 00 ff");
    await sends(bob, "all", "", "text", `Markup is only text: ${HOSTILE}`);
    await arrives(tab, `Markup is only text: ${HOSTILE}`);
    await tab.waitForFunction(() => !document.querySelector("#log [data-ack=waiting]"));
    const { width, height } = options.viewport;
    const size = await tab.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]);
    assert.deepEqual(size, [width, height], "nothing has to be scrolled but the log");
    await tab.screenshot({ path: `${screenshots}/console-${name}.png` });
    await tab.context().close();
  });
}

await check("the log is bounded, and a flood arrives in order", async () => {
  await bob.evaluate(() => new Promise((done) => {
    const socket = new WebSocket(`ws://${location.host}/ws/flood`);
    const send = (n) => socket.send(JSON.stringify({ type: "sendToUser", user: "alice", dataType: "json", data: n, ackId: n }));
    socket.onopen = () => { for (let n = 1; n <= 2500; n++) send(n); };
    socket.onmessage = ({ data }) => { if (JSON.parse(data).ackId === 2500) { socket.close(); done(); } };
  }));
  await arrives(alice, "2500");
  const kept = await texts(alice, "in");
  assert.equal(await alice.locator("#log li").count(), 2000);
  assert.deepEqual(kept, Array.from({ length: 2000 }, (_, i) => String(501 + i)));
  assert.match(await alice.textContent("#log-count"), /^2,000 entries · \d+ dropped$/);
  await alice.click("#clear");
  assert.equal(await alice.locator("#log li").count(), 0);
});

networkMayFail = true;

await check("a lost connection: unanswered messages say so, the page comes back and joins its groups again", async () => {
  proxy.held = true;
  await sends(alice, "user", "bob", "text", "into the void");
  proxy.cut();
  await state(alice, "waiting");
  await alice.locator("#log [data-ack=lost]").waitFor();
  assert.match(await alice.textContent("#detail"), /^Closed with 1006 \(/);
  assert.match(await alice.textContent("#countdown"), /^in \d+ s\.$/);
  await alice.locator("[data-group=lobby][data-group-state=waiting]").waitFor();
  await sends(alice, "user", "bob", "text", "kept in the field");
  assert.match(await alice.textContent("#send-fault"), /^Not connected/);
  proxy.restore();
  await state(alice, "open");
  await alice.locator("[data-group=lobby][data-group-state=joined]").waitFor();
  await sends(bob, "group", "lobby", "text", "welcome back");
  await arrives(alice, "welcome back", "group");
  await alice.click("#send-button");
  await arrives(bob, "kept in the field", "user");
});

await check("after 1012 the page comes back when the server said, not before", async () => {
  const started = performance.now();
  proxy.closeWith(1012, "drain; reconnect-after-ms=1500"); // the first wait of the back-off is 1000 at most
  await state(alice, "waiting");
  assert.match(await alice.textContent("#detail"), /1012 \(the server restarts\): drain/);
  await state(alice, "open");
  assert(performance.now() - started >= 1450, "not before its time");
});

await check("after 1013 the page waits, and the button comes back at once", async () => {
  proxy.closeWith(1013, "slow");
  await state(alice, "waiting");
  await alice.locator("#now").dispatchEvent("click"); // it may hide again under a real click, when the wait is short
  await state(alice, "open");
});

await check("after 1000, 1002, 1003, 1007, 1008, 1009 and 4000 the page stays closed until it is told otherwise", async () => {
  const before = proxy.upgrades;
  for (const code of NEVER_AGAIN) {
    proxy.closeWith(code, HOSTILE);
    await state(alice, "closed");
    assert.match(await alice.textContent("#detail"), new RegExp(`^Closed with ${code} \\(.+\\): <img`));
    assert.equal(await alice.isVisible("#now"), false);
    await alice.click("#connect");
    await state(alice, "open");
  }
  assert.equal(proxy.upgrades - before, NEVER_AGAIN.length, "one connection per click");
});

await check("a network that swallows everything is noticed, by the missing pong and by the missing handshake", async () => {
  const erin = await openTab(userUrl(proxied, "erin"), {}, (tab) => tab.clock.install());
  await state(erin, "open");
  await erin.waitForFunction(() => / ms$/.test(document.getElementById("rtt").textContent));
  proxy.held = true;
  await erin.clock.runFor(25_000);
  await erin.locator("#log li:has-text('no answer to ping')").waitFor();
  await state(erin, "connecting"); // and nobody answers that either
  await erin.clock.runFor(11_000);
  await erin.locator("#log li:has-text('refused, or nobody there): no answer')").last().waitFor();
  proxy.restore();
  // Each second by the page's clock gets half a real one: a handshake that is not over in ten of its seconds is given up.
  const open = erin.locator("#state[data-state=open]");
  const opened = () => open.waitFor({ timeout: 500 }).then(() => true, () => false);
  for (let second = 0; second < 60 && !(await opened()); second++) await erin.clock.runFor(1_000);
  await state(erin, "open");
  await erin.context().close();
});

await check("a reload finds user and groups again; a tab that was told to stop stays closed", async () => {
  await state(bob, "open");
  await bob.reload();
  assert.equal(await bob.inputValue("#user"), "bob");
  await bob.locator("[data-group=lobby][data-group-state=waiting]").waitFor();
  assert.equal(await bob.textContent("#state"), "closed");
  await bob.click("#connect");
  await bob.locator("[data-group=lobby][data-group-state=joined]").waitFor();
  await bob.click("#connect");
  assert.equal(await bob.textContent("#detail"), "Closed by you.");
});

await check("no script of a user ran, nothing was fetched from elsewhere, the browser had nothing to complain about", async () => {
  for (const tab of tabs.filter((one) => !one.isClosed())) {
    assert.equal(await tab.evaluate(() => window.pwned), undefined);
    assert.equal(await tab.locator("img").count(), 0);
  }
  const own = [base, proxied].map((url) => new URL(url).origin);
  assert.deepEqual([...requests].filter((origin) => !own.includes(origin) && origin !== "null"), []);
  assert.deepEqual(complaints, []);
});

await finish();
