"""Alembic's environment: runs revisions on the connection that `bot.store.migrations.upgrade` holds."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=False,  # the caller's transaction holds all of it
)
context.run_migrations()
