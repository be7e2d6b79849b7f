"""The database's schema, as alembic revisions over readable SQL files."""
