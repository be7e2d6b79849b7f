-- Last in the core branch: PostgreSQL lets everybody execute new functions; here nobody may who
-- was not granted it. Triggers run regardless, as their owner.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;
