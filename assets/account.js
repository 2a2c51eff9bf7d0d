// The account's side of the front page.

import { call, download, Failure, request, session } from './api.js';
import { bytes, number } from './format.js';
import { prepareLists } from './lists.js';
import { $, ask, busy, check, copy, isEmail, isNewPassword, repeats, say } from './page.js';
import { text } from './texts.js';

let prepared = null;

/** Shows the account of the session that this tab has. `leave` goes back to the visitors' side. */
export function openAccount({ leave }) {
  prepared ??= prepare(leave);
  prepared.refresh();
}

function prepare(leave) {
  const message = $('accountMessage');
  let facts = null;

  /** A session that the server refuses is over, wherever that shows. */
  const guarded = async (work) => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof Failure && error.status === 401 && session.get()) leave(text('session.over'));
      throw error;
    }
  };
  const attempt = (button, work, region = message) => busy(button, region, () => guarded(work));
  const lists = prepareLists({ message, guarded, leave, changed: () => refresh() });

  function showToken() {
    $('token').value = session.get() ?? '';
    $('serverAddress').textContent = new URL('./', location.href).href.replace(/\/$/, '');
    hideQr();
  }

  function hideQr() {
    $('qr').hidden = true;
    $('qrImage').removeAttribute('src');
    $('showQr').setAttribute('aria-expanded', 'false');
  }

  function showFacts() {
    const { usedBytes, quotaBytes, operations, archivedBytes, archiveLimitBytes } = facts.storage;
    const share = quotaBytes > 0 ? Math.min(100, (usedBytes / quotaBytes) * 100) : 0;
    $('whoami').textContent = facts.email;
    $('adminLink').hidden = !facts.isAdmin;
    $('storageUsed').textContent = bytes(usedBytes);
    $('storageOf').textContent = text('storage.of', { quota: bytes(quotaBytes) });
    $('operations').textContent = number(operations);
    $('archivesLimit').textContent = text('archives.limit', { size: bytes(archivedBytes), limit: bytes(archiveLimitBytes) });
    $('storageBar').value = share;
    $('storageBar').classList.toggle('full', share >= 90);
    $('storageNote').textContent = share >= 90 ? text('storage.nearly') : text('storage.note', { share: Math.round(share) });
    $('passwordUser').value = facts.email;
    $('currentPasswordField').hidden = !facts.hasPassword;
    $('passwordSummary').textContent = text(facts.hasPassword ? 'password.change' : 'password.set');
    if ($('emailPasswordField')) $('emailPasswordField').hidden = !facts.hasPassword;
  }

  async function refresh() {
    showToken();
    try {
      facts = await guarded(() => call('GET', 'api/account'));
      showFacts();
    } catch (error) {
      if (!session.get()) return;
      say(message, error.message, 'error');
    }
    lists.refresh();
  }

  $('signOut').addEventListener('click', () => leave());
  $('copyToken').addEventListener('click', () =>
    attempt($('copyToken'), async () => {
      await copy($('token').value, $('token'));
      say(message, text('token.copied'), 'good');
    }),
  );
  $('copyAddress').addEventListener('click', () =>
    attempt($('copyAddress'), async () => {
      await copy($('serverAddress').textContent);
      say(message, text('copied'), 'good');
    }),
  );
  $('showQr').addEventListener('click', () => {
    if (!$('qr').hidden) return hideQr();
    return attempt($('showQr'), async () => {
      const picture = await (await request('GET', 'api/account/qr')).text();
      $('qrImage').src = `data:image/svg+xml,${encodeURIComponent(picture)}`;
      $('qr').hidden = false;
      $('showQr').setAttribute('aria-expanded', 'true');
    });
  });
  $('replaceToken').addEventListener('click', async () => {
    const done = await ask({
      title: text('replace.title'),
      words: text('replace.words'),
      confirm: text('replace.confirm'),
      risky: true,
      action: () =>
        guarded(async () => {
          const { token } = await call('POST', 'api/replace-token', { body: {} });
          session.set(token);
        }),
    });
    if (!done) return;
    say(message, text('replace.done'), 'good');
    refresh();
  });

  $('exportAll').addEventListener('click', () => attempt($('exportAll'), () => download('api/account/export', 'supersync-export.zip')));

  $('passwordForm').addEventListener('submit', (event) => {
    event.preventDefault();
    const [current, fresh, repeat] = [$('currentPassword'), $('newPassword'), $('newRepeat')];
    const region = event.target.querySelector('.message');
    if (!check([[fresh, isNewPassword], [repeat, repeats(fresh)]])) return;
    attempt(
      event.target.querySelector('button'),
      async () => {
        const body = { newPassword: fresh.value, signOutOthers: $('signOutOthers').checked };
        if (current.value) body.currentPassword = current.value;
        const answer = await call('POST', 'api/account/password', { body });
        // A changed password may end the session that changed it; then there is a new one.
        if (answer.token) session.set(answer.token);
        event.target.reset();
        await refresh();
        say(region, text('password.changed'), 'good');
      },
      region,
    );
  });

  $('emailForm')?.addEventListener('submit', (event) => {
    event.preventDefault();
    const region = event.target.querySelector('.message');
    if (!check([[$('newEmail'), isEmail]])) return;
    attempt(
      event.target.querySelector('button'),
      async () => {
        const body = { email: $('newEmail').value.trim() };
        if ($('emailPassword').value) body.currentPassword = $('emailPassword').value;
        await call('POST', 'api/account/email', { body });
        event.target.reset();
        say(region, text('email.sent'), 'good');
      },
      region,
    );
  });

  $('resetData').addEventListener('click', async () => {
    const done = await ask({
      title: text('reset.title'),
      words: text('reset.words'),
      confirm: text('reset.confirm'),
      risky: true,
      typed: text('reset.typed'),
      action: () => guarded(() => call('DELETE', 'api/sync/data', { body: {} })),
    });
    if (!done) return;
    say(message, text('reset.done'), 'good');
    refresh();
  });

  $('deleteAccount').addEventListener('click', async () => {
    const done = await ask({
      title: text('delete.title'),
      words: text('delete.words'),
      confirm: text('delete.confirm'),
      risky: true,
      typed: facts?.email ?? text('delete.typed'),
      action: () => guarded(() => call('DELETE', 'api/account', { body: {} })),
    });
    if (done) leave(text('delete.done'));
  });

  return { refresh };
}
