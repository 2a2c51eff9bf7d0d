// Whether this installation is set up well: what the server finds, and what only a browser can try.

import { call } from './api.js';
import { element } from './page.js';
import { text } from './texts.js';

const WAIT_MS = 10_000;
const KNOWN = ['public-url', 'https', 'proxies', 'clock', 'database', 'mail', 'disk'];

/** Runs every check and lists what was found. */
export async function runChecks(list) {
  list.replaceChildren(element('li', { className: 'empty', textContent: text('check.running') }));
  const before = Date.now();
  const { checks, serverTime } = await call('GET', 'api/admin/diagnostics');
  const after = Date.now();
  const found = checks.map(({ id, status, found: words, advice }) => ({
    // The server's findings are for its operator, in the language of its settings and logs.
    name: KNOWN.includes(id) ? text(`check.id-${id}`) : id,
    isFine: status === 'ok',
    details: [words, advice],
    lang: 'en',
  }));
  found.push(clock(serverTime, (before + after) / 2), await socket());
  list.replaceChildren(...found.map(row));
}

function row({ name, isFine, details, lang }) {
  const state = element('span', { className: 'visually-hidden', textContent: ` – ${text(isFine ? 'check.fine' : 'check.poor')}` });
  return element(
    'li',
    { className: isFine ? 'fine' : 'poor' },
    element(
      'div',
      { className: 'what' },
      element('div', { className: 'name' }, name, state),
      ...details.filter(Boolean).map((words) => element('div', { className: 'detail', lang: lang ?? '', textContent: words })),
    ),
  );
}

function clock(serverTime, now) {
  const name = text('check.browser-clock');
  const seconds = Math.round((serverTime - now) / 1000);
  if (Math.abs(seconds) <= 5) return { name, isFine: true, details: [text('check.clock-fine')] };
  return { name, isFine: false, details: [text('check.clock-off', { seconds })] };
}

async function socket() {
  const name = text('check.socket');
  const started = performance.now();
  try {
    const { ticket } = await call('POST', 'api/sync/ws-ticket', { body: {} });
    const url = new URL(`api/sync/ws?ticket=${encodeURIComponent(ticket)}&clientId=diagnostics`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    await greeting(url);
    return { name, isFine: true, details: [text('check.socket-fine', { ms: Math.round(performance.now() - started) })] };
  } catch (error) {
    return { name, isFine: false, details: [text('check.socket-broken', { reason: error.message })] };
  }
}

/** Waits for the first message of a socket, and closes it. */
function greeting(url) {
  return new Promise((resolve, reject) => {
    const connection = new WebSocket(url);
    const timer = setTimeout(() => end(reject, new Error(text('check.no-answer'))), WAIT_MS);
    const end = (act, value) => {
      clearTimeout(timer);
      connection.close();
      act(value);
    };
    connection.onmessage = () => end(resolve);
    connection.onerror = () => end(reject, new Error(text('check.no-connection')));
    connection.onclose = (event) => end(reject, new Error(text('check.closed', { code: event.code })));
  });
}
