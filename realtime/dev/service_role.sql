-- The role that runs what a reader of the console writes: it may do what a service of a platform
-- may, and nothing else. Run at every start, on bin/dev's own PostgreSQL alone.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'demo_service') THEN
        CREATE ROLE demo_service LOGIN CONNECTION LIMIT 4;
    END IF;
END
$$;
ALTER ROLE demo_service SET statement_timeout = '15s';
ALTER ROLE demo_service SET idle_in_transaction_session_timeout = '15s';
GRANT SELECT, INSERT, UPDATE, DELETE ON users, bots, permissions, sessions, messages, documents
    TO demo_service;
GRANT USAGE ON SCHEMA relay TO demo_service;
GRANT EXECUTE ON FUNCTION relay.emit, relay.notify_user, relay.eject, relay.grant, relay.cursor
    TO demo_service;
