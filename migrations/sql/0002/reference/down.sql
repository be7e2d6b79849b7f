-- Functions that the triggers of 0.1.0, which are back, do not call.

DROP FUNCTION relay.message_now(text, text, uuid, uuid, uuid, text);
DROP FUNCTION relay.message_author(text, uuid, uuid);
DROP FUNCTION relay.document_now(uuid, uuid);
DROP FUNCTION relay.owns(uuid, uuid);
DROP FUNCTION relay.permission_now(uuid, uuid);
DROP FUNCTION relay.permission_details(text, text, uuid, text);
DROP FUNCTION relay.permission_change(
    uuid, uuid, boolean, boolean, text, text, uuid, uuid, text);
DROP FUNCTION relay.owner_change(uuid, uuid, uuid, uuid, uuid, text);
DROP FUNCTION relay.access_rows(
    uuid, uuid, text, text, boolean, boolean, uuid, text, text);
DROP FUNCTION relay.is_news(uuid, uuid, text, text, integer);
DROP FUNCTION relay.bot_changes(oid, boolean);
DROP FUNCTION relay.bot_remains(uuid);
DROP FUNCTION relay.bots_inserted();
DROP FUNCTION relay.users_inserted();
