/**
 * The demo's API, where `bin/dev` has one: who a visitor may be, what was said before, one more message,
 * SQL, and what administrators may do. Elsewhere it can do nothing of this, and says so.
 */

const NOTHING = { sends: false, runs: false, people: [] };
const WITHIN = 20_000;

export class Demo {
  #token = '';
  #offer = NOTHING;

  /** Find out what there is. */
  async look() {
    const { status, body } = await this.#ask('demo');
    this.#offer = status === 200 ? body : NOTHING;
  }

  /** Whose token to ask with. */
  use(token) {
    this.#token = token;
  }

  get sends() {
    return this.#offer.sends;
  }

  get runs() {
    return this.#offer.runs;
  }

  get people() {
    return this.#offer.people;
  }

  /** Credentials of one of the people. */
  async signIn(name) {
    const { token, bot_id: botId } = await this.#done('demo/sign-in', { name });
    return { token, botId };
  }

  /** The newest messages, oldest first, and the cursor of that moment. */
  history(botId) {
    return this.#done(messagesOf(botId));
  }

  /** What writes to a bot as who asks now, also later; and once for an id, however often it is called. */
  writer(botId) {
    const token = this.#token;
    return (content, id) => this.#done(messagesOf(botId), { content, message_id: id }, token);
  }

  /** Run statements one after another; resolves when all are committed. */
  run(statements) {
    return this.#done('demo/sql', { statements });
  }

  /** For administrators: `disconnect`, `eject` or `try_event`. */
  act(action, userId, botId) {
    return this.#done('demo/actions', { action, user_id: userId, bot_id: botId });
  }

  async #done(path, body, token) {
    const answer = await this.#ask(path, body, token);
    if (answer.status < 200 || answer.status > 299) throw new Error(answer.body.error);
    return answer.body;
  }

  /** The answer's status and JSON; status 0 where none came. */
  async #ask(path, body, token = this.#token) {
    try {
      const answer = await fetch(path, {
        method: body ? 'POST' : 'GET',
        headers: token ? { Authorization: `Bearer ${token}` } : {},
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(WITHIN),
      });
      return { status: answer.status, body: await answer.json() };
    } catch {
      return { status: 0, body: { error: 'the server does not answer' } };
    }
  }
}

function messagesOf(botId) {
  return `demo/bots/${encodeURIComponent(botId)}/messages`;
}
