"""Where events come from: the log, the doorbell, and the questions asked of the database.

Everything that speaks SQL to a running database is here, over asyncpg. No table of the platform is
named in Python: what is known of tables lies in the SQL of `migrations/sql`.
"""
