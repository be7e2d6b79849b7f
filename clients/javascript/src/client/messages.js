/** What a frame holds, and which of its members can be relied on. */

import { LONGEST_CURSOR, MOST_RETRY_AFTER_SECONDS } from './rules.js';

const IS_ASCII = /^[\x00-\x7f]*$/;

/** A message is a text, an object with a type; null for all else. */
export function parse(text) {
  if (typeof text !== 'string') return null;
  try {
    const message = JSON.parse(text);
    return typeof message?.type === 'string' ? message : null;
  } catch {
    return null;
  }
}

export function isText(value) {
  return typeof value === 'string' && value !== '';
}

/** What may stand in an address. One that is longer than any of this server's might be refused for ever. */
export function isCursor(value) {
  return isText(value) && value.length <= LONGEST_CURSOR && IS_ASCII.test(value);
}

/** Milliseconds after which a server that goes away wants its clients back; 0 where it does not say. */
export function retryAfter(message) {
  const seconds = message.data?.retry_after_seconds;
  const isMeant = Number.isFinite(seconds) && seconds >= 0 && seconds <= MOST_RETRY_AFTER_SECONDS;
  return isMeant ? 1_000 * seconds : 0;
}
