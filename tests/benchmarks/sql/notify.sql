-- What the peers are fed by: a row trigger that sends the finished message as NOTIFY's payload.

CREATE FUNCTION notify_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('messages', json_build_object(
        'type', 'chat_message',
        'bot_id', NEW.bot_id,
        'data', json_build_object(
            'message_id', NEW.id,
            'session_id', NEW.session_id,
            'user_id', NEW.user_id,
            'username', (SELECT username FROM users WHERE id = NEW.user_id),
            'content', NEW.content,
            'role', NEW.role,
            'timestamp', NEW.created_at,
            'metadata', NEW.metadata),
        'timestamp', clock_timestamp())::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER notify AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION notify_message();
CREATE TRIGGER notify AFTER INSERT ON bare_messages FOR EACH ROW EXECUTE FUNCTION notify_message();
