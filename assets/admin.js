// Administration: accounts, facts about the server, diagnostics. Every request is refused to who is no administrator.

import { call, Failure, session } from './api.js';
import { runChecks } from './diagnostics.js';
import { ago, bytes, number } from './format.js';
import { $, ask, busy, copy, element, reason, say } from './page.js';
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
  const tags = [
    user.isAdmin ? element('span', { className: 'tag', textContent: text('admin.is-admin') }) : null,
    user.isVerified ? null : element('span', { className: 'tag warn', textContent: text('admin.unverified') }),
    user.lockedAt ? element('span', { className: 'tag bad', textContent: text('admin.locked') }) : null,
  ];
  const change = (name, method, at, { body = {}, typed } = {}) => () =>
    ask({
      title: text(`admin.${name}-title`, { email: user.email }),
      words: text(`admin.${name}-words`),
      confirm: text(`admin.${name}`),
      risky: method === 'DELETE' || name === 'lock' || name === 'revoke',
      typed,
      action: () => call(method, at, { body }),
    }).then((done) => done && reload());
  const buttons = [
    quiet(text('admin.quota'), () => quota(user, path), user.email),
    user.isVerified ? null : quiet(text('admin.verify'), change('verify', 'POST', `${path}/verify`), user.email),
    user.lockedAt
      ? quiet(text('admin.unlock'), change('unlock', 'POST', `${path}/unlock`), user.email)
      : quiet(text('admin.lock'), change('lock', 'POST', `${path}/lock`), user.email, true),
    quiet(text('admin.revoke'), change('revoke', 'POST', `${path}/revoke`), user.email, true),
    quiet(text('admin.delete'), change('delete', 'DELETE', path, { typed: user.email }), user.email, true),
  ];
  return element(
    'tr',
    {},
    element('th', { scope: 'row' }, user.email, ...tags.filter(Boolean)),
    element('td', {}, bytes(user.storageUsedBytes), element('span', { className: 'detail', textContent: text('storage.of', { quota: bytes(user.storageQuotaBytes) }) })),
    element('td', {}, number(user.devices)),
    element('td', {}, user.lastSeenAt ? ago(user.lastSeenAt) : text('never')),
    element('td', {}, element('div', { className: 'buttons' }, ...buttons.filter(Boolean))),
  );
}

async function quota(user, path) {
  const mebibyte = 1024 * 1024;
  const done = await ask({
    title: text('admin.quota-title', { email: user.email }),
    confirm: text('save'),
    input: { label: text('admin.quota-label'), type: 'number', value: Math.round(user.storageQuotaBytes / mebibyte) },
    action: async (value) => {
      const size = Number(value);
      if (!Number.isFinite(size) || size <= 0) throw new Failure(text('wrong.number'), 0);
      await call('POST', `${path}/quota`, { body: { quotaBytes: Math.round(size * mebibyte) } });
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
$('invite').addEventListener('click', async () => {
  let link = null;
  const done = await ask({
    title: text('admin.invite-title'),
    words: text('admin.invite-words'),
    confirm: text('admin.invite-confirm'),
    input: { label: text('admin.invite-label'), type: 'email' },
    action: async (email) => {
      ({ link } = await call('POST', 'api/admin/invites', { body: email.trim() ? { email: email.trim() } : {} }));
    },
  });
  if (!done) return;
  await ask({
    title: text('admin.invited-title'),
    words: `${text('admin.invited-words')}\n\n${link}`,
    confirm: text('copy'),
    action: () => copy(link),
  });
});

function showFacts(facts) {
  const rows = [
    ['fact-version', facts.version],
    ['fact-database', facts.database],
    ['fact-address', facts.publicUrl],
    ['fact-accounts', facts.accounts === undefined ? undefined : number(facts.accounts)],
    ['fact-storage', facts.storageUsedBytes === undefined ? undefined : bytes(facts.storageUsedBytes)],
    ['fact-registration', facts.registration],
    ['fact-started', facts.startedAt === undefined ? undefined : ago(facts.startedAt)],
  ];
  $('facts').replaceChildren(
    ...rows.filter(([, value]) => value !== undefined && value !== null)
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
    await runChecks($('checks'));
  } catch (error) {
    say(message, error instanceof Failure && [401, 403].includes(error.status) ? text('admin.refused') : reason(error), 'error');
  }
}

open();
