/** A client where there is neither a window nor a document. */

import { connect } from '/static/realtime.js';

class FakeWebSocket {
  readyState = 1;

  constructor(url) {
    const data = JSON.stringify({ type: 'connection_established', data: { cursor: 'c' } });
    setTimeout(() => this.onmessage({ data }));
    this.url = url;
    FakeWebSocket.last = this;
  }

  send() {}

  close() {}
}

const client = connect({ botId: 'bot', token: 't', WebSocket: FakeWebSocket });
client.on('open', () => postMessage({ state: client.state, url: FakeWebSocket.last.url }));
