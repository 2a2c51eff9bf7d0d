// Administration: accounts, facts about the server, diagnostics. Every request is refused to who is no administrator.

import { call, Failure, session } from './api.js';
import { runChecks } from './diagnostics.js';
import { ago, bytes, number } from './format.js';
import { prepareInvitations, showInvitations } from './invitations.js';
import { $, ask, busy, copy, element, reason, say } from './page.js';
import { prepareProof } from './proof.js';
import { text } from './texts.js';

const message = $('adminMessage');
let next = null;
let searched = '';

const quiet = (words, act, about, risky = false) =>
  element('button', {
    type: 'button', className: risky ? 'quiet risky' : 'quiet', textContent: words, ariaLabel: `${words}: ${about}`, onclick: act,
  });

function userRow(user) {
  const path = `api/admin/users/${user.id}`;
  const isLocked = user.state === 'locked';
  const tags = [
    user.isAdmin ? element('span', { className: 'tag', textContent: text('admin.is-admin') }) : null,
    user.state === 'unverified' ? element('span', { className: 'tag warn', textContent: text('admin.unverified') }) : null,
    isLocked ? element('span', { className: 'tag bad', textContent: text('admin.locked') }) : null,
  ];
  const act = (name, method, at, { body = {}, typed, risky = false } = {}) =>
    quiet(text(`admin.${name}`), () => confirmed(user, name, method, at, { body, typed, risky }), user.email, risky);
  const buttons = [
    quiet(text('admin.quota'), () => quota(user, path), user.email),
    user.state === 'unverified' ? act('verify', 'PATCH', path, { body: { verified: true } }) : null,
    isLocked
      ? act('unlock', 'PATCH', path, { body: { locked: false } })
      : act('lock', 'PATCH', path, { body: { locked: true }, risky: true }),
    user.isAdmin
      ? act('drop-admin', 'PATCH', path, { body: { isAdmin: false } })
      : act('make-admin', 'PATCH', path, { body: { isAdmin: true } }),
    act('revoke', 'POST', `${path}/revoke`, { risky: true }),
    act('delete', 'DELETE', path, { typed: user.email, risky: true }),
  ];
  const { usedBytes, quotaBytes, grownBytes } = user.storage;
  return element(
    'tr',
    {},
    element('th', { scope: 'row' }, user.email, ...tags.filter(Boolean)),
    element(
      'td',
      {},
      bytes(usedBytes),
      detail(text('storage.of', { quota: bytes(quotaBytes) })),
      detail(text('admin.operations', { count: number(user.operations) })),
      grownBytes > 0 ? detail(text('admin.grown', { size: bytes(grownBytes) })) : null,
    ),
    element('td', {}, text('admin.active', { sessions: number(user.sessions), devices: number(user.devices) })),
    element('td', {}, user.lastSeenAt ? ago(user.lastSeenAt) : text('never')),
    element('td', {}, element('div', { className: 'buttons' }, ...buttons.filter(Boolean))),
  );
}

const detail = (words) => element('span', { className: 'detail', textContent: words });

async function confirmed(user, name, method, at, { body, typed, risky }) {
  let answer = null;
  const done = await ask({
    title: text(`admin.${name}-title`, { email: user.email }),
    words: text(`admin.${name}-words`),
    confirm: text(`admin.${name}`),
    risky,
    typed,
    action: async () => {
      answer = await call(method, at, { body });
    },
  });
  if (!done) return;
  if (answer.password) {
    await ask({
      title: text('admin.password-title', { email: user.email }),
      words: `${text('admin.password-words')}\n\n${answer.password}`,
      confirm: text('copy'),
      action: () => copy(answer.password),
    });
  }
  reload();
}

async function quota(user, path) {
  const mebibyte = 1024 * 1024;
  const done = await ask({
    title: text('admin.quota-title', { email: user.email }),
    confirm: text('save'),
    input: { label: text('admin.quota-label'), type: 'number', value: Math.round(user.storage.quotaBytes / mebibyte) },
    action: async (value) => {
      const size = Number(value);
      if (!Number.isFinite(size) || size <= 0) throw new Failure(text('wrong.number'), 0);
      await call('PATCH', path, { body: { quotaBytes: Math.max(1, Math.round(size * mebibyte)) } });
    },
  });
  if (done) reload();
}

async function load(more) {
  const query = new URLSearchParams({ search: searched, ...(more && next ? { after: next } : {}) });
  const page = await call('GET', `api/admin/users?${query}`);
  next = page.next ?? null;
  const rows = page.users.map(userRow);
  if (more) $('users').append(...rows);
  else $('users').replaceChildren(...rows);
  $('more').hidden = next === null;
  $('usersNote').textContent = $('users').children.length ? '' : text('admin.no-accounts');
}

const reload = () => busy($('runChecks'), message, () => load(false));

$('search').addEventListener('submit', (event) => {
  event.preventDefault();
  searched = $('query').value.trim();
  busy(event.target.querySelector('button'), message, () => load(false));
});
$('more').addEventListener('click', () => busy($('more'), message, () => load(true)));
$('runChecks').addEventListener('click', () => busy($('runChecks'), message, () => runChecks($('checks'))));
prepareInvitations();
prepareProof();

function showFacts(facts) {
  const rows = [
    ['fact-version', facts.version],
    ['fact-running', ago(Date.now() - facts.uptimeSeconds * 1000)],
    ['fact-database', `${facts.database.kind}, ${bytes(facts.database.bytes)}`],
    ['fact-accounts', number(facts.accounts)],
    ['fact-live', number(facts.liveAccounts)],
    ['fact-sockets', number(facts.sockets)],
    ['fact-memory', typeof facts.memoryBytes === 'number' ? bytes(facts.memoryBytes) : null],
  ];
  $('facts').replaceChildren(
    ...rows.filter(([, value]) => value !== null)
      .flatMap(([key, value]) => [element('dt', { textContent: text(`admin.${key}`) }), element('dd', { textContent: value })]),
  );
  $('facts').removeAttribute('aria-busy');
}

async function open() {
  if (!session.get()) {
    say(message, text('admin.sign-in'), 'warning');
    return;
  }
  try {
    showFacts(await call('GET', 'api/admin/server'));
    $('adminContent').hidden = false;
    await load(false);
    await showInvitations();
    await runChecks($('checks'));
  } catch (error) {
    say(message, error instanceof Failure && [401, 403].includes(error.status) ? text('admin.refused') : reason(error), 'error');
  }
}

open();
