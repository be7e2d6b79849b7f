-- First in a revision that changes relay.events: lets those who write to the reference tables finish,
-- and holds the next ones until the revision is there. A writer locks its table first and the log
-- second. Locked the other way round, the two would wait for each other.
DO $$
BEGIN
    IF EXISTS (SELECT FROM relay.alembic_version WHERE version_num LIKE 'reference%') THEN
        LOCK TABLE public.users, public.bots, public.permissions, public.sessions,
            public.messages, public.documents IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END
$$;
