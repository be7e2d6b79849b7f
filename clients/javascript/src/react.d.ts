/** Types of react.js: a bot's conversation as a React hook. */

import type {
  AnyMessage,
  Asked,
  ChatMessageData,
  Closed,
  Cursor,
  Failure,
  LineOptions,
  Person,
  SharedConnection,
  State,
  Uuid,
} from './realtime.js';

/** The `data` of a chat_message. */
export interface BotMessage extends ChatMessageData {
  /** For React: stays the same while one's own message becomes the server's. */
  key: string;
  /**
   * Of one's own message until the server tells of it. What the API has answered of it is shown then, and
   * without its id `message_id` is the key.
   */
  status?: 'sending' | 'sent' | 'failed';
}

/** A message of your API: the members of ChatMessageData that it has. Put more into `metadata`. */
export type HistoryMessage = {
  [Name in keyof ChatMessageData]?: ChatMessageData[Name] | undefined;
} & { message_id: Uuid; content: string };

/** What you changed by your API: what an edit does not say stays. */
export type MessageChange =
  | ({ action: 'edited'; message_id: Uuid } & Omit<Partial<HistoryMessage>, 'message_id'>)
  | { action: 'deleted'; message_id: Uuid };

export interface History {
  /** The oldest first. */
  messages: HistoryMessage[];
  /** `relay.cursor` of the moment at which they were read. */
  cursor?: Cursor | null | undefined;
}

export interface BotChatOptions<Custom extends object = {}> extends LineOptions {
  /** Empty: wait. */
  botId: Uuid | null | undefined;
  /**
   * Loads the messages, at first and whenever events were lost: as they are now, and not as a cache has
   * them. It may take 30 s. Then, and where nobody waits any more, the signal ends it.
   */
  history?: ((asked: Asked) => Promise<History>) | undefined;
  /**
   * Gives a new message to your API. With its id in the answer (`{ message_id }`), it is told apart from
   * one that is alike. Beside the id, other members of ChatMessageData are shown, too. What throws or
   * rejects has failed; a `Response` that is not `ok` has not.
   */
  send?: ((content: string) => Promise<unknown>) | undefined;
  /** Share this connection with other bots. All of LineOptions is then the connection's. */
  shared?: SharedConnection<any, any> | undefined;
  /** Whether to be told who else is there; true by default. */
  presence?: boolean | undefined;
  /** Where to begin, if you have loaded the state yourself. */
  cursor?: Cursor | null | undefined;
  /** Every message of the server, after it was applied. */
  onEvent?: ((message: AnyMessage<Custom>) => unknown) | undefined;
}

export interface Typist {
  user_id: Uuid;
  username: string;
}

export interface BotChat {
  /**
   * Where there are more than 10,000, the oldest goes with each that comes. This array and the other two
   * are the same objects until what they hold changes, and so is each message.
   */
  readonly messages: readonly BotMessage[];
  /** Others who are typing now. */
  readonly typists: readonly Typist[];
  /** Who is there, oneself too. */
  readonly people: readonly Person[];
  readonly state: State;
  /** Why there is no connection at all, or null. */
  readonly failure: Failure | null;
  /** The end, after which the client does not try again, or null. */
  readonly closed: Closed | null;
  /**
   * What `history`, `send`, `getToken` or `onEvent` last failed with, or what the server said; or null. What
   * `send` failed with is forgotten at the next message that is sent.
   */
  readonly error: unknown;
  /** Whether the history is still to come. False after the end. */
  readonly isLoading: boolean;
  /** Shows the message at once. False where your `send` failed: its `status` is then `failed`. */
  send(content: string): Promise<boolean>;
  /** Takes away a message that has a `status`, by its `key`: one that could not be sent. */
  discard(key: string): void;
  /**
   * Shows an edit or a deletion that your API has made, before the server tells of it. With
   * `ECHO_TO_AUTHOR=false` it tells the author of none.
   */
  apply(change: MessageChange): void;
  /** Asks `history` again: at once, or else when it connects. */
  reload(): void;
  /** Starts again after the end (`closed`). A new token does so by itself after 4001. */
  connect(): void;
  /** As the client's `typing`. */
  typing(isTyping: boolean): void;
  /** As the client's `wake`; with `shared`, as the connection's. */
  wake(): void;
}

/** A bot's conversation. */
export function useBotChat<Custom extends object = {}>(options: BotChatOptions<Custom>): BotChat;
