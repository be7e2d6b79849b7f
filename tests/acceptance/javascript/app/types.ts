/** What tsc must accept, and, where a line says so, must not. */

import WebSocket from 'ws';
import { connect, type RealtimeClient, SharedConnection, type ServerMessages } from 'rowcast';
import { useBotChat, type BotMessage } from 'rowcast/react';

const token: string | undefined = undefined;
const chat = connect<{ order_shipped: { order_id: string } }, { poll: { answers: number } }>({
  url: 'https://example.org',
  botId: 'b',
  token,
  WebSocket,
});

chat.on('*', (message) => {
  if (message.type === 'chat_message') message.data.message_id satisfies string;
  else if (message.type === 'order_shipped') message.data.order_id satisfies string;
  else if (message.type === 'going_away') message.data.retry_after_seconds satisfies number;
  message.type satisfies string;
});
chat.on('notification', (one) => {
  if (one.notification_type === 'permission_change') {
    if (one.data.action === 'updated') one.data.details.old_role satisfies string;
  } else one.data.answers satisfies number;
  // @ts-expect-error: this one was not named
  if (one.notification_type === 'other') return;
});
chat.on('chat_message', ({ data }) => {
  if (data.role === 'assistant') data.username satisfies string | null;
  // @ts-expect-error: a platform may have no column for it
  data.user_id satisfies string;
});
chat.on('connection_established', ({ data }) => {
  // @ts-expect-error: with hundreds of open transactions there is none
  data.cursor satisfies string;
});
chat.on('close', ({ code, failure }) => {
  if (failure === 'blocked') code satisfies number | null;
});
/** A function that takes any client. */
export const count = (client: RealtimeClient<any, any>): void =>
  void client.on('chat_message', ({ data }) => data.content.length);
count(chat);
// @ts-expect-error: either a bot or the notifications
connect({ botId: 'b', notifications: true });

export const latest = (messages: ServerMessages['chat_message'][]) => messages.at(-1)?.data;
export const first = (botId: string | null): BotMessage | undefined =>
  useBotChat({ botId, shared: new SharedConnection({ token }) }).messages[0];

/** What an API may give that leaves members out, and what `fetch` answers. */
export const loose = (botId: string, username: string | undefined): BotMessage | undefined =>
  useBotChat({
    botId,
    history: async () => ({ messages: [{ message_id: '1', content: 'hello', username }] }),
    send: (body) => fetch('/api/messages', { method: 'POST', body }),
  }).messages[0];

/** What an application changed by its API. */
export const change = (botId: string, id: string): void => {
  const { apply, reload } = useBotChat({ botId });
  apply({ action: 'edited', message_id: id, content: 'new' });
  apply({ action: 'deleted', message_id: id });
  // @ts-expect-error: which one?
  apply({ action: 'edited', content: 'new' });
  reload();
};

/** What is given to functions that are asked. */
export const asked = (botId: string): void => {
  const { wake } = useBotChat({
    botId,
    getToken: async ({ signal }) => (await fetch('/token', { signal })).text(),
    history: async ({ signal }) => (await fetch('/messages', { signal })).json(),
  });
  wake();
};

type Mine = { order_shipped: { order_id: string } };
const shared = new SharedConnection<Mine, { poll: { answers: number } }>({ token });
export const named = (botId: string): BotMessage | undefined =>
  useBotChat<Mine>({
    botId,
    shared,
    onEvent: (message) => {
      if (message.type === 'order_shipped') message.data.order_id satisfies string;
    },
  }).messages[0];
