"""A simulated market whose probabilities are known: functions of arrays.

    catalog, people     items and users
    behaviour, needs    clicks and purchases of users, and purchases that happen with or without a slot
    logged_market       simulates block by block, under the shop's own policy (data/sources/simulated.py)
    population          simulates day by day, under any recommender

This package does no I/O and imports no other package of the repository.
"""
