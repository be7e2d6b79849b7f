-- For pgbench: one message to any of the first :bots bots.
\set n random(0, :bots - 1)
INSERT INTO messages (session_id, bot_id, user_id, role, content)
VALUES (('00000000-0000-4000-8000-' || lpad(to_hex(:n::int), 12, '0'))::uuid,
    ('00000000-0000-4000-b000-' || lpad(to_hex(:n::int), 12, '0'))::uuid,
    '00000000-0000-4000-a000-000000000000', 'user',
    '^at=' || (extract(epoch FROM statement_timestamp()) * 1000000)::bigint
        || ' What did the last deployment change, and who should look at it first?');
