// Checks whether this installation is set up well: what the browser sees against what the server sees.

import { call, session } from './api.js';
import { bytes } from './format.js';
import { element } from './page.js';
import { text } from './texts.js';

const WAIT_MS = 10_000;

const fine = (name, detail) => ({ name, state: 'fine', detail });
const poor = (name, detail) => ({ name, state: 'poor', detail });
const broken = (name, detail) => ({ name, state: 'broken', detail });

/** Runs every check and lists what was found. */
export async function runChecks(list) {
  list.replaceChildren(element('li', { className: 'empty', textContent: text('check.running') }));
  const before = Date.now();
  const seen = await call('GET', 'api/admin/diagnostics');
  const after = Date.now();
  const found = [
    address(seen),
    encryption(),
    proxy(seen),
    clock(seen, before, after),
    await socket(),
    mail(seen),
    database(seen),
    disk(seen),
  ];
  list.replaceChildren(
    ...found.map(({ name, state, detail }) =>
      element(
        'li',
        { className: state },
        element(
          'div',
          { className: 'what' },
          element('div', { className: 'name' }, name, element('span', { className: 'visually-hidden', textContent: ` – ${text(`check.${state}`)}` })),
          element('div', { className: 'detail', textContent: detail }),
        ),
      ),
    ),
  );
}

function address(seen) {
  const name = text('check.address');
  const here = new URL('./', location.href).href.replace(/\/$/, '');
  if (here === seen.publicUrl) return fine(name, here);
  return broken(name, text('check.address-differs', { here, configured: seen.publicUrl }));
}

function encryption() {
  const name = text('check.https');
  if (location.protocol === 'https:') return fine(name, text('check.https-on'));
  if (window.isSecureContext) return poor(name, text('check.https-local'));
  return broken(name, text('check.https-off'));
}

function proxy(seen) {
  const name = text('check.proxy');
  const values = { address: seen.clientAddress, header: seen.forwardedFor ?? '–', trusted: seen.trustedProxies };
  const entries = (seen.forwardedFor ?? '').split(',').filter((entry) => entry.trim()).length;
  if (entries === seen.trustedProxies) return fine(name, text('check.proxy-fine', values));
  return poor(name, text(entries > seen.trustedProxies ? 'check.proxy-more' : 'check.proxy-fewer', values));
}

function clock(seen, before, after) {
  const name = text('check.clock');
  const off = Math.round((seen.serverTime - (before + after) / 2) / 1000);
  if (Math.abs(off) <= 5) return fine(name, text('check.clock-fine'));
  return (Math.abs(off) <= 60 ? poor : broken)(name, text('check.clock-off', { seconds: off }));
}

async function socket() {
  const name = text('check.socket');
  const started = performance.now();
  try {
    const { ticket } = await call('POST', 'api/sync/ws-ticket', { body: {} });
    const url = new URL(`api/sync/ws?ticket=${encodeURIComponent(ticket)}&clientId=diagnostics`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    await greeting(url);
    return fine(name, text('check.socket-fine', { ms: Math.round(performance.now() - started) }));
  } catch (error) {
    return broken(name, text('check.socket-broken', { reason: error.message || error.type }));
  }
}

/** Waits for the first message of a socket, and closes it. */
function greeting(url) {
  return new Promise((resolve, reject) => {
    const connection = new WebSocket(url);
    const timer = setTimeout(() => reject(new Error(text('check.no-answer'))), WAIT_MS);
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

function mail(seen) {
  const name = text('check.mail');
  if (!session.get() || !seen.mail?.configured) return poor(name, text('check.mail-off'));
  if (seen.mail.error) return broken(name, seen.mail.error);
  return fine(name, text('check.mail-fine'));
}

function database(seen) {
  const name = text('check.database');
  if (seen.database?.error) return broken(name, seen.database.error);
  const ms = seen.database?.latencyMs ?? 0;
  return (ms > 100 ? poor : fine)(name, text('check.database-fine', { kind: seen.database?.kind ?? '', ms }));
}

function disk(seen) {
  const name = text('check.disk');
  const free = seen.disk?.freeBytes;
  if (free === undefined || free === null) return poor(name, text('check.disk-unknown'));
  const low = 1024 * 1024 * 1024;
  return (free < low ? broken : fine)(name, text(free < low ? 'check.disk-low' : 'check.disk-fine', { free: bytes(free) }));
}
