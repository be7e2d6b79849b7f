-- Last in the reference branch: nobody executes these functions who was not granted it. Triggers
-- run regardless, as their owner.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;
