"""Exploration policies in a shop whose truth is known: what each costs, and what it brings new items.

    world.py ─ a day's checkouts ─▶ policies.py ─ slates ─▶ world.py ─ clicks, purchases ─▶ learner.py ─╮
                                        ▲                                                             │
                                        ╰──────────────── what is believed tomorrow ◀──────────────────╯

compare.py does this for every policy in the same shops and takes the regret; page.py draws it.
docs/experiments.md says what was measured and what follows for `--explore`.
"""
