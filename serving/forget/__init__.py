"""Removes users from stores, logs, exported histories and running workers."""
