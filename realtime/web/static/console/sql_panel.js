/** The panel of SQL to try: one card per recipe, its SQL lightly coloured and ready to copy. */

import { copyButton, element, flash, setText } from './dom.js';
import { recipesFor, statementsOf } from './recipes.js';

const WORDS = [
  'INSERT INTO|VALUES|SELECT|FROM|WHERE|LIMIT|UPDATE|SET|DELETE|ORDER BY|DESC|RETURNING|INTO|DO|DECLARE',
  'BEGIN|COMMIT|END LOOP|END|FOREACH|IN ARRAY|LOOP|PERFORM|ON CONFLICT|NOTHING|AND',
].join('|');
const TOKENS = new RegExp(`('(?:[^']|'')*')|\\b(${WORDS})\\b`, 'g');

export class SqlPanel {
  /** Runs statements, where there is somebody to run them; rejects with the reason. */
  run = null;
  #box;
  #cards = new Map();
  #scene = { botId: '', userId: '', role: '', text: '' };

  constructor(box) {
    this.#box = box;
  }

  /** What is known of the bot, the person or the text has changed. */
  update(changes) {
    this.#scene = { ...this.#scene, ...changes };
    for (const recipe of recipesFor(this.#scene)) this.#show(recipe);
  }

  get scene() {
    return this.#scene;
  }

  #show(recipe) {
    const card = this.#cards.get(recipe.key) ?? this.#add(recipe);
    setText(card.about, recipe.about);
    if (card.sql === recipe.sql) return;
    card.sql = recipe.sql;
    card.code.replaceChildren(...coloured(recipe.sql));
  }

  #add({ key, title }) {
    const card = {
      sql: null,
      about: element('p', { class: 'quiet small' }),
      code: element('code'),
    };
    const open = this.#cards.size === 0 ? { open: '' } : {};
    this.#box.append(
      element(
        'details',
        { class: 'recipe', name: 'recipe', 'data-recipe': key, ...open },
        element('summary', { text: title }),
        card.about,
        element(
          'div',
          { class: 'code' },
          element('pre', { tabindex: '0', 'aria-label': `SQL: ${title}` }, card.code),
          copyButton(() => card.sql),
          ...(this.run ? [runButton(this.run, () => card.sql, card.about)] : []),
        ),
      ),
    );
    this.#cards.set(key, card);
    return card;
  }
}

/** A button that runs what `sql()` gives; what went wrong is said in `about`. */
export function runButton(run, sql, about) {
  const button = element('button', { type: 'button', class: 'run primary', text: 'Run' });
  button.addEventListener('click', async () => {
    if (button.getAttribute('aria-busy') === 'true') return;
    button.setAttribute('aria-busy', 'true');
    try {
      await run(statementsOf(sql()));
      flash(button, 'Done');
    } catch (error) {
      flash(button, 'Failed');
      about.replaceChildren(
        element('span', { class: 'trouble', role: 'alert', text: error.message }),
      );
    } finally {
      button.removeAttribute('aria-busy');
    }
  });
  return button;
}

/** SQL as text nodes and spans; whatever it holds, it stays text. */
export function coloured(sql) {
  const parts = [];
  let end = 0;
  for (const match of sql.matchAll(TOKENS)) {
    parts.push(sql.slice(end, match.index));
    parts.push(element('span', { class: match[1] ? 'string' : 'keyword', text: match[0] }));
    end = match.index + match[0].length;
  }
  return [...parts, sql.slice(end)];
}
