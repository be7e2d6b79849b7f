/** Which bot and which token: from the address, from this tab's storage, or asked for in a dialog. */

import { element, find, setText } from './dom.js';

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
export function askForCredentials({ botId, why, demo }, use) {
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
  offerPeople(demo, (answer) => {
    dialog.close();
    keepCredentials(answer);
    use(answer);
  });
  if (!dialog.open) dialog.showModal();
  (botId ? form.elements.token : form.elements.bot).focus();
}

/** Those of the demo, who need no token: a button each. */
function offerPeople(demo, use) {
  find('visitors').hidden = demo.people.length === 0;
  find('visitors')
    .querySelectorAll('button')
    .forEach((button) => button.remove());
  for (const name of demo.people) {
    const text = name[0].toUpperCase() + name.slice(1);
    const signIn = () =>
      demo.signIn(name).then(use, ({ message }) => setText(find('credentials-why'), message));
    find('visitors').append(element('button', { type: 'button', text, onclick: signIn }));
  }
}
