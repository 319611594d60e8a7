"""Why offline and online disagree: logged requests are replayed, and causes ranked by what they explain.

log ─ requests ─▶ replay ─ differs? ─▶ inputs:   skewed feature, stale cache, leaked label
  ╰─ outcomes ───────────────────────▶ outcomes: late labels, position effect, changed traffic mix
"""
