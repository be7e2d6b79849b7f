-- Takes the reference branch out again, the tables' rows included.

DROP TABLE public.documents, public.messages, public.sessions, public.permissions, public.bots,
    public.users;

DROP FUNCTION relay.access_truncated();
DROP FUNCTION relay.users_deleted();
DROP FUNCTION relay.access_inserted();
DROP FUNCTION relay.users_updated();
DROP FUNCTION relay.documents_deleted();
DROP FUNCTION relay.documents_updated();
DROP FUNCTION relay.documents_inserted();
DROP FUNCTION relay.document_event(uuid, text, uuid, text, text, text, uuid, text);
DROP FUNCTION relay.bots_deleted();
DROP FUNCTION relay.bots_updated();
DROP FUNCTION relay.ejection_after_owner(uuid, uuid);
DROP FUNCTION relay.changed_columns(oid, jsonb, jsonb);
DROP FUNCTION relay.bot_event(uuid, text, text, uuid, text);
DROP FUNCTION relay.permissions_deleted();
DROP FUNCTION relay.permissions_updated();
DROP FUNCTION relay.permissions_inserted();
DROP FUNCTION relay.permission_rows(uuid, uuid, text, text, boolean, text, text);
DROP FUNCTION relay.ejection_after_revoke(uuid, uuid);
DROP FUNCTION relay.permission_details(text, uuid, text);
DROP FUNCTION relay.messages_deleted();
DROP FUNCTION relay.messages_updated();
DROP FUNCTION relay.messages_inserted();
DROP FUNCTION relay.message_deleted_event(uuid, uuid, uuid, text);
DROP FUNCTION relay.message_event(
    text, text, uuid, uuid, uuid, uuid, text, text, text, timestamptz, text, text);
DROP FUNCTION relay.authorize(uuid, uuid);
DROP FUNCTION relay.authenticate(text, text);
