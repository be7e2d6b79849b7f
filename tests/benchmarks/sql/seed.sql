-- Bots, users who may watch them, and sessions to write in; ids are counted, so that the load
-- generator and pgbench know them. User n may watch bot 0 and bot n modulo 500; user 0 owns all.
-- The bot ffffffffffff is for writers to warm up with.

INSERT INTO users (id, username)
SELECT ('00000000-0000-4000-a000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user ' || n
FROM generate_series(0, 3999) AS n;

INSERT INTO bots (id, name, owner_id)
SELECT ('00000000-0000-4000-b000-' || lpad(to_hex(n), 12, '0'))::uuid, 'Bot ' || n,
    '00000000-0000-4000-a000-000000000000'
FROM generate_series(0, 499) AS n;
INSERT INTO bots (id, name, owner_id) VALUES
    ('00000000-0000-4000-b000-ffffffffffff', 'Warm-up', '00000000-0000-4000-a000-000000000000');

INSERT INTO permissions (bot_id, user_id, role)
SELECT DISTINCT ('00000000-0000-4000-b000-' || lpad(to_hex(bot), 12, '0'))::uuid,
    ('00000000-0000-4000-a000-' || lpad(to_hex(n), 12, '0'))::uuid, 'viewer'
FROM generate_series(1, 3999) AS n, LATERAL (VALUES (0), (n % 500)) AS b (bot);

INSERT INTO sessions (id, bot_id, user_id)
SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    ('00000000-0000-4000-b000-' || lpad(to_hex(n), 12, '0'))::uuid,
    '00000000-0000-4000-a000-000000000000'
FROM generate_series(0, 499) AS n;
INSERT INTO sessions (id, bot_id, user_id) VALUES
    ('00000000-0000-4000-8000-ffffffffffff', '00000000-0000-4000-b000-ffffffffffff',
    '00000000-0000-4000-a000-000000000000');

-- The same rows without foreign keys, checks and indexes: what a commit alone costs.
CREATE TABLE bare_messages (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL,
    bot_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
