"""Exploration policies in a simulated shop: their regret, and the impressions that new items get.

    simulated_shop.py ─ checkouts ─▶ policies.py ─ slates ─▶ simulated_shop.py ─ responses ─▶ learner.py ─╮
                                         ▲                                                               │
                                         ╰────────────────── posteriors for the next day ◀───────────────╯

comparison.py runs every policy in the same shops and computes the regret; page.py draws the regret.
docs/results/exploration.md has the results; docs/explanation/exploration.md derives advice for `--explore`.
"""
