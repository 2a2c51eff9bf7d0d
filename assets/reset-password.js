// The page behind a password link.

import { call } from './api.js';
import { $, busy, check, isNewPassword, repeats, say } from './page.js';
import { text } from './texts.js';

$('resetForm').addEventListener('submit', async (event) => {
  event.preventDefault();
  const password = $('password');
  if (!check([[password, isNewPassword], [$('confirmPassword'), repeats(password)]])) return;
  const body = { token: document.body.dataset.token, password: password.value };
  const done = await busy($('submitBtn'), $('error'), () => call('POST', 'api/reset-password', { body, token: null }));
  if (!done) return;
  $('resetForm').hidden = true;
  $('resetForm').reset();
  say($('success'), text('reset-password.done'), 'good');
});
