// The page behind a recovery link: makes a new passkey in the place of lost ones.

import { call } from './api.js';
import * as passkey from './passkey.js';
import { $, busy, hush, say } from './page.js';
import { text } from './texts.js';

$('recoverBtn').addEventListener('click', async () => {
  const { token } = document.body.dataset;
  const done = await busy($('recoverBtn'), $('error'), async () => {
    const { email, options } = await call('POST', 'api/recover/passkey/options', { body: { token }, token: null });
    say($('info'), text('recover.for', { email }));
    const credential = await passkey.create(options);
    await call('POST', 'api/recover/passkey/complete', { body: { token, credential }, token: null });
  });
  hush($('info'));
  if (!done) return;
  $('recoverBtn').hidden = true;
  say($('success'), text('recover.done'), 'good');
});
