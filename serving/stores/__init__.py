"""Stores of user histories: an Arrow file, SQLite, Valkey or Redis."""
