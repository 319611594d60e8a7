"""The evaluation page: a module per group of sections."""
