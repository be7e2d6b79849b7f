/**
 * The little that the console's parts share: building elements, copying, words for times and ids, and
 * logs that stay at their end. Text is only ever set as text, so that hostile content cannot run.
 */

export const find = (id) => document.getElementById(id);

/** An element; `text` among the properties becomes its text, and `on…` functions its listeners. */
export function element(tag, { text, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** Change an element's text only where it differs: a screen reader need not hear it again. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** An id as short as it still tells: its beginning, or its end where others begin alike, as in the demo. */
export function short(id) {
  const text = String(id ?? '');
  return /^0{8}|-0000-4000-8000-/.test(text) ? `…${text.slice(-6)}` : text.slice(0, 8);
}

/** A person's colour, the same in every window. */
export function hue(id) {
  const sum = [...String(id)].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 3_600, 7);
  return (sum * 137) % 360; // far apart, even where ids differ in their last character alone
}

const TIME = { hour: '2-digit', minute: '2-digit', hour12: false };

export function clock(date) {
  return date.toLocaleTimeString([], TIME);
}

export function preciseClock(date) {
  return date.toLocaleTimeString([], { ...TIME, second: '2-digit', fractionalSecondDigits: 3 });
}

/** A measured number as far as its digits mean something: 0.42, 4.2, 42, 420. */
export function rounded(value) {
  return Number(value >= 100 ? value.toFixed(0) : value.toPrecision(2)).toLocaleString('en');
}

/** How long something still lasts, in words of one size. */
export function left(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800
    ? `${Math.round(seconds / 3600)} h`
    : `${Math.round(seconds / 86_400)} days`;
}

/** Whether it worked: a browser may refuse, and pages on plain http have no clipboard of their own. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = element('textarea', { class: 'hidden', readonly: '' });
  area.value = text;
  document.body.append(area);
  area.select();
  const worked = document.execCommand('copy');
  area.remove();
  focused?.focus?.();
  return worked;
}

/** A button that copies what `text()` gives, and says that it did without changing its size. */
export function copyButton(text, label = 'Copy') {
  const button = element('button', { type: 'button', class: 'copy', text: label });
  button.addEventListener('click', async (event) => {
    event.preventDefault();
    flash(button, (await copy(text())) ? 'Copied' : 'Select it');
  });
  return button;
}

export function flash(button, word) {
  button.dataset.label ??= button.textContent;
  button.textContent = word;
  button.classList.add('done');
  clearTimeout(button.flashTimer);
  button.flashTimer = setTimeout(() => {
    button.textContent = button.dataset.label;
    button.classList.remove('done');
  }, 1_400);
}

/** Run once before the next paint, however often it is asked for: a burst costs one layout. */
export function framed(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}

/** Let an element come in softly, for readers who do not mind motion. */
export function arrive(item) {
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) return;
  item.animate([{ opacity: 0, translate: '0 6px' }, {}], { duration: 220, easing: 'ease-out' });
}

/** A scrolling list that holds so many items, and stays at its end while the reader is there. */
export class Log {
  #box;
  #most;
  #jump;
  #follows = true;
  #height = 0;

  /** Whether the reader looks at one item, which must stay. */
  isHeld = () => false;

  constructor(box, most) {
    this.#box = box;
    this.#most = most;
    this.#jump = element('button', { type: 'button', class: 'jump', hidden: '', text: '↓ Newest' });
    this.#jump.addEventListener('click', () => this.#toEnd());
    box.after(this.#jump);
    box.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    // What the reader opened must not run away from under the eyes. (This event does not bubble.)
    box.addEventListener('toggle', () => this.#look(), true);
    new ResizeObserver(() => this.#settle()).observe(box);
  }

  /** Let `change` alter the list; then trim it and follow its end, or offer the way there. */
  change(change) {
    change(this.#box);
    this.#trim();
    if (this.#follows) this.#toEnd();
    else this.#jump.hidden = false;
  }

  /** Let `change` alter what is around; `item` stays where the reader has it, new items or not. */
  hold(item, change) {
    const before = item.getBoundingClientRect().top;
    change();
    this.#follows = false;
    this.#height = this.#box.clientHeight;
    this.#box.scrollTop += item.getBoundingClientRect().top - before;
    item.scrollIntoView({ block: 'nearest' });
  }

  /** Let go of what was held. */
  release() {
    this.#look();
  }

  clear() {
    this.#box.querySelectorAll(':scope > :not(.empty)').forEach((item) => item.remove());
    this.#toEnd();
  }

  #trim() {
    const items = this.#box.querySelectorAll(':scope > .item');
    for (let extra = 0; extra < items.length - this.#most; extra += 1) items[extra].remove();
  }

  #onScroll() {
    // A box that was resized or has just been shown was not scrolled by its reader.
    if (this.#box.clientHeight !== this.#height) this.#settle();
    else this.#look();
  }

  #look() {
    if (this.isHeld()) return;
    const { scrollTop, clientHeight, scrollHeight } = this.#box;
    this.#follows = scrollHeight - scrollTop - clientHeight < 40;
    this.#jump.hidden = this.#follows;
  }

  #settle() {
    this.#height = this.#box.clientHeight;
    if (this.#follows) this.#toEnd();
  }

  #toEnd() {
    this.#follows = true;
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#jump.hidden = true;
  }
}
