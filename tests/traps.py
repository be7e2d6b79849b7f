"""Functions and operators of a stranger who may create in `public`: they count their calls.

So it is for every role in `public` of a database from before PostgreSQL 15.
"""

from __future__ import annotations

from collections.abc import Iterator

FUNCTIONS = {
    "pg_is_in_recovery()": "boolean",
    "pg_backend_pid()": "integer",
    "pg_current_snapshot()": "pg_snapshot",
    "pg_snapshot_xmax(pg_snapshot)": "xid8",
    "pg_notify(text, text)": "void",
    "to_regclass(text)": "regclass",
    "to_regnamespace(text)": "regnamespace",
    "to_regprocedure(text)": "regprocedure",
    "current_setting(text)": "text",
    "current_setting(text, boolean)": "text",
    "set_config(text, text, boolean)": "text",
    "has_schema_privilege(text, text)": "boolean",
    "has_function_privilege(oid, text)": "boolean",
    "has_table_privilege(oid, text)": "boolean",
    "quote_ident(text)": "text",
    "now()": "timestamptz",
    "clock_timestamp()": "timestamptz",
    "version()": "text",
    "current_database()": "name",
    "format_type(oid, integer)": "text",
    "pg_get_userbyid(oid)": "name",
    "obj_description(oid, name)": "text",
}
"""Called where `public` comes first in the path."""
COMPARED = ("text", "name", "oid", "integer", "bigint", "uuid", "xid8")
BETTER = (("name", "varchar"), ("oid", "integer"))
"""PostgreSQL compares these only as other types: so these are called wherever `public` comes."""

SEEN = """
SELECT pg_catalog.array_agg(sequencename::text) FROM pg_catalog.pg_sequences
 WHERE schemaname OPERATOR(pg_catalog.=) 'public' AND last_value IS NOT NULL
"""


def traps(stranger: str) -> str:
    """The SQL that makes them, as a superuser runs it."""
    return "\n".join(
        [
            f"CREATE ROLE {stranger}; GRANT CREATE ON SCHEMA public TO {stranger};",
            f"SET ROLE {stranger};",
            *_functions(),
            *_operators(),
            "RESET ROLE",
        ]
    )


def _functions() -> Iterator[str]:
    for signature, result in FUNCTIONS.items():
        name, _, arguments = signature[:-1].partition("(")
        given = ", ".join(f"${n}" for n in range(1, len(arguments.split(",")) + 1))
        call = f"pg_catalog.{name}({given if arguments else ''})"
        does = f"PERFORM {call}" if result == "void" else f"RETURN {call}"
        yield _trap(signature, signature, result, does)
    elements = "FOREACH one IN ARRAY $1 LOOP RETURN NEXT one; END LOOP"
    yield _trap("unnest", "unnest(text[])", "SETOF text", elements, declared="one text;")


def _operators() -> Iterator[str]:
    compared = [(one, one, one) for one in COMPARED]
    better = [(*both, "text" if both[0] == "name" else "bigint") for both in BETTER]
    for number, (left, right, common) in enumerate(compared + better):
        for word, sign in (("equal", "="), ("unequal", "<>")):
            name = f"{word}_{number}"
            does = f"RETURN $1::{common} OPERATOR(pg_catalog.{sign}) $2::{common}"
            yield _trap(f"{left} {sign} {right}", f"{name}({left}, {right})", "boolean", does)
            yield (
                f"CREATE OPERATOR public.{sign}"
                f" (leftarg = {left}, rightarg = {right}, function = public.{name});"
            )


def _trap(seen: str, signature: str, result: str, does: str, declared: str = "") -> str:
    """One that counts by a sequence, and so also in a transaction that is rolled back."""
    return f"""
        CREATE SEQUENCE public."{seen}";
        GRANT USAGE ON SEQUENCE public."{seen}" TO PUBLIC;
        CREATE FUNCTION public.{signature} RETURNS {result} LANGUAGE plpgsql AS $$
        DECLARE {declared} BEGIN
            PERFORM pg_catalog.nextval('public."{seen}"'::pg_catalog.regclass);
            {does};
        END $$;
    """
