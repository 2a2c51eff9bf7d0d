// The page behind the link that proves a new address.

import { call } from './api.js';
import { $, busy, say } from './page.js';
import { text } from './texts.js';

$('change-btn').addEventListener('click', async () => {
  const body = { token: document.body.dataset.token };
  const done = await busy($('change-btn'), $('error'), () => call('POST', 'api/account/email/verify', { body, token: null }));
  if (!done) return;
  $('change-btn').hidden = true;
  say($('success'), text('change-email.done'), 'good');
});
