-- What `bin/dev` puts into its database: one bot, three people who may watch it, one session.
-- The ids never change, so that links from yesterday still work. Run at every start; what is
-- there already stays as it is. `realtime/dev/command.py` knows the ids.

INSERT INTO users (id, username, email) VALUES
    ('00000000-0000-4000-8000-0000000000a1', 'ada', 'ada@example.com'),
    ('00000000-0000-4000-8000-0000000000a2', 'grace', 'grace@example.com'),
    ('00000000-0000-4000-8000-0000000000a3', 'linus', 'linus@example.com')
ON CONFLICT DO NOTHING;

INSERT INTO bots (id, name, description, owner_id) VALUES
    ('00000000-0000-4000-8000-0000000000b1', 'Demo bot', 'Made by bin/dev.',
     '00000000-0000-4000-8000-0000000000a1')
ON CONFLICT DO NOTHING;

-- Ada owns the bot and needs no row.
INSERT INTO permissions (bot_id, user_id, role, granted_by) VALUES
    ('00000000-0000-4000-8000-0000000000b1', '00000000-0000-4000-8000-0000000000a2', 'editor',
     '00000000-0000-4000-8000-0000000000a1'),
    ('00000000-0000-4000-8000-0000000000b1', '00000000-0000-4000-8000-0000000000a3', 'viewer',
     '00000000-0000-4000-8000-0000000000a1')
ON CONFLICT DO NOTHING;

INSERT INTO sessions (id, bot_id, user_id, title) VALUES
    ('00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000b1',
     '00000000-0000-4000-8000-0000000000a1', 'Demo')
ON CONFLICT DO NOTHING;
