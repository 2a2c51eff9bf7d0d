// The page behind the link that puts an address back.

import { call, session } from './api.js';
import { $, busy, say } from './page.js';
import { text } from './texts.js';

$('undo-btn').addEventListener('click', async () => {
  const body = { token: document.body.dataset.token };
  const done = await busy($('undo-btn'), $('error'), () => call('POST', 'api/account/email/undo', { body, token: null }));
  if (!done) return;
  session.forget();
  $('undo-btn').hidden = true;
  say($('success'), text('undo-email.done'), 'good');
});
