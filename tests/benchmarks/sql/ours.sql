-- This server's own trigger, on the table without foreign keys.
CREATE TRIGGER relay_insert AFTER INSERT ON bare_messages
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();
