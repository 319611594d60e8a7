"""A simulated market whose probabilities are known: catalog, people and behaviour are functions of arrays.

`data/sources/simulated.py` and `simulation/population.py` let time pass. This room does no I/O and imports no
other room.
"""
