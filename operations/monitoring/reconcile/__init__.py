"""Why offline and online disagree: logged requests are replayed, and causes are ranked by effect size.

log ─ requests ─▶ replay ─ differs? ─▶ input_causes:   skewed feature, stale cache, leaked label
  ╰─ outcomes ───────────────────────▶ outcome_causes: late labels, position effect, changed traffic mix
"""
