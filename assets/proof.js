// One more proof of who somebody is, asked for when the server wants it: the password or a passkey. The server then does not
// ask again for a while.

import { call, setProof } from './api.js';
import * as passkey from './passkey.js';
import { $, busy, hush, say } from './page.js';
import { text } from './texts.js';

/** From now on a request that needs a proof asks for it. */
export const prepareProof = () => setProof(askForProof);

async function askForProof() {
  const { hasPassword, passkeys } = await call('GET', 'api/account');
  const [dialog, password, message] = [$('proof'), $('proofPassword'), $('proofMessage')];
  $('proofField').hidden = !hasPassword;
  $('proofConfirm').hidden = !hasPassword;
  $('proofPasskey').hidden = !passkeys;
  hush(message);
  if (!hasPassword && !passkeys) say(message, text('proof.sign-in'), 'warning');
  const give = (body) => call('POST', 'api/account/step-up', { body, proves: false });
  return new Promise((resolve) => {
    let done = false;
    const proven = async (button, work) => {
      done = await busy(button, message, work);
      if (done) dialog.close();
    };
    const byPassword = (event) => {
      event.preventDefault();
      if (hasPassword) proven($('proofConfirm'), () => give({ currentPassword: password.value }));
    };
    const byPasskey = () =>
      proven($('proofPasskey'), async () => {
        const options = await call('POST', 'api/account/step-up/options', { body: {}, proves: false });
        await give({ credential: await passkey.get(options) });
      });
    const cancel = () => dialog.close();
    const closed = () => {
      $('proofForm').removeEventListener('submit', byPassword);
      $('proofPasskey').removeEventListener('click', byPasskey);
      $('proofCancel').removeEventListener('click', cancel);
      password.value = '';
      resolve(done);
    };
    $('proofForm').addEventListener('submit', byPassword);
    $('proofPasskey').addEventListener('click', byPasskey);
    $('proofCancel').addEventListener('click', cancel);
    dialog.addEventListener('close', closed, { once: true });
    dialog.showModal();
    if (hasPassword) password.focus();
  });
}
