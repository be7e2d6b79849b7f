-- Takes the core branch out again. The schema itself stays: alembic's own table lives in it.

DROP FUNCTION relay.eject(uuid, text, integer);
DROP FUNCTION relay.notify_user(uuid, text, jsonb);
DROP FUNCTION relay.notification_message(text, text, text);
DROP FUNCTION relay.emit(text, text, jsonb, uuid);
DROP FUNCTION relay.checked_topic(text);
DROP FUNCTION relay.protocol_types();
DROP FUNCTION relay.json_text(text);
DROP FUNCTION relay.json_id(uuid);
DROP FUNCTION relay.json_time(timestamptz);
DROP FUNCTION relay.actor();
DROP FUNCTION relay.uuid_or_null(text);
DROP FUNCTION relay.ring(text);
DROP TABLE relay.floor;
DROP TABLE relay.snapshots;
DROP TABLE relay.connections;
DROP TABLE relay.nodes;
DROP SEQUENCE relay.bell;
DROP TABLE relay.events;
DROP SEQUENCE relay.current_slot;
DROP SEQUENCE relay.events_id;
