"""The registry's schema as a sequence of alembic revisions; `serving.repository` applies them when it opens."""
