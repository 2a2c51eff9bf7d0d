// Invitations: what there is, making one, taking one back.

import { call } from './api.js';
import { day } from './format.js';
import { $, ask, copy, element } from './page.js';
import { text } from './texts.js';

function row(invite) {
  const whom = invite.email ?? text('admin.invite-anybody');
  const when = invite.usedAt
    ? text('admin.invite-used', { when: day(invite.usedAt) })
    : text(invite.expiresAt < Date.now() ? 'admin.invite-expired' : 'admin.invite-open', { when: day(invite.expiresAt) });
  const tag = invite.isAdmin ? element('span', { className: 'tag', textContent: text('admin.is-admin') }) : null;
  const withdraw = element('button', {
    type: 'button', className: 'quiet risky', textContent: text('admin.withdraw'), ariaLabel: `${text('admin.withdraw')}: ${whom}`,
    onclick: async () => {
      const done = await ask({
        title: text('admin.withdraw-title'),
        words: text('admin.withdraw-words'),
        confirm: text('admin.withdraw'),
        risky: true,
        action: () => call('DELETE', `api/invites/${invite.id}`),
      });
      if (done) await showInvitations();
    },
  });
  return element(
    'li',
    {},
    element('div', { className: 'what' }, element('div', { className: 'name' }, whom, tag), element('div', { className: 'detail', textContent: when })),
    invite.usedAt ? null : element('div', { className: 'buttons' }, withdraw),
  );
}

/** Lists the invitations. */
export async function showInvitations() {
  const { invites } = await call('GET', 'api/invites');
  const none = element('li', { className: 'empty', textContent: text('admin.no-invites') });
  $('invites').replaceChildren(...(invites.length ? invites.map(row) : [none]));
  $('invites').removeAttribute('aria-busy');
}

/** Makes the button work that makes an invitation. */
export function prepareInvitations() {
  $('invite').addEventListener('click', async () => {
    let link = null;
    const done = await ask({
      title: text('admin.invite-title'),
      words: text('admin.invite-words'),
      confirm: text('admin.invite-confirm'),
      input: { label: text('admin.invite-label'), type: 'email' },
      action: async (email) => {
        ({ link } = await call('POST', 'api/invites', { body: email.trim() ? { email: email.trim() } : {} }));
      },
    });
    if (!done) return;
    await showInvitations();
    await ask({
      title: text('admin.invited-title'),
      words: `${text('admin.invited-words')}\n\n${link}`,
      confirm: text('copy'),
      action: () => copy(link),
    });
  });
}
