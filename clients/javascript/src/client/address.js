/** The address of a socket. Without `URL`, which React Native has only in part. */

const PARTS = /^(?:http|ws)(s?):\/\/([^/?#]+)([^?#]*)(?:\?([^#]*))?/i;

/** Why no connection could be tried; `failure` is a name in FAILURES. */
export class Failure extends Error {
  constructor(failure, message, cause) {
    super(message, { cause });
    this.failure = failure;
  }
}

/**
 * @param url http, https, ws or wss, or relative to the page; its path and query are kept.
 * @param path of the endpoint, as `chat/<bot id>`.
 * @param query pairs of names and values.
 */
export function address(url, path, query) {
  const [, s, host, folder, given] = PARTS.exec(absolute(url)) ?? [];
  if (!host) throw new Failure('bad_address', `This is no address of a server: ${url}`);
  const pairs = query.map((pair) => pair.map(encoded).join('='));
  const search = [...(given ? [given] : []), ...pairs].join('&');
  const base = `ws${s.toLowerCase()}://${host}${folder.replace(/\/+$/, '')}/api/ws`;
  return `${base}${path ? `/${path}` : ''}${search ? `?${search}` : ''}`;
}

function encoded(text) {
  try {
    return encodeURIComponent(text);
  } catch (cause) {
    const message = 'The cursor or a parameter holds half a character (a lone surrogate)';
    throw new Failure('bad_address', message, cause);
  }
}

function absolute(url) {
  const page = globalThis.location?.href;
  if (!page) {
    if (url) return url;
    throw new Failure('bad_address', 'There is no page here: say with url where the server is');
  }
  try {
    return new URL(url ?? '/', page).href;
  } catch (cause) {
    throw new Failure('bad_address', `This is no address of a server: ${url}`, cause);
  }
}
