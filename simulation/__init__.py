"""A simulated market whose truth is known: catalog, people, behaviour. It does no I/O and imports no other
room."""
