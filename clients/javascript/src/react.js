/** A bot's conversation as a React hook. react.d.ts has the types, README.md an example. */

import { useEffect, useMemo, useSyncExternalStore } from 'react';
import { BotChat } from './client/bot_chat.js';

/** Functions may be new with each render. Only these make a new conversation. */
export function useBotChat(options) {
  const { botId, url, tokenIn, presence, shared, token } = options;
  const asks = Boolean(options.getToken);
  const loads = Boolean(options.history);
  const { chat, latest } = useMemo(() => {
    // Of this conversation: what was begun in it does not end in the next one.
    const latest = { options };
    const chat = new BotChat({
      ...options,
      ...{ botId, url, tokenIn, presence, shared },
      getToken: asks ? (asked) => latest.options.getToken(asked) : undefined,
      history: loads ? (asked) => latest.options.history(asked) : undefined,
      send: (content) => sendWith(latest.options, content),
      onEvent: (message) => latest.options.onEvent?.(message),
    });
    return { chat, latest };
  }, [botId, url, tokenIn, presence, shared, asks, loads]);
  useEffect(() => {
    latest.options = options;
  });
  const seen = useSyncExternalStore(chat.subscribe, chat.snapshot, chat.snapshot);
  useEffect(() => chat.start(), [chat]);
  useEffect(() => {
    if (token) chat.refresh(token);
  }, [chat, token]);
  return useMemo(
    () => ({
      ...seen,
      ...{ send: chat.send, discard: chat.discard, apply: chat.apply, reload: chat.reload },
      ...{ typing: chat.typing, wake: chat.wake, connect: chat.connect },
    }),
    [chat, seen],
  );
}

async function sendWith({ send }, content) {
  if (!send) throw new TypeError('useBotChat needs the option send to send a message');
  return send(content);
}
