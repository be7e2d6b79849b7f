/**
 * Whether the server can do its work. A socket stays open while the server has lost its database, so the
 * socket does not tell.
 */

const WITHIN = 4_000;

/** Why it cannot, in the server's words; null where it can, or does not say. */
export async function whyNotReady() {
  try {
    const answer = await fetch('api/ready', { signal: AbortSignal.timeout(WITHIN) });
    return answer.status === 503 ? ((await answer.json()).reason ?? null) : null;
  } catch {
    return null; // no answer: the socket will notice, too
  }
}
