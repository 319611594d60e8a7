"""Off-policy evaluation: what a policy would have earned, estimated from the log of another one.

    impression log ─ log.py ─▶ checkouts, slates, propensities, rewards ─╮
    new bundle ──── replay.py ─▶ the slates that it would have shown ────┴─ weights.py ─▶ estimators.py

docs/experiments.md says which estimator assumes what, and what was measured.
"""
