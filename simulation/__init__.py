"""A simulated market whose probabilities are known: functions of arrays.

    catalog, people     items and users
    behaviour, needs    what users click and buy, and what they buy with or without a slot
    logged_market       time passes, block by block, under the shop's own policy (data/sources/simulated.py)
    population          time passes, day by day, under any recommender

This room does no I/O and imports no other room.
"""
