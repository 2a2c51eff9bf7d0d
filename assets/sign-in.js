// Signing in and registering: by password, passkey, or a mailed link.

import { call } from './api.js';
import * as passkey from './passkey.js';
import { $, ask, busy, check, hush, isAgreed, isEmail, isGiven, isNewPassword, repeats, say } from './page.js';
import { text } from './texts.js';

const EMAIL = 'supersync_email';
const anonymous = (body) => ({ body, token: null });

function remembered() {
  try {
    return localStorage.getItem(EMAIL) ?? '';
  } catch {
    return '';
  }
}

function remember(email) {
  try {
    localStorage.setItem(EMAIL, email);
  } catch {
    // Then it has to be typed again next time.
  }
}

export function prepareSignIn({ enter }) {
  const message = $('gateMessage');
  const emails = [$('loginEmail'), $('registerEmail')].filter(Boolean);
  const invite = document.body.dataset.invite || undefined;

  for (const input of emails) {
    input.value = remembered();
    input.addEventListener('input', () => {
      remember(input.value);
      for (const other of emails) if (other !== input) other.value = input.value;
    });
  }
  tabs(message);

  $('loginForm').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!check([[$('loginEmail'), isEmail], [$('loginPassword'), isGiven]])) return;
    busy($('loginBtn'), message, async () => {
      const body = { email: $('loginEmail').value.trim(), password: $('loginPassword').value };
      const { token } = await call('POST', 'api/login', anonymous(body));
      $('loginPassword').value = '';
      enter(token);
    });
  });

  $('passkeyLoginBtn').addEventListener('click', () => {
    if (!check([[$('loginEmail'), isEmail]])) return;
    busy($('passkeyLoginBtn'), message, async () => {
      const email = $('loginEmail').value.trim();
      const options = await call('POST', 'api/login/passkey/options', anonymous({ email }));
      const credential = await passkey.get(options);
      const { token } = await call('POST', 'api/login/passkey/verify', anonymous({ email, credential }));
      enter(token);
    });
  });

  const mailed = (button, path, words) =>
    button?.addEventListener('click', () => {
      if (!check([[$('loginEmail'), isEmail]])) return;
      busy(button, message, async () => {
        await call('POST', path, anonymous({ email: $('loginEmail').value.trim() }));
        say(message, words(), 'good');
      });
    });
  mailed($('magicLinkBtn'), 'api/login/magic-link', () => text('sent.link'));
  const questions = [
    [$('forgotBtn'), 'api/forgot-password', text('forgot.title'), text('forgot.words'), text('sent.reset')],
    [$('lostBtn'), 'api/recover/passkey', text('lost.title'), text('lost.words'), text('sent.recovery')],
  ];
  for (const [button, path, title, words, sent] of questions) {
    button?.addEventListener('click', async () => {
      const done = await ask({
        title,
        words,
        confirm: text('send-link'),
        input: { label: text('email'), type: 'email', value: $('loginEmail').value.trim() },
        action: (email) => call('POST', path, anonymous({ email: email.trim() })),
      });
      if (done) say(message, sent, 'good');
    });
  }

  const consent = $('termsAccepted');
  const identity = () => ({
    email: $('registerEmail').value.trim(),
    ...(consent ? { termsAccepted: consent.checked } : {}),
    ...(invite ? { invite } : {}),
  });
  const agreed = consent ? [[consent, isAgreed]] : [];
  /** What comes next: usually the link in the mail; an invitation can make it needless. */
  const registered = (answer) => {
    const isReady = answer.code === 'ACCOUNT_READY';
    $('registerPassword').value = '';
    $('registerRepeat').value = '';
    if (isReady) $('loginTab').click();
    say(message, isReady ? text('registered') : text('registered.mail'), 'good');
  };

  $('registerForm')?.addEventListener('submit', (event) => {
    event.preventDefault();
    const password = $('registerPassword');
    const rules = [[$('registerEmail'), isEmail], [password, isNewPassword], [$('registerRepeat'), repeats(password)], ...agreed];
    if (!check(rules)) return;
    busy($('registerBtn'), message, async () => {
      registered(await call('POST', 'api/register', anonymous({ ...identity(), password: password.value })));
    });
  });

  $('passkeyRegisterBtn')?.addEventListener('click', () => {
    if (!check([[$('registerEmail'), isEmail], ...agreed])) return;
    busy($('passkeyRegisterBtn'), message, async () => {
      const who = identity();
      const options = await call('POST', 'api/register/passkey/options', anonymous(who));
      const credential = await passkey.create(options);
      registered(await call('POST', 'api/register/passkey/verify', anonymous({ ...who, credential })));
    });
  });

  $('linkRegisterBtn')?.addEventListener('click', () => {
    if (!check([[$('registerEmail'), isEmail], ...agreed])) return;
    busy($('linkRegisterBtn'), message, async () => {
      registered(await call('POST', 'api/register/magic-link', anonymous(identity())));
    });
  });

  return {
    show(words) {
      if (words) say(message, words, 'warning');
      else hush(message);
      $('loginEmail').focus();
    },
  };
}

/** Tabs as the ARIA authoring practices have them: arrows move, the panel follows. */
function tabs(message) {
  const all = [$('loginTab'), $('registerTab')];
  const select = (chosen) => {
    hush(message);
    for (const tab of all) {
      const isChosen = tab === chosen;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      $(tab.getAttribute('aria-controls')).hidden = !isChosen;
    }
  };
  for (const [place, tab] of all.entries()) {
    tab.addEventListener('click', () => select(tab));
    tab.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -place, End: all.length - 1 - place }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = all[(place + step + all.length) % all.length];
      select(next);
      next.focus();
    });
  }
}
