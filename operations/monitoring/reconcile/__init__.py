"""Explains why offline and online disagree. It replays logged requests and ranks causes by effect size.

log ─ requests ─▶ replay ─ differs? ─▶ input_causes:   skewed feature, stale cache, leaked label
  ╰─ outcomes ───────────────────────▶ outcome_causes: late labels, position effect, changed traffic mix
"""
