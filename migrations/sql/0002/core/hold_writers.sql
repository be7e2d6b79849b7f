-- First in a revision that changes relay.events: lets those who write to the reference tables finish,
-- and holds the next ones until the revision is there. A writer locks its table first and the log
-- second. Locked the other way round, the two would wait for each other. So they would with the tables
-- in another order than a writer's, whose foreign keys lead from a message to its bot and its user.
DO $$
BEGIN
    IF EXISTS (SELECT FROM relay.alembic_version WHERE version_num LIKE 'reference%') THEN
        LOCK TABLE public.messages, public.documents, public.sessions,
            public.permissions, public.bots, public.users IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END
$$;
