// The page behind a login link: only the button's request uses the link up, because mail scanners open pages.

import { call, session } from './api.js';
import { $, busy } from './page.js';

$('login-btn').addEventListener('click', () =>
  busy($('login-btn'), $('error'), async () => {
    const body = { token: document.body.dataset.token };
    const { token } = await call('POST', 'api/login/magic-link/verify', { body, token: null });
    session.set(token);
    location.replace('./');
  }),
);
