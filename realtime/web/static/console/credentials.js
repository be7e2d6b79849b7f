/** Which bot and which token: from the address, from this tab's storage, or asked for in a dialog. */

import { find } from './dom.js';

const STORED = 'realtime.token';

/** The address keeps the bot; a token must not stay where it is bookmarked, shared or photographed. */
export function readCredentials() {
  const address = new URL(location.href);
  const given = address.searchParams.get('token');
  if (given) {
    sessionStorage.setItem(STORED, given);
    address.searchParams.delete('token');
    history.replaceState(null, '', address);
  }
  return {
    botId: address.searchParams.get('bot')?.trim() ?? '',
    token: sessionStorage.getItem(STORED) ?? '',
  };
}

function keepCredentials({ botId, token }) {
  const address = new URL(location.href);
  address.searchParams.set('bot', botId);
  history.replaceState(null, '', address);
  sessionStorage.setItem(STORED, token);
}

/** Ask in the dialog; `use` is called with the answer, and never where it is left. */
export function askForCredentials({ botId, why }, use) {
  const dialog = find('credentials');
  const form = find('credentials-form');
  form.elements.bot.value = botId;
  form.elements.token.value = '';
  if (why) find('credentials-why').textContent = why;
  find('credentials-cancel').onclick = () => dialog.close();
  form.onsubmit = () => {
    const answer = {
      botId: form.elements.bot.value.trim(),
      token: form.elements.token.value.trim(),
    };
    keepCredentials(answer);
    use(answer);
  };
  if (!dialog.open) dialog.showModal();
  (botId ? form.elements.token : form.elements.bot).focus();
}
