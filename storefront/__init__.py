"""A small shop around the HTTP service: `python -m storefront`. Its page knows only what any shop's would.

page/ ─ GET /shop/… ─▶ app ─▶ catalog_queries: items, households, past orders
      ╰ POST /v1/recommendations, /v1/checkouts, /v1/feedback ─▶ serving/http, as it is
"""
