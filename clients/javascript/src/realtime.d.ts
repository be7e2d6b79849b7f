/**
 * Types of realtime.js: every message of the wire protocol, the client's own events, its options.
 *
 * Events of your own (`relay.emit`) are typed by a type argument, name → data. Notifications of your own
 * (`relay.notify_user`) are typed by a second one:
 *
 *     const chat = connect<{ order_shipped: { order_id: string } }>({ botId, token });
 *     chat.on('order_shipped', ({ data }) => data.order_id);
 *
 * A function that takes any client has `client: RealtimeClient<any, any>`: a plain `RealtimeClient` is one that
 * has no events of your own.
 *
 * Numbers of JSON are JavaScript's: above 2^53 an integer loses digits. Send large ones as text.
 */

export type Uuid = string;
/** RFC 3339, UTC, ending in Z. */
export type Timestamp = string;
/** Opaque. Names a place in a topic's stream; good at every server of the same database. */
export type Cursor = string;

/** A platform may have roles and states of its own. */
export type Role = 'viewer' | 'editor' | 'admin' | 'owner' | (string & {});
export type MessageRole = 'user' | 'assistant' | 'system' | (string & {});
export type DocumentStatus = 'uploaded' | 'processing' | 'processed' | 'failed' | (string & {});
export type NotRecoveredReason = 'invalid' | 'foreign' | 'too_old' | 'too_many' | 'access_changed';
export type ErrorCode =
  | 'invalid_json'
  | 'invalid_message'
  | 'unknown_type'
  | 'rate_limited'
  | 'already_subscribed'
  | 'not_subscribed';

/** What every event that came from a row carries. */
export interface EventFields {
  id: string;
  timestamp: Timestamp;
  /** On the first and the last event of each batch. It covers no more than what came up to this event. */
  cursor?: Cursor;
}

interface BotEvent<Type extends string, Data> extends EventFields {
  type: Type;
  bot_id: Uuid;
  data: Data;
}

/** What the platform's table has no column for is null, and so is the name of nobody. */
export interface ChatMessageData {
  message_id: Uuid;
  session_id: Uuid | null;
  user_id: Uuid | null;
  username: string | null;
  content: string;
  role: MessageRole;
  timestamp: Timestamp | null;
  /** Any JSON; most often an object. */
  metadata: any;
}

export type ChatMessageUpdateData =
  | (ChatMessageData & { action: 'edited' })
  | { action: 'deleted'; message_id: Uuid; session_id: Uuid | null };

export type PermissionChange =
  | { action: 'granted'; details: { role: Role; granted_by: Uuid | null } }
  | {
      action: 'updated';
      details: { role: Role; new_role?: Role; old_role: Role; granted_by: Uuid | null };
    }
  | {
      action: 'revoked';
      details: {
        role: Role;
        revoked_role?: Role;
        granted_by: Uuid | null;
        revoked_by?: Uuid | null;
      };
    };

export interface BotUpdateData {
  update_type: 'config' | 'deleted';
  /** The changed columns of the bot with their new values. */
  details: Record<string, unknown>;
  updated_by: Uuid | null;
}

export interface DocumentUpdateData {
  action: DocumentStatus | 'deleted';
  document: { id: Uuid; filename: string; status: DocumentStatus; error?: string | null };
  user_id: Uuid | null;
}

export interface ConnectionEstablished {
  type: 'connection_established';
  data: {
    user_id: Uuid;
    connection_id: Uuid;
    /** Null where none can be given at the moment. */
    cursor: Cursor | null;
    /** When the token expires. */
    expires_at: Timestamp;
    /** Chat only. */
    bot_id?: Uuid;
    bot_name?: string | null;
    role?: Role;
    /** Notifications only. */
    connection_type?: 'notifications';
    /** Where a cursor was sent: whether everything since then follows. */
    recovered?: boolean;
    reason?: NotRecoveredReason;
  };
}

export interface TypingIndicator {
  type: 'typing_indicator';
  bot_id: Uuid;
  data: { user_id: Uuid; username: string; is_typing: boolean };
  timestamp: Timestamp;
}

/** Somebody with any number of sockets on the bot's chat. */
export interface Person {
  user_id: Uuid;
  username: string;
  /** When the oldest of these was opened. */
  since: Timestamp;
}

/** Who is there: the first message about it, and where it comes again it replaces what was known. */
export interface PresenceState {
  type: 'presence_state';
  bot_id: Uuid;
  /** `truncated`: there are more than are shown. */
  data: { users: Person[]; truncated?: true };
  timestamp: Timestamp;
}

/** Who is there from now on, and who no more. */
export interface PresenceDiff {
  type: 'presence_diff';
  bot_id: Uuid;
  data: { joined: Person[]; left: Person[]; truncated?: true };
  timestamp: Timestamp;
}

/** A permission of one's own has changed. */
export interface PermissionNotification extends EventFields {
  type: 'notification';
  notification_type: 'permission_change';
  data: PermissionChange & { bot_id: Uuid };
}

/** Written with `relay.notify_user`. */
export interface CustomNotification<Name extends string, Data> extends EventFields {
  type: 'notification';
  notification_type: Name;
  data: Data;
}

/** Comparing `notification_type` narrows it. Name your own: others come too, and are not typed. */
export type Notification<Notifications extends object = {}> =
  | PermissionNotification
  | {
      [Name in keyof Notifications & string]: CustomNotification<Name, Notifications[Name]>;
    }[keyof Notifications & string];

export interface Pong {
  type: 'pong';
  timestamp: string | number;
  cursor?: Cursor;
  /** On a shared connection: whose cursor it is. */
  bot_id?: Uuid;
  notifications?: true;
}

export interface SessionSynced {
  type: 'session_synced';
  data: { session_id: string; bot_id: Uuid; timestamp: Timestamp };
}

/** Events were lost for good: fetch the state from the API again. */
export interface Resync {
  type: 'resync';
  bot_id?: Uuid;
  /** `unreadable` comes from the client: the server sent what is not a message. */
  data: { reason?: string };
  /** What came instead of a message: the text, or a binary frame as the WebSocket gives it. */
  frame?: unknown;
}

/** The server's complaint about a message, or, with `cause`, something that failed on this side. */
export interface ErrorMessage {
  type: 'error';
  message: string;
  code?: ErrorCode | ClientErrorCode;
  cause?: unknown;
  /** On a shared connection: which subscription it is about. */
  bot_id?: Uuid;
  notifications?: true;
}

/** Why there is no connection at all. */
export type Failure = 'no_websocket' | 'bad_address' | 'blocked' | 'unreachable';
export type ClientErrorCode = 'handler_failed' | 'token_unavailable' | 'invalid_json' | Failure;

/** The connection ends soon; the client comes back after that time. */
export interface GoingAway {
  type: 'going_away';
  data: { retry_after_seconds: number };
}

/** Every message of the protocol, by its type. */
export interface ServerMessages<Notifications extends object = {}> {
  connection_established: ConnectionEstablished;
  chat_message: BotEvent<'chat_message', ChatMessageData>;
  chat_message_update: BotEvent<'chat_message_update', ChatMessageUpdateData>;
  typing_indicator: TypingIndicator;
  presence_state: PresenceState;
  presence_diff: PresenceDiff;
  permission_change: BotEvent<'permission_change', PermissionChange & { target_user_id: Uuid }>;
  bot_update: BotEvent<'bot_update', BotUpdateData>;
  document_update: BotEvent<'document_update', DocumentUpdateData>;
  notification: Notification<Notifications>;
  pong: Pong;
  session_synced: SessionSynced;
  authenticated: { type: 'authenticated'; data: { expires_at: Timestamp } };
  token_expiring: { type: 'token_expiring'; data: { expires_at: Timestamp } };
  going_away: GoingAway;
  /** From the server, or from the client where a reconnect recovered nothing. */
  resync: Resync;
  error: ErrorMessage;
}

/** An event written with `relay.emit`. */
export interface CustomEvent<Type extends string = string, Data = unknown> extends EventFields {
  type: Type;
  /** On bot topics. */
  bot_id?: Uuid;
  data: Data;
  /** Where one was given. */
  actor?: Uuid;
}

/** What `'*'` is told: comparing `type` narrows it. Name your own: others come too, and are not typed. */
export type AnyMessage<Custom extends object = {}, Notifications extends object = {}> =
  | ServerMessages<Notifications>[keyof ServerMessages]
  | { [Name in keyof Custom & string]: CustomEvent<Name, Custom[Name]> }[keyof Custom & string];

export type State = 'idle' | 'connecting' | 'open' | 'reconnecting' | 'closed';

export interface Closed {
  /** A close code of the protocol, or 4000: this client heard nothing and hung up. Null: no socket was made. */
  code: number | null;
  reason: string;
  /** The code, or the failure, in words. */
  meaning: string;
  /** Where there was no connection at all. */
  failure?: Failure;
  /** True when the client will not try again by itself. */
  final: boolean;
}

/** What the client tells about itself. These names are never a server's message. */
export interface LifecycleEvents {
  open: {
    recovered: boolean | undefined;
    reason: NotRecoveredReason | undefined;
    message: ConnectionEstablished;
  };
  close: Closed;
  /** `delay` in milliseconds until the next attempt. `code` as in `Closed`; null: there was no token. */
  reconnecting: { attempt: number; delay: number; code: number | null; reason: string };
  state: { state: State; previous: State };
  latency: { milliseconds: number };
}

export type KnownEvents<Notifications extends object = {}> = ServerMessages<Notifications> &
  LifecycleEvents;
export type ServerMessage = ServerMessages[keyof ServerMessages];
export type Unsubscribe = () => void;
export type Handler<Message> = (message: Message) => unknown;

export interface Timings {
  pingEvery: number;
  /** After a connection that was given up for want of an answer, four times as long, and so on. */
  pongWithin: number;
  connectWithin: number;
  backoffFirst: number;
  backoffMost: number;
  stableAfter: number;
  typingEvery: number;
  typingStopsAfter: number;
  askEvery: number;
  rememberIds: number;
}

/** What a test or another runtime puts in the place of the browser's own. */
export interface Timers {
  setTimeout(run: () => void, wait: number): unknown;
  clearTimeout(timer: any): void;
  /** Milliseconds that only ever grow. */
  now(): number;
  /** As Date.now, which is taken where this is missing. */
  wallClock?(): number;
}

export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

/** What a function of yours is given that the client asks. */
export interface Asked {
  /** For `fetch`: aborts when the answer has taken too long, or when nobody waits for it any more. */
  signal: AbortSignal;
}

/** It may take 15 s (`timings.connectWithin`). */
export type GetToken = (asked: Asked) =>
  | string
  | null
  | undefined
  | Promise<string | null | undefined>;

/** Where the server is, and who asks. */
export interface LineOptions {
  /** http, https, ws or wss; a path in it is kept. Default: the page's origin. */
  url?: string | undefined;
  token?: string | undefined;
  /** Called once before a token expires, again after a bad answer, and where a token was refused. */
  getToken?: GetToken | undefined;
  /** How the token travels: `protocol` (default) in the subprotocol list, or `query` as `?token=`. */
  tokenIn?: 'protocol' | 'query' | undefined;
  /** More query parameters. */
  parameters?: Record<string, string> | undefined;
  timings?: Partial<Timings> | undefined;
  WebSocket?: (new (url: string, protocols?: string[]) => WebSocketLike) | undefined;
  timers?: Timers | undefined;
  /** As Math.random. */
  random?: (() => number) | undefined;
  /** Whose `online`, `pageshow` and `visibilitychange` are listened to. */
  page?:
    | { window?: EventTarget | undefined; document?: (EventTarget & { visibilityState: string }) | undefined }
    | undefined;
}

export interface StreamOptions {
  /** Where to begin: what `relay.cursor` gave with the state, or an earlier client's `cursor`. */
  cursor?: Cursor | null | undefined;
}

export interface ChatOptions extends LineOptions, StreamOptions {
  botId: Uuid;
  notifications?: false | undefined;
  /** Whether to be told who else is there. */
  presence?: boolean | undefined;
}

export interface NotificationOptions extends LineOptions, StreamOptions {
  botId?: undefined;
  notifications: true;
  presence?: undefined;
}

export type Options = ChatOptions | NotificationOptions;

/** One stream of events, of a bot's chat or of the user's notifications. */
export class RealtimeClient<Custom extends object = {}, Notifications extends object = {}> {
  constructor(options: Options);

  readonly state: State;
  /** Why there is no connection at all; null where there is one, or it was cut. */
  readonly failure: Failure | null;
  /** The newest place in the stream that is wholly here. */
  readonly cursor: Cursor | null;
  /** Milliseconds that the last ping took, or null. */
  readonly latency: number | null;

  /** Start, or start again after the end. */
  connect(): this;
  /** Leave for good, with 1000. Where there is a `getToken`, the token is forgotten. */
  close(): void;

  on<Type extends keyof KnownEvents>(
    type: Type,
    handler: Handler<KnownEvents<Notifications>[Type]>,
  ): Unsubscribe;
  on<Type extends keyof Custom & string>(
    type: Type,
    handler: Handler<CustomEvent<Type, Custom[Type]>>,
  ): Unsubscribe;
  /** Every message of the server. */
  on(type: '*', handler: Handler<AnyMessage<Custom, Notifications>>): Unsubscribe;

  once<Type extends keyof KnownEvents>(
    type: Type,
    handler: Handler<KnownEvents<Notifications>[Type]>,
  ): Unsubscribe;
  once<Type extends keyof Custom & string>(
    type: Type,
    handler: Handler<CustomEvent<Type, Custom[Type]>>,
  ): Unsubscribe;
  once(type: '*', handler: Handler<AnyMessage<Custom, Notifications>>): Unsubscribe;

  /** True at each keystroke, false when the text was sent or cleared. Throttled; stops by itself. */
  typing(isTyping: boolean): void;
  /** False when there is no connection to say it on. */
  sessionSync(sessionId: string): boolean;
  ping(): boolean;
  /** The network or the person is back: do not sit out a wait. Browsers say so by themselves. */
  wake(): void;
  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token: string): void;
}

/**
 * One connection for any number of bots, up to the server's MAX_SUBSCRIPTIONS. Each client behaves as if it
 * were alone. It is made when the first client is.
 */
export class SharedConnection<Custom extends object = {}, Notifications extends object = {}> {
  constructor(options: LineOptions);

  readonly state: State;
  readonly failure: Failure | null;
  readonly latency: number | null;

  /** A client for a bot's chat, started. Throws while the bot has another one here that is not closed. */
  chat(
    botId: Uuid,
    stream?: StreamOptions & { presence?: boolean | undefined },
  ): RealtimeClient<Custom, Notifications>;
  /** A client for the user's notifications, started. Otherwise as `chat`. */
  notifications(stream?: StreamOptions): RealtimeClient<Custom, Notifications>;

  /** What concerns the connection, and not one of its clients. */
  on<Type extends 'close' | 'reconnecting' | 'state' | 'latency' | 'error' | 'token_expiring'>(
    type: Type,
    handler: Handler<KnownEvents[Type]>,
  ): Unsubscribe;
  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token: string): void;
  wake(): void;
  /** Leave for good: all its clients are closed. Where there is a `getToken`, the token is forgotten. */
  close(): void;
}

/** Make a client and start it. */
export function connect<Custom extends object = {}, Notifications extends object = {}>(
  options: Options,
): RealtimeClient<Custom, Notifications>;

export const CLOSE_CODES: Readonly<Record<number, string>>;
export const FAILURES: Readonly<Record<Failure, string>>;
export const TIMINGS: Readonly<Timings>;
