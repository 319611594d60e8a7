"""Keeps requests within their time, by deadlines, circuit breakers, thread pools and admission control."""
