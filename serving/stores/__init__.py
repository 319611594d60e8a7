"""User histories: Arrow file, SQLite, Valkey or Redis."""
