/**
 * The client for browsers, workers and Node: ES modules without dependencies, served as
 * /static/realtime.js and packed as `rowcast` for npm. realtime.d.ts beside it has the types.
 *
 *     import { connect } from '/static/realtime.js';
 *     const chat = connect({ botId, token });
 *     chat.on('chat_message', ({ data }) => show(data));
 *     chat.on('resync', () => refetch());
 *
 * It stays connected, knows when to stop trying, resumes where it was (its cursor), and hands each
 * event over once (its memory of ids). docs/javascript-client.md tells the rest.
 */

export { connect, RealtimeClient } from './client/client.js';
export { SharedConnection } from './client/shared_connection.js';
export { CLOSE_CODES, FAILURES, TIMINGS } from './client/rules.js';
