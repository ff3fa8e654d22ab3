"""Run by Alembic. The connection, its transaction and the lock are `db.workspace.database`'s."""

from alembic import context

from db.workspace.database import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], version_table=VERSION_TABLE, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
