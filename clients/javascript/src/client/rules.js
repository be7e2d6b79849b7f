/**
 * When the client waits, how long, and when it gives up. The Python client has the same values: both
 * are compared with clients/rules.json.
 */

/** What the codes that end a connection mean, in words for people. */
export const CLOSE_CODES = Object.freeze({
  1000: 'closed normally',
  1001: 'the server is going away',
  1002: 'protocol error',
  1003: 'the server takes text frames only',
  1005: 'closed without a code',
  1006: 'the connection was cut',
  1007: 'a frame was not UTF-8',
  1008: 'sent more than the rate limit allows',
  1009: 'a message was too large',
  1011: 'the server met an unexpected error',
  1013: 'the server asks to try again later',
  4000: 'nothing was heard from the server any more',
  4001: 'the token is missing, refused or expired, or the user is unknown or deactivated',
  4003: 'no such bot, or no permission',
  4029: 'this user has too many connections',
});

/** Why there was no connection at all, in words for people. Only `unreachable` is tried again. */
export const FAILURES = Object.freeze({
  no_websocket: 'there is no WebSocket here: give one with the option WebSocket',
  bad_address: 'this is no address of a server',
  blocked: 'the Content-Security-Policy of the page forbids this connection',
  unreachable: 'no connection could be made',
});

/** Waits and limits; times in milliseconds. */
export const TIMINGS = Object.freeze({
  pingEvery: 25_000, // plus up to a fifth, so that pings of many clients spread out
  pongWithin: 10_000,
  connectWithin: 15_000,
  backoffFirst: 1_000,
  backoffMost: 30_000,
  stableAfter: 10_000,
  typingEvery: 2_000, // the server shows a typist as stopped after 6 s of silence
  typingStopsAfter: 4_000,
  askEvery: 30_000, // at most as often is getToken asked because the server warns
  rememberIds: 10_000, // as many as the server replays by default
});

export const FINAL_CODES = new Set([1000, 4003, 4029]);
export const NORMAL = 1000;
export const CUT = 1006;
export const RATE_LIMITED = 1008;
export const HEARD_NOTHING = 4000;
export const TOKEN_REFUSED = 4001;
/** Why the server refuses an `authenticate` where another person has signed in. */
export const OTHER_USER = 'the new token is for another user';
/** A token that is refused may be stale; a second one in a row means that the user is. */
export const MOST_REFUSALS = 2;
/** Where the back-off starts for one who was sent away for sending too much. */
export const ATTEMPT_AFTER_RATE_LIMIT = 4;
export const PING_SPREAD = 0.2;
export const PATIENCE_FACTOR = 4;
/** After so many connections that were given up, the client does not get more patient: about three hours. */
export const MOST_PATIENCE = 5;
/** Characters; those of this server have at most 1,000. */
export const LONGEST_CURSOR = 4_000;
/** What a server that goes away may ask for. */
export const MOST_RETRY_AFTER_SECONDS = 3_600;

/** The timings that are given, and the others by default. Throws for what is no time. */
export function timingsOf(given) {
  const timings = { ...TIMINGS };
  for (const [name, value] of Object.entries(given ?? {})) {
    if (value === undefined) continue;
    if (typeof value !== 'number' || !(value >= 0))
      throw new TypeError(`timings.${name} has to be a number, not ${value}`);
    timings[name] = value;
  }
  return timings;
}

/** Full jitter: anywhere from nothing to a window that doubles, so that a crowd does not return at once. */
export function backOff(attempt, { backoffFirst, backoffMost }, random) {
  return random() * Math.min(backoffMost, backoffFirst * 2 ** attempt);
}

export function meaningOf(code) {
  return CLOSE_CODES[code] ?? `closed with code ${code}`;
}
