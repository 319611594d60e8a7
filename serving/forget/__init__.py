"""Forgetting users: stores, logs, exported histories and running workers."""
