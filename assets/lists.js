// The account's lists: devices, sessions, passkeys, replaced data, restore points.

import { call, download, Failure } from './api.js';
import { ago, agent, bytes, day, moment, number } from './format.js';
import * as passkey from './passkey.js';
import { $, ask, busy, element, reason, say } from './page.js';
import { text } from './texts.js';

const METHODS = ['password', 'passkey', 'magic_link', 'operator', 'replaced', 'registration'];
const REASONS = ['clean_slate', 'wipe', 'superseded', 'bring_back', 'brought_back'];
const EVENTS = [
  'signed_in', 'sign_in_failed', 'stepped_up', 'password_changed', 'address_change_requested', 'address_changed', 'address_restored',
  'address_verified', 'passkey_added', 'passkey_removed', 'passkeys_replaced', 'session_revoked', 'other_sessions_revoked',
  'all_sessions_revoked', 'token_replaced', 'locked', 'unlocked', 'admin_given', 'admin_taken', 'exported',
];
/** Entries of the security log that are shown; the export has all. */
const SHOWN_EVENTS = 50;
const OBSTACLES = ['EXPIRED', 'SUPERSEDED', 'NO_FULL_STATE', 'TOO_MANY_OPERATIONS', 'NOT_ENCRYPTED'];

const tag = (words, kind = '') => element('span', { className: `tag ${kind}`.trim(), textContent: words });
const button = (words, act, { about, risky = false } = {}) =>
  element('button', {
    type: 'button',
    className: risky ? 'quiet risky' : 'quiet',
    textContent: words,
    // "Remove" alone says nothing to somebody who hears the buttons one by one.
    ariaLabel: about ? `${words}: ${about}` : undefined,
    onclick: (event) => act(event.currentTarget),
  });

function row(name, tags, details, buttons = []) {
  return element(
    'li',
    {},
    element(
      'div',
      { className: 'what' },
      element('div', { className: 'name' }, name, ...tags),
      ...details.filter(Boolean).map((words) => element('div', { className: 'detail', textContent: words })),
    ),
    buttons.length ? element('div', { className: 'buttons' }, ...buttons) : null,
  );
}

export function prepareLists({ message, guarded, leave, changed }) {
  const attempt = (on, work) => busy(on, message, () => guarded(work));

  /** Fills one list; what can't be had says so in its place. */
  async function fill(list, empty, load) {
    list.setAttribute('aria-busy', 'true');
    try {
      const rows = await guarded(load);
      list.replaceChildren(...(rows.length ? rows : [element('li', { className: 'empty', textContent: empty })]));
    } catch (error) {
      const words = error instanceof Failure ? error.message : reason(error);
      list.replaceChildren(element('li', { className: 'empty', textContent: words }));
    } finally {
      list.removeAttribute('aria-busy');
    }
  }

  async function devices() {
    const { devices: all } = await call('GET', 'api/sync/devices');
    return all.map((one) => row(one.clientId, [], [text('seen', { when: ago(one.lastSeenAt) })]));
  }

  async function sessions() {
    const { sessions: all } = await call('GET', 'api/sessions');
    $('revokeOthers').hidden = !all.some((one) => !one.current);
    return all.map((one) => {
      const name = one.olderToken ? text('sessions.older') : one.name || agent(one.userAgent);
      const method = METHODS.includes(one.method) ? text(`method.${one.method}`) : null;
      const seen = one.lastSeenAt ? text('seen', { when: ago(one.lastSeenAt) }) : null;
      const details = [
        one.olderToken ? text('sessions.older-explain') : [seen, one.lastAddress].filter(Boolean).join(' · '),
        one.olderToken ? null : [method, one.createdAt ? text('sessions.since', { when: day(one.createdAt) }) : null].filter(Boolean).join(' · '),
      ];
      const buttons = [];
      if (!one.olderToken) buttons.push(button(text('rename'), () => rename(one, name), { about: name }));
      buttons.push(button(text('sessions.revoke'), () => revoke(one, name), { about: name, risky: true }));
      return row(name, one.current ? [tag(text('sessions.current'))] : [], details, buttons);
    });
  }

  const sessionPath = (one) => `api/sessions/${encodeURIComponent(one.id)}`;

  function rename(one, name) {
    return ask({
      title: text('rename.title'),
      confirm: text('save'),
      input: { label: text('name'), value: name },
      action: (value) => guarded(() => call('PATCH', sessionPath(one), { body: { name: value.trim() } })),
    }).then((done) => done && refreshSessions());
  }

  async function revoke(one, name) {
    const done = await ask({
      title: text('revoke.title', { name }),
      words: text(one.current ? 'revoke.words-current' : 'revoke.words'),
      confirm: text('sessions.revoke'),
      risky: true,
      action: () => guarded(() => call('DELETE', sessionPath(one), { body: {} })),
    });
    if (!done) return;
    if (one.current) {
      leave(text('revoke.done-current'));
      return;
    }
    say(message, text('revoke.done', { name }), 'good');
    refreshSessions();
  }

  $('revokeOthers').addEventListener('click', async () => {
    const done = await ask({
      title: text('revoke-others.title'),
      words: text('revoke-others.words'),
      confirm: text('revoke-others.confirm'),
      risky: true,
      action: () => guarded(() => call('POST', 'api/sessions/revoke-others', { body: {} })),
    });
    if (!done) return;
    say(message, text('revoke-others.done'), 'good');
    refreshSessions();
  });

  async function archives() {
    const { archives: all } = await call('GET', 'api/sync/archives');
    return all.map((one) => {
      const why = REASONS.includes(one.reason) ? text(`archives.${one.reason}`) : text('archives.other');
      const name = text('archives.from', { when: moment(one.archivedAt) });
      const path = `api/sync/archives/${encodeURIComponent(one.id)}`;
      const buttons = [button(text('download'), (on) => attempt(on, () => download(path, `supersync-archive-${one.id}.ndjson`)), { about: name })];
      if (one.restorable) buttons.unshift(button(text('archives.bring-back'), () => bringBack(one, path), { about: name }));
      const size = text('archives.size', { operations: number(one.operations), size: bytes(one.bytes) });
      const obstacle = OBSTACLES.includes(one.obstacle) ? text(`obstacle.${one.obstacle}`) : null;
      const details = [why, `${size} · ${text('archives.until', { when: day(one.expiresAt) })}`, one.restorable ? null : obstacle];
      return row(name, one.isEncrypted ? [tag(text('encrypted'))] : [], details, buttons);
    });
  }

  async function bringBack(one, path) {
    const words = [text('bring-back.words')];
    if (one.formerPassword === 'yes') words.push(text('bring-back.former-password'));
    if (one.formerPassword === 'maybe') words.push(text('bring-back.maybe-password'));
    const done = await ask({
      title: text('bring-back.title'),
      words: words.join('\n\n'),
      confirm: text('archives.bring-back'),
      action: () => guarded(() => call('POST', `${path}/restore`, { body: {} })),
    });
    if (!done) return;
    say(message, text('bring-back.done'), 'good');
    changed();
  }

  async function points() {
    const { restorePoints: all } = await call('GET', 'api/sync/restore-points?limit=20');
    return all.map((one) => {
      const name = moment(one.timestamp);
      const path = `api/sync/restore/${one.serverSeq}`;
      const kind = { BACKUP_IMPORT: 'points.backup', REPAIR: 'points.repair' }[one.type] ?? 'points.full';
      const get = (on) => attempt(on, () => download(path, `supersync-${one.serverSeq}.json`));
      return row(name, [], [text(kind), text('points.by', { device: one.clientId })], [button(text('download'), get, { about: name })]);
    });
  }

  async function passkeys() {
    const { passkeys: all } = await call('GET', 'api/passkeys');
    return all.map((one) => {
      const name = one.name || text('passkeys.unnamed');
      const used = one.lastUsedAt ? text('passkeys.used', { when: ago(one.lastUsedAt) }) : text('passkeys.unused');
      const path = `api/passkeys/${encodeURIComponent(one.id)}`;
      return row(
        name,
        [],
        [`${text('passkeys.since', { when: day(one.createdAt) })} · ${used}`],
        [
          button(text('rename'), () => renamePasskey(path, name), { about: name }),
          button(text('remove'), () => removePasskey(path, name), { about: name, risky: true }),
        ],
      );
    });
  }

  async function securityLog() {
    const { events } = await call('GET', 'api/account/security-log');
    return events.slice(0, SHOWN_EVENTS).map((one) => {
      const name = EVENTS.includes(one.kind) ? text(`security.${one.kind}`) : text('security.unknown');
      const tags = one.times > 1 ? [tag(text('security.times', { count: number(one.times) }))] : [];
      const method = METHODS.includes(one.method) ? text(`method.${one.method}`) : null;
      return row(name, tags, [moment(one.at), [method, one.device, one.address].filter(Boolean).join(' · ')]);
    });
  }

  async function renamePasskey(path, name) {
    const done = await ask({
      title: text('rename.title'),
      confirm: text('save'),
      input: { label: text('name'), value: name },
      action: (value) => guarded(() => call('PATCH', path, { body: { name: value.trim() } })),
    });
    if (done) refreshPasskeys();
  }

  async function removePasskey(path, name) {
    const done = await ask({
      title: text('passkeys.remove-title', { name }),
      words: text('passkeys.remove-words'),
      confirm: text('remove'),
      risky: true,
      action: () => guarded(() => call('DELETE', path, { body: {} })),
    });
    if (done) refreshPasskeys();
  }

  $('addPasskey').addEventListener('click', async () => {
    const done = await ask({
      title: text('passkeys.add-title'),
      words: text('passkeys.add-words'),
      confirm: text('passkeys.add'),
      input: { label: text('name'), value: agent(navigator.userAgent) },
      action: (name) =>
        guarded(async () => {
          const options = await call('POST', 'api/passkeys/options', { body: {} });
          const credential = await passkey.create(options);
          await call('POST', 'api/passkeys/verify', { body: { credential, name: name.trim() } });
        }),
    });
    if (!done) return;
    say(message, text('passkeys.added'), 'good');
    refreshPasskeys();
  });

  const refreshSessions = () => fill($('sessions'), text('sessions.none'), sessions);
  const refreshPasskeys = () => fill($('passkeys'), text('passkeys.none'), passkeys);
  return {
    refresh() {
      fill($('devices'), text('devices.none'), devices);
      refreshSessions();
      fill($('archives'), text('archives.none'), archives);
      fill($('points'), text('points.none'), points);
      refreshPasskeys();
      fill($('securityLog'), text('security.none'), securityLog);
    },
  };
}
