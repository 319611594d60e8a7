"""A small shop around the HTTP service, `python -m storefront`.

Its page uses only public routes, like any shop's page.

page/ ─ GET /shop/… ─▶ app ─▶ catalog_queries: items, households, past orders
      ╰ POST /v1/recommendations, /v1/checkouts, /v1/feedback ─▶ serving/http, unchanged
"""
