/** One line of words for each event, for the stream, the conversation's notes and the toasts. */

import { short } from './dom.js';

/** Chips of a family share a colour. */
const FAMILIES = {
  chat_message: 'chat',
  chat_message_update: 'chat',
  typing_indicator: 'typing',
  presence_state: 'typing',
  presence_diff: 'typing',
  permission_change: 'permission',
  bot_update: 'bot',
  document_update: 'document',
  notification: 'notification',
  connection_established: 'link',
  pong: 'link',
  authenticated: 'link',
  token_expiring: 'warning',
  session_synced: 'link',
  resync: 'warning',
  error: 'warning',
};

export function familyOf(type) {
  return FAMILIES[type] ?? 'custom';
}

const GISTS = {
  chat_message: ({ data }) => said(data),
  chat_message_update: ({ data }) =>
    data.action === 'deleted' ? `deleted ${short(data.message_id)}` : said(data),
  typing_indicator: ({ data }) => `${data.username} ${data.is_typing ? 'is typing' : 'stopped'}`,
  presence_state: ({ data }) => `here: ${usernames(data.users)}`,
  presence_diff: ({ data }) => moved(data),
  permission_change: ({ data }, nameOf) => permission(data, nameOf(data.target_user_id)),
  bot_update: ({ data }) => botUpdate(data),
  document_update: ({ data }) => documentUpdate(data),
  notification: (message) => `${message.notification_type}: ${notification(message)}`,
  connection_established: ({ data }) => established(data),
  pong: ({ timestamp }) => String(timestamp),
  error: ({ code, message }) => `${code ?? ''} ${message}`,
  token_expiring: ({ data }) => `at ${data.expires_at}`,
  authenticated: ({ data }) => `until ${data.expires_at}`,
  resync: ({ data }) => `events were lost: ${data.reason ?? 'fetch again'}`,
};

/** What an event says; of one that is shaped unlike its type, its data. */
export function gist(message, nameOf) {
  try {
    return (GISTS[message.type] ?? (({ data }) => brief(data)))(message, nameOf);
  } catch (error) {
    if (error instanceof TypeError) return brief(message.data);
    throw error;
  }
}

/** What a notification says, without its name. */
export function notification({ notification_type: type, data }) {
  if (type === 'permission_change') return permission(data, 'you');
  return typeof data?.text === 'string' ? data.text : brief(data);
}

function said({ role, username, content }) {
  return `${role === 'user' ? username : role}: ${content}`;
}

function moved({ joined, left }) {
  const parts = [];
  if (joined.length > 0) parts.push(`${usernames(joined)} came`);
  if (left.length > 0) parts.push(`${usernames(left)} left`);
  return parts.join(', ');
}

function usernames(people) {
  return people.map(({ username }) => username).join(', ');
}

export function permission({ action, details }, whom) {
  if (action === 'granted') return `${whom}: granted ${details.role}`;
  if (action === 'updated') return `${whom}: ${details.old_role} → ${details.role}`;
  return `${whom}: ${details.role} revoked`;
}

export function botUpdate({ update_type: type, details }) {
  if (type === 'deleted') return 'the bot was deleted';
  return Object.entries(details)
    .map(([column, value]) => `${column} → ${typeof value === 'string' ? value : brief(value)}`)
    .join(', ');
}

export function documentUpdate({ action, document: file }) {
  return `${file.filename}: ${action}${file.error ? ` (${file.error})` : ''}`;
}

function established({ bot_name: bot, role, recovered, reason }) {
  const place = bot ? `${bot} as ${role}` : 'notifications';
  if (recovered === undefined) return place;
  return `${place}, ${recovered ? 'recovered' : `not recovered: ${reason}`}`;
}

function brief(value) {
  const text = JSON.stringify(value) ?? '';
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

/** A close in words: the server's own reason, which says more than the code, where there is one. */
export function closed({ code, reason, meaning }) {
  if (code === null) return meaning; // no socket was made
  return `${code}, ${reason || meaning}`;
}
