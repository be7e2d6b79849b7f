"""A type of text that ignores case, as the extension citext has, which is not everywhere."""

from __future__ import annotations

from typing import Final

_TYPE: Final = """
CREATE TYPE ci;
CREATE FUNCTION ci_in(cstring) RETURNS ci LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION ci_out(ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE ci (INPUT = ci_in, OUTPUT = ci_out, INTERNALLENGTH = VARIABLE, STORAGE = extended,
    CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (ci AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS ci) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ci_cmp(ci, ci) RETURNS integer LANGUAGE sql IMMUTABLE STRICT
    RETURN bttextcmp(lower($1::text), lower($2::text));
"""
# Not SQL, or the planner would look through them, and see no operator that an index has.
_OPERATORS: Final = "".join(
    f"""
CREATE FUNCTION ci_{name}(ci, ci) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT
    AS 'BEGIN RETURN public.ci_cmp($1, $2) {sign} 0; END';
CREATE OPERATOR {sign} (LEFTARG = ci, RIGHTARG = ci, FUNCTION = ci_{name});
"""
    for name, sign in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">"))
)
_CLASS: Final = """
CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE ci USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 ci_cmp(ci, ci);
"""
CITEXT: Final = _TYPE + _OPERATORS + _CLASS
