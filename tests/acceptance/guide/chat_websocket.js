class ChatWebSocket {
  constructor(botId, token) {
    this.botId = botId;
    this.token = token;
    this.ws = null;
    this.reconnectAttempts = 0;
    this.maxReconnectAttempts = 5;
  }

  connect() {
    const wsUrl = `ws://localhost:8000/api/ws/chat/${this.botId}?token=${this.token}`;
    this.ws = new WebSocket(wsUrl);

    this.ws.onopen = () => {
      console.log('WebSocket connected');
      this.reconnectAttempts = 0;
      this.startHeartbeat();
    };

    this.ws.onmessage = (event) => {
      const message = JSON.parse(event.data);
      this.handleMessage(message);
    };

    this.ws.onclose = (event) => {
      console.log('WebSocket closed:', event.code, event.reason);
      this.stopHeartbeat();
      this.attemptReconnect();
    };

    this.ws.onerror = (error) => {
      console.error('WebSocket error:', error);
    };
  }

  handleMessage(message) {
    switch (message.type) {
      case 'connection_established':
        console.log('Connected to bot:', message.data.bot_name);
        break;
      
      case 'chat_message':
        this.onChatMessage(message.data);
        break;
      
      case 'typing_indicator':
        this.onTypingIndicator(message.data);
        break;
      
      case 'permission_change':
        this.onPermissionChange(message.data);
        break;
      
      case 'bot_update':
        this.onBotUpdate(message.data);
        break;
      
      case 'document_update':
        this.onDocumentUpdate(message.data);
        break;
      
      case 'pong':
        // Heartbeat response received
        break;
      
      case 'error':
        console.error('WebSocket error:', message.message);
        break;
    }
  }

  sendTypingIndicator(isTyping) {
    if (this.ws && this.ws.readyState === WebSocket.OPEN) {
      this.ws.send(JSON.stringify({
        type: 'typing',
        data: { is_typing: isTyping }
      }));
    }
  }

  startHeartbeat() {
    this.heartbeatInterval = setInterval(() => {
      if (this.ws && this.ws.readyState === WebSocket.OPEN) {
        this.ws.send(JSON.stringify({
          type: 'ping',
          timestamp: new Date().toISOString()
        }));
      }
    }, 30000); // Send ping every 30 seconds
  }

  stopHeartbeat() {
    if (this.heartbeatInterval) {
      clearInterval(this.heartbeatInterval);
      this.heartbeatInterval = null;
    }
  }

  attemptReconnect() {
    if (this.reconnectAttempts < this.maxReconnectAttempts) {
      this.reconnectAttempts++;
      const delay = Math.pow(2, this.reconnectAttempts) * 1000; // Exponential backoff
      
      setTimeout(() => {
        console.log(`Attempting to reconnect (${this.reconnectAttempts}/${this.maxReconnectAttempts})`);
        this.connect();
      }, delay);
    }
  }

  disconnect() {
    this.stopHeartbeat();
    if (this.ws) {
      this.ws.close();
      this.ws = null;
    }
  }

  // Event handlers (implement these in your application)
  onChatMessage(data) {
    console.log('New chat message:', data);
  }

  onTypingIndicator(data) {
    console.log('Typing indicator:', data);
  }

  onPermissionChange(data) {
    console.log('Permission changed:', data);
  }

  onBotUpdate(data) {
    console.log('Bot updated:', data);
  }

  onDocumentUpdate(data) {
    console.log('Document updated:', data);
  }
}

// Usage
const chatWS = new ChatWebSocket('bot-uuid', 'jwt-token');
chatWS.connect();

// Send typing indicator when user starts typing
chatWS.sendTypingIndicator(true);

// Stop typing indicator when user stops typing
chatWS.sendTypingIndicator(false);

// Disconnect when done
chatWS.disconnect();
