/** The SQL that the console offers, made for the bot and the person that it watches. No DOM here. */

/** A value as an SQL literal: quotes doubled, as standard_conforming_strings has it. */
export function quote(value) {
  return `'${String(value).replaceAll("'", "''").replaceAll('\0', '')}'`;
}

/** Statement by statement, as psql sends them; what stands between quotes ends none. */
export function statementsOf(sql) {
  const found = sql.match(/(?:'(?:[^']|'')*'|\$\$[^]*?\$\$|[^;])+/g) ?? [];
  return found.map((one) => one.trim()).filter(Boolean);
}

export function insertMessage({ botId, userId }, content) {
  return `INSERT INTO messages (session_id, bot_id, user_id, role, content)
VALUES (
  (SELECT id FROM sessions WHERE bot_id = ${quote(botId)} LIMIT 1),
  ${quote(botId)},
  ${quote(userId)},
  'user',
  ${quote(content)}
);`;
}

/** Ten messages in one commit. Their text ends in a tag, by which the page knows them again. */
export function insertTen({ botId, userId }, tag) {
  return `INSERT INTO messages (session_id, bot_id, user_id, role, content)
SELECT
  (SELECT id FROM sessions WHERE bot_id = ${quote(botId)} LIMIT 1),
  ${quote(botId)},
  ${quote(userId)},
  'user',
  'Row ' || n || ${quote(` of 10 · ${tag}`)}
FROM generate_series(1, 10) AS n;`;
}

/**
 * Recipes as { key, title, about, sql }.
 *
 * @param {{botId: string, userId: string, role: string, text: string}} scene
 */
export function recipesFor(scene) {
  return [say, answer, edit, config, upload, emit, notify, revoke].map((recipe) => recipe(scene));
}

function say(scene) {
  return {
    key: 'say',
    title: 'Say something',
    about: 'Follows what you type in the conversation.',
    sql: insertMessage(scene, scene.text || 'Hello from psql!'),
  };
}

function answer({ botId, userId }) {
  return {
    key: 'answer',
    title: 'Stream an answer',
    about: 'Every word is a commit of its own, and one edit here.',
    sql: `DO $$
DECLARE
  answer uuid;
  word text;
BEGIN
  INSERT INTO messages (session_id, bot_id, user_id, role, content)
  VALUES (
    (SELECT id FROM sessions WHERE bot_id = ${quote(botId)} LIMIT 1),
    ${quote(botId)}, ${quote(userId)}, 'assistant', ''
  )
  RETURNING id INTO answer;
  COMMIT;
  FOREACH word IN ARRAY string_to_array(
    'A row is written, a bell rings, and everyone who may see it does.', ' '
  ) LOOP
    UPDATE messages SET content = ltrim(content || ' ' || word) WHERE id = answer;
    COMMIT;
    PERFORM pg_sleep(0.12);
  END LOOP;
END $$;`,
  };
}

function edit({ botId }) {
  const newest = `(
  SELECT id FROM messages WHERE bot_id = ${quote(botId)}
  ORDER BY created_at DESC LIMIT 1
)`;
  return {
    key: 'edit',
    title: 'Edit it, delete it',
    about: 'The newest message changes, then goes.',
    sql: `UPDATE messages SET content = content || ' (on second thought)' WHERE id = ${newest};
SELECT pg_sleep(2);
DELETE FROM messages WHERE id = ${newest};`,
  };
}

function config({ botId, userId }) {
  return {
    key: 'config',
    title: 'Change the bot’s temperature',
    about: 'Only the columns that changed are told.',
    sql: `UPDATE bots
SET config = config || jsonb_build_object('temperature', round(random()::numeric, 2)),
    updated_by = ${quote(userId)}
WHERE id = ${quote(botId)};`,
  };
}

function upload({ botId, userId }) {
  const file = `(
  SELECT id FROM documents WHERE bot_id = ${quote(botId)}
  ORDER BY created_at DESC LIMIT 1
)`;
  return {
    key: 'upload',
    title: 'Upload a document',
    about: 'Uploaded, processing, processed.',
    sql: `INSERT INTO documents (bot_id, uploaded_by, filename)
VALUES (${quote(botId)}, ${quote(userId)}, 'field-notes.pdf');
SELECT pg_sleep(1);
UPDATE documents SET status = 'processing' WHERE id = ${file};
SELECT pg_sleep(1);
UPDATE documents SET status = 'processed' WHERE id = ${file};`,
  };
}

function emit({ botId }) {
  return {
    key: 'emit',
    title: 'Send an event of your own',
    about: 'Any name that the protocol does not use itself.',
    sql: `SELECT relay.emit(
  ${quote(`bot:${botId}`)}, 'wave', '{"from": "psql", "how": "cheerfully"}'
);`,
  };
}

function notify({ userId }) {
  return {
    key: 'notify',
    title: 'Notify yourself',
    about: 'Comes by the second socket, whichever bot is on screen.',
    sql: `SELECT relay.notify_user(
  ${quote(userId)}, 'reminder', '{"text": "The tea is ready"}'
);`,
  };
}

function revoke({ botId, userId, role }) {
  const isOwner = role === 'owner';
  return {
    key: 'revoke',
    title: 'Take your own permission away',
    about: isOwner
      ? 'You own this bot: an owner stays in without one.'
      : 'You are out with 4003 at that commit, and back in five seconds later.',
    sql: `DELETE FROM permissions
WHERE bot_id = ${quote(botId)} AND user_id = ${quote(userId)};
SELECT pg_sleep(5);
INSERT INTO permissions (bot_id, user_id, role)
VALUES (${quote(botId)}, ${quote(userId)}, ${quote(isOwner || !role ? 'viewer' : role)})
ON CONFLICT DO NOTHING;`,
  };
}
