/**
 * Types of realtime.js: every message of the wire protocol, the client's own events, its options.
 *
 * Events of your own (`relay.emit`) are typed by a type argument, name → data:
 *
 *     const chat = connect<{ order_shipped: { order_id: string } }>({ botId, token });
 *     chat.on('order_shipped', ({ data }) => data.order_id);
 */

export type Uuid = string;
/** RFC 3339, UTC, ending in Z. */
export type Timestamp = string;
/** Opaque. Names a place in a topic's stream; good at every server of the same database. */
export type Cursor = string;

export type Role = 'viewer' | 'editor' | 'admin' | 'owner';
export type MessageRole = 'user' | 'assistant' | 'system';
export type DocumentStatus = 'uploaded' | 'processing' | 'processed' | 'failed';
export type NotRecoveredReason = 'invalid' | 'foreign' | 'too_old' | 'too_many' | 'access_changed';
export type ErrorCode = 'invalid_json' | 'invalid_message' | 'unknown_type' | 'rate_limited';

/** What every event that came from a row carries. */
export interface EventFields {
  id: string;
  timestamp: Timestamp;
  /** On the last event of each batch. */
  cursor?: Cursor;
}

interface BotEvent<Type extends string, Data> extends EventFields {
  type: Type;
  bot_id: Uuid;
  data: Data;
}

export interface ChatMessageData {
  message_id: Uuid;
  session_id: Uuid;
  user_id: Uuid;
  username: string;
  content: string;
  role: MessageRole;
  timestamp: Timestamp;
  metadata: Record<string, unknown>;
}

export type ChatMessageUpdateData =
  | (ChatMessageData & { action: 'edited' })
  | { action: 'deleted'; message_id: Uuid; session_id: Uuid };

export type PermissionChange =
  | { action: 'granted'; details: { role: Role; granted_by: Uuid | null } }
  | { action: 'updated'; details: { role: Role; old_role: Role; granted_by: Uuid | null } }
  | { action: 'revoked'; details: { role: Role; granted_by: Uuid | null } };

export interface BotUpdateData {
  update_type: 'config' | 'deleted';
  /** The changed columns of the bot with their new values. */
  details: Record<string, unknown>;
  updated_by: Uuid | null;
}

export interface DocumentUpdateData {
  action: DocumentStatus | 'deleted';
  document: { id: Uuid; filename: string; status: DocumentStatus; error?: string };
  user_id: Uuid | null;
}

export interface ConnectionEstablished {
  type: 'connection_established';
  data: {
    user_id: Uuid;
    connection_id: Uuid;
    cursor: Cursor;
    /** When the token expires. */
    expires_at: Timestamp;
    /** Chat only. */
    bot_id?: Uuid;
    bot_name?: string;
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

export interface Notification extends EventFields {
  type: 'notification';
  /** `permission_change`, or what `relay.notify_user` was given. */
  notification_type: string;
  data: Record<string, unknown>;
}

export interface PermissionNotification extends Notification {
  notification_type: 'permission_change';
  data: PermissionChange & { bot_id: Uuid };
}

export interface Pong {
  type: 'pong';
  timestamp: string | number;
  cursor?: Cursor;
}

export interface SessionSynced {
  type: 'session_synced';
  data: { session_id: string; bot_id: Uuid; timestamp: Timestamp };
}

/** Events were lost for good: fetch the state from the API again. */
export interface Resync {
  type: 'resync';
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
}

export type ClientErrorCode =
  'handler_failed' | 'token_unavailable' | 'not_connectable' | 'invalid_json';

/** Every message of the protocol, by its type. */
export interface ServerMessages {
  connection_established: ConnectionEstablished;
  chat_message: BotEvent<'chat_message', ChatMessageData>;
  chat_message_update: BotEvent<'chat_message_update', ChatMessageUpdateData>;
  typing_indicator: TypingIndicator;
  presence_state: PresenceState;
  presence_diff: PresenceDiff;
  permission_change: BotEvent<'permission_change', PermissionChange & { target_user_id: Uuid }>;
  bot_update: BotEvent<'bot_update', BotUpdateData>;
  document_update: BotEvent<'document_update', DocumentUpdateData>;
  notification: Notification | PermissionNotification;
  pong: Pong;
  session_synced: SessionSynced;
  authenticated: { type: 'authenticated'; data: { expires_at: Timestamp } };
  token_expiring: { type: 'token_expiring'; data: { expires_at: Timestamp } };
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
}

export type State = 'idle' | 'connecting' | 'open' | 'reconnecting' | 'closed';

export interface Closed {
  /** A close code of the protocol, or 4000: this client heard nothing and hung up. */
  code: number;
  reason: string;
  /** The code in words. */
  meaning: string;
  /** True when the client will not try again by itself. */
  final: boolean;
}

/** What the client tells about itself. These names are never a server's message. */
export interface LifecycleEvents {
  open: { recovered?: boolean; reason?: NotRecoveredReason; message: ConnectionEstablished };
  close: Closed;
  /** `delay` in milliseconds until the next attempt. */
  reconnecting: { attempt: number; delay: number };
  state: { state: State; previous: State };
  latency: { milliseconds: number };
}

export type KnownEvents = ServerMessages & LifecycleEvents;
export type ServerMessage = ServerMessages[keyof ServerMessages];
export type Unsubscribe = () => void;
export type Handler<Message> = (message: Message) => unknown;

export interface Timings {
  pingEvery: number;
  pongWithin: number;
  connectWithin: number;
  backoffFirst: number;
  backoffMost: number;
  stableAfter: number;
  typingEvery: number;
  typingStopsAfter: number;
  rememberIds: number;
}

/** What a test or another runtime puts in the place of the browser's own. */
export interface Timers {
  setTimeout(run: () => void, wait: number): unknown;
  clearTimeout(timer: any): void;
  /** Milliseconds that only ever grow. */
  now(): number;
}

export interface WebSocketLike {
  readonly readyState: number;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface CommonOptions {
  /** Where the server is: http, https, ws or wss; a path in it is kept. Default: the page's origin. */
  url?: string;
  token?: string;
  /** Called for a new token before the old one expires, and where one was refused. */
  getToken?: () => string | null | undefined | Promise<string | null | undefined>;
  /** How the token travels: `query` (default) as `?token=`, or `protocol` in the subprotocol list. */
  tokenIn?: 'query' | 'protocol';
  /** Where to begin: what `relay.cursor` gave with the state, or an earlier client's `cursor`. */
  cursor?: Cursor | null;
  /** More query parameters. */
  parameters?: Record<string, string>;
  timings?: Partial<Timings>;
  WebSocket?: new (url: string, protocols?: string[]) => WebSocketLike;
  timers?: Timers;
  /** As Math.random. */
  random?: () => number;
  /** Whose `online` and `visibilitychange` are listened to. */
  page?: { window?: EventTarget; document?: EventTarget & { visibilityState: string } };
}

export interface ChatOptions extends CommonOptions {
  botId: Uuid;
  notifications?: false;
  /** Whether to be told who else is there. */
  presence?: boolean;
}

export interface NotificationOptions extends CommonOptions {
  botId?: undefined;
  notifications: true;
  presence?: undefined;
}

export type Options = ChatOptions | NotificationOptions;

export class RealtimeClient<Custom extends object = {}> {
  constructor(options: Options);

  readonly state: State;
  /** The newest place in the stream that is wholly here. */
  readonly cursor: Cursor | null;
  /** Milliseconds that the last ping took, or null. */
  readonly latency: number | null;

  /** Start, or start again after the end. */
  connect(): this;
  /** Leave for good, with 1000. */
  close(): void;

  on<Type extends keyof KnownEvents>(type: Type, handler: Handler<KnownEvents[Type]>): Unsubscribe;
  on<Type extends keyof Custom & string>(
    type: Type,
    handler: Handler<CustomEvent<Type, Custom[Type]>>,
  ): Unsubscribe;
  /** Every message of the server. */
  on(type: '*', handler: Handler<ServerMessage | CustomEvent>): Unsubscribe;

  once<Type extends keyof KnownEvents>(
    type: Type,
    handler: Handler<KnownEvents[Type]>,
  ): Unsubscribe;
  once<Type extends keyof Custom & string>(
    type: Type,
    handler: Handler<CustomEvent<Type, Custom[Type]>>,
  ): Unsubscribe;
  once(type: '*', handler: Handler<ServerMessage | CustomEvent>): Unsubscribe;

  /** True at each keystroke, false when the text was sent or cleared. Throttled; stops by itself. */
  typing(isTyping: boolean): void;
  /** False when there is no connection to say it on. */
  sessionSync(sessionId: string): boolean;
  ping(): boolean;
  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token: string): void;
}

/** Make a client and start it. */
export function connect<Custom extends object = {}>(options: Options): RealtimeClient<Custom>;

export const CLOSE_CODES: Readonly<Record<number, string>>;
export const TIMINGS: Readonly<Timings>;
