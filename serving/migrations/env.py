"""Run by alembic: applies revisions on the connection that `serving.repository` hands over, within its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
