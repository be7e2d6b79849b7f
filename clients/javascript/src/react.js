/** A bot's conversation as a React hook. react.d.ts has the types, README.md an example. */

import { useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { BotChat } from './client/bot_chat.js';

/** Functions may be new with each render. Only these make a new conversation. */
export function useBotChat(options) {
  const { botId, url, tokenIn, presence, shared, token } = options;
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const asks = Boolean(options.getToken);
  const loads = Boolean(options.history);
  const chat = useMemo(
    () =>
      new BotChat({
        ...options,
        ...{ botId, url, tokenIn, presence, shared },
        getToken: asks ? () => latest.current.getToken() : undefined,
        history: loads ? () => latest.current.history() : undefined,
        send: (content) => sendWith(latest.current, content),
        onEvent: (message) => latest.current.onEvent?.(message),
      }),
    [botId, url, tokenIn, presence, shared, asks, loads],
  );
  const seen = useSyncExternalStore(chat.subscribe, chat.snapshot, chat.snapshot);
  useEffect(() => chat.start(), [chat]);
  useEffect(() => {
    if (token) chat.refresh(token);
  }, [chat, token]);
  return useMemo(
    () => ({ ...seen, send: chat.send, discard: chat.discard, typing: chat.typing }),
    [chat, seen],
  );
}

async function sendWith({ send }, content) {
  if (!send) throw new TypeError('useBotChat needs the option send to send a message');
  return send(content);
}
