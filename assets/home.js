// The front page: one side for visitors, one for who is signed in.

import { session } from './api.js';
import { openAccount } from './account.js';
import { prepareProof } from './proof.js';
import { prepareSignIn } from './sign-in.js';

const root = document.documentElement;

export function enter(token) {
  session.set(token);
  root.dataset.session = '';
  openAccount({ leave });
  document.getElementById('main').focus();
}

/** Back to the visitors' side; `words` say why, if it was not the person's own wish. */
function leave(words) {
  session.forget();
  delete root.dataset.session;
  signIn.show(words);
}

prepareProof();
const signIn = prepareSignIn({ enter });
if (session.get()) openAccount({ leave });
else delete root.dataset.session;
