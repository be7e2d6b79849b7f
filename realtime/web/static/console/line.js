/**
 * The wire between this page and the server, as its reader may cut it: what the clients get in the
 * place of WebSocket. While it is cut every attempt fails, as without a network.
 */

const CUT = { code: 1006, reason: '' };
const UTF8 = new TextEncoder();

export class Line {
  /** For realtime.js's option `WebSocket`. */
  Socket;
  #sockets = new Set();
  #isCut = false;
  #bytes = 0;

  constructor() {
    const open = (...address) => this.#open(...address);
    // With `new`, a function that returns an object gives that object.
    this.Socket = function Socket(...address) {
      return open(...address);
    };
  }

  get isCut() {
    return this.#isCut;
  }

  /** Bytes of the frame that is being heard, or was heard last. */
  get bytes() {
    return this.#bytes;
  }

  /** End every socket without a goodbye: its client learns what a broken wire would tell it. */
  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) {
      const tell = socket.onclose;
      socket.onclose = null;
      hangUp(socket);
      tell?.call(socket, CUT);
    }
    this.#sockets.clear();
  }

  /** The network is there again, which browsers tell of just like this. */
  mend() {
    this.#isCut = false;
    // After the attempt that may just be failing.
    setTimeout(() => window.dispatchEvent(new Event('online')));
  }

  #open(...address) {
    if (this.#isCut) return new DeadSocket();
    const socket = new WebSocket(...address);
    this.#sockets.add(socket);
    // Before the client's own handler, which was not set yet.
    socket.addEventListener('message', ({ data }) => {
      this.#bytes = UTF8.encode(data).length;
    });
    socket.addEventListener('close', () => this.#sockets.delete(socket));
    return socket;
  }
}

/** Browsers complain where a socket is closed that is still connecting. */
function hangUp(socket) {
  if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
  else socket.close();
}

class DeadSocket {
  readyState = 3; // CLOSED
  onmessage = null;
  onclose = null;

  constructor() {
    setTimeout(() => this.onclose?.(CUT));
  }

  send() {}

  close() {}
}
