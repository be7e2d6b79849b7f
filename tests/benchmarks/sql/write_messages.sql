-- For pgbench: one message to bot 0. It holds when its statement began, in microseconds.
-- A service keeps its connections: the first statement of each, which plans and fills caches for
-- tens of milliseconds, is not measured. It goes to a bot that nobody watches. Where all write as
-- fast as they can, they begin together, when everybody is through with that.
\if :is_warm
\else
INSERT INTO messages (session_id, bot_id, user_id, role, content)
VALUES ('00000000-0000-4000-8000-ffffffffffff', '00000000-0000-4000-b000-ffffffffffff',
    '00000000-0000-4000-a000-000000000000', 'user', 'The first of this connection');
SELECT pg_sleep(:begin::float8 - extract(epoch FROM clock_timestamp())::float8);
\set is_warm 1
\endif
INSERT INTO messages (session_id, bot_id, user_id, role, content)
VALUES ('00000000-0000-4000-8000-000000000000', '00000000-0000-4000-b000-000000000000',
    '00000000-0000-4000-a000-000000000000', 'user',
    '^at=' || (extract(epoch FROM statement_timestamp()) * 1000000)::bigint
        || ' What did the last deployment change, and who should look at it first?');
