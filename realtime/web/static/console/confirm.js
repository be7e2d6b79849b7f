/** A question before something that cannot be taken back; resolves to whether the person means it. */

import { find, setText } from './dom.js';

export function confirmed({ title, text, verb }) {
  const dialog = find('confirm');
  setText(find('confirm-title'), title);
  setText(find('confirm-text'), text);
  setText(find('confirm-yes'), verb);
  dialog.returnValue = '';
  dialog.showModal();
  find('confirm-no').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
