"""Keeps requests within their time: deadline, circuit breaker, thread pools, admission."""
