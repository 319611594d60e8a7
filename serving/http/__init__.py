"""The HTTP service: `python -m serving http`. It needs the optional packages of `sextet[http]`.

bytes ─ guard (key, metrics) ─ app (routes) ─ desk (who gets a thread) ─ recommender ─▶ slate
                                                ╰─ too late for the models ─▶ fallback, or 503
"""
