-- The platform's tables, for the embedded database and for a platform that starts here.
-- migrations/models.py says the same to SQLAlchemy; `alembic check` compares the two.

CREATE TABLE public.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username text NOT NULL UNIQUE,
    email text,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.bots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    description text,
    owner_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
    config jsonb NOT NULL DEFAULT '{}',
    updated_by uuid REFERENCES public.users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.permissions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_id uuid NOT NULL REFERENCES public.bots ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin', 'owner')),
    granted_by uuid REFERENCES public.users ON DELETE SET NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (bot_id, user_id)
);

CREATE TABLE public.sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_id uuid NOT NULL REFERENCES public.bots ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
    title text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES public.sessions ON DELETE CASCADE,
    bot_id uuid NOT NULL REFERENCES public.bots ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
    content text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_id uuid NOT NULL REFERENCES public.bots ON DELETE CASCADE,
    uploaded_by uuid REFERENCES public.users ON DELETE SET NULL,
    filename text NOT NULL,
    mime_type text,
    size_bytes bigint,
    status text NOT NULL DEFAULT 'uploaded'
        CHECK (status IN ('uploaded', 'processing', 'processed', 'failed')),
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Each foreign key has an index: without one, deleting a user or a bot reads whole tables.
-- permissions.bot_id leads the unique constraint's; messages are read by session, in order.
CREATE INDEX bots_owner_id ON public.bots (owner_id);
CREATE INDEX bots_updated_by ON public.bots (updated_by);
CREATE INDEX permissions_user_id ON public.permissions (user_id);
CREATE INDEX permissions_granted_by ON public.permissions (granted_by);
CREATE INDEX sessions_bot_id ON public.sessions (bot_id);
CREATE INDEX sessions_user_id ON public.sessions (user_id);
CREATE INDEX messages_session_id ON public.messages (session_id, created_at);
CREATE INDEX messages_bot_id ON public.messages (bot_id);
CREATE INDEX messages_user_id ON public.messages (user_id);
CREATE INDEX documents_bot_id ON public.documents (bot_id);
CREATE INDEX documents_uploaded_by ON public.documents (uploaded_by);
