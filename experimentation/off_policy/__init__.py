"""Off-policy evaluation: the value of a policy, estimated from the log of another policy.

    impression log ─ logged_checkouts.py ─▶ checkouts, slates, propensities, rewards ─╮
    new bundle ───── replay.py ───────────▶ its slates for these checkouts ───────────┤
                                                                                      ▼
    page.py ◀─ evaluate.py ◀─ estimators.py ◀─ importance_weights.py, plackett_luce.py
                             ╰ incremental.py ◀─ uplift_terms.py, for slates withheld at random

docs/explanation/off_policy.md lists the assumptions of each estimator; docs/results/off_policy.md has the
measured coverage.
"""
