-- Functions of 0.1.0 that no trigger calls any more.

DROP FUNCTION relay.permission_rows(uuid, uuid, text, text, boolean, text, text);
DROP FUNCTION relay.changed_columns(oid, jsonb, jsonb);
DROP FUNCTION relay.ejection_after_owner(uuid, uuid);
DROP FUNCTION relay.access_inserted();
DROP FUNCTION relay.permission_details(text, uuid, text);
