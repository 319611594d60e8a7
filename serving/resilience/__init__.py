"""What keeps a request in time: deadline, circuit breaker, thread pools, admission."""
