"""The recommender: six items inside one deadline, whatever fails.

    store → encode → query_tower → index → candidates → ranker → slate
               ╰─ seen before ─▶ its slate │    ╯         │
       the user's last slate ◀─ fails ─────╯    ╰─ fails ─┴─▶ retrieval order
         ╰─ none ─▶ category popularity ─▶ popularity

A stage that raises, gives a number that is not finite, or has not enough time left is passed over; the next
tier answers and the slate says why. Without a store's history or without index rows the other stages go on.
One that stalls is left behind at the deadline, a store after 20 ms (serving/resilience/deadline.py), and one
that failed several times in a row rests (serving/resilience/circuit_breaker.py).
"""

import atexit
import gc
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkout import Checkout, Slate
from .pipeline.eligibility import Eligible, among
from .pipeline.encode import Encoder, tensors
from .pipeline.explore import explored
from .pipeline.popular_items import Popular
from .pipeline.request_state import Attempt, ask_first
from .pipeline.slate_builder import Fill, Near, Scored
from .pipeline.slate_policy import Policy, known_margins, objective, select
from .pipeline.state_cache import Cache, state
from .resilience.deadline import Clock, Skipped, Stages, finite, one_thread, reason_of
from .resilience.thread_pool import Threads
from .storage import golden_requests
from .storage.bundle import MANIFEST, Bundle, BundleError, Found, open_bundle
from .stores.base import NOTHING, Facts, Store
from .stores.uri import open_store

FEW = 200  # excluded items for which the search asks for more instead of filtering
STAGES = ("store", "encode", "query_tower", "index", "candidates", "ranker", "slate")
NO_ROWS = np.zeros([1, 0], np.int64)
STORE_MS = 20.0  # that the store may take: without a history the rest of the pipeline still ranks
FILL_MS = 2.0  # before the deadline in which six items are put together from what there is
REMEMBERED = 20_000  # slates, query vectors and users' last slates
THREADS = 64  # requests under way, those included that nobody waits for any more


class Recommender:
    """Answers checkouts from one bundle. Safe to share between threads; the modules release the GIL."""

    def __init__(self, bundle: Bundle, store: Store | None = None) -> None:
        self.bundle = bundle
        self.store = store
        self.encoder = Encoder(bundle.manifest["features"], bundle.row_of, bundle.price)
        self.eligible = Eligible(bundle.available, bundle.category, bundle.row_of)
        self.popular = Popular(bundle.fallback_rank, bundle.leaf, bundle.popular, bundle.popular_by_leaf)
        self.fill = Fill(bundle, self.popular)
        try:
            self.policy = Policy(**bundle.manifest["slate"])
            self.margin = known_margins(bundle.margin) if self.policy.margin else None
        except (TypeError, ValueError) as error:
            raise BundleError(bundle.folder / MANIFEST, str(error), "export again") from error
        self.vectors = bundle.catalog[-1].numpy()
        self.ann = int(bundle.manifest["candidates"]["ann"])
        self.explore = 0.0  # chance that the last slot explores (serving/pipeline/explore.py)
        self.rng = np.random.default_rng()
        self.stages = Stages(STAGES)
        self.threads = Threads(THREADS, "pipeline", one_thread)
        self.asking = Threads(THREADS, "asking", one_thread)  # pipelines that ask the store
        self.slates: Cache[Scored] = Cache(REMEMBERED)  # by state of the user and what was asked
        self.vectors_of: Cache[bytes] = Cache(REMEMBERED)  # query vectors by state
        self.last: Cache[Scored] = Cache(REMEMBERED)  # by user

    @classmethod
    def load(cls, path: str | Path, store: Store | str | Path | None = None) -> "Recommender":
        """Load a version folder, or a bundle root's `current`, and replay its golden requests.

        Sets torch and faiss to one thread in this process: a worker serves one request at a time, and
        each library would start a pool of its own. What the process holds by then is kept from the garbage
        collector, which else stops a request for 0.1 s now and then to look through it. `store` is a Store
        or its URI (serving/stores/base.py); without one a checkout must bring its history. Raises BundleError
        for a bundle that must not serve, and what `open_store` raises.
        """
        one_thread()
        recommender = cls(open_bundle(path), open_store(store) if isinstance(store, str | Path) else store)
        requests = golden_requests.read(recommender.bundle)
        unhurried = partial(recommender.recommend, deadline_ms=math.inf)
        golden_requests.replay(unhurried, recommender.bundle.folder, requests)
        recommender.warm_up([checkout for checkout, _ in requests])
        _keep_from_collector()
        return recommender

    def warm_up(self, checkouts: list[Checkout]) -> None:
        """Answer each of the checkouts, twice if they are few, and note how long every stage takes. Then a
        thread of the pipeline for every core answers one, so that no request is its first."""
        seen: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for checkout in checkouts * (2 if len(checkouts) < 50 else 1):
            slate = self.recommend(checkout, deadline_ms=math.inf)
            for stage in STAGES:
                seen[stage].append(slate.timings.get(stage, 0.0))
        self.stages.expected = {stage: median(taken) if taken else 0.0 for stage, taken in seen.items()}
        cores = min(os.cpu_count() or 1, THREADS)
        together = threading.Barrier(2 * cores)

        def one() -> None:
            together.wait()
            self.recommend(checkouts[0], deadline_ms=math.inf)

        for task in [some.submit(one) for some in (self.threads, self.asking) for _ in range(cores)]:
            task.wait()

    def recommend(
        self,
        checkout: Checkout,
        deadline_ms: float = 100.0,
        revenue_weight: float | None = None,
        started: float | None = None,
        explore: float | None = None,
    ) -> Slate:
        """Six distinct items that are available, in the categories asked for and not excluded, best first.

        Never raises for a checkout that could be made. With fewer than six such items in the whole catalog
        it returns those there are, and says so in `reason`.

        Args:
            deadline_ms: from now on, or from `started` (time.perf_counter) where the request waited before.
                A stage starts only if what is left covers what it takes, and is left behind when it is over.
            revenue_weight: from 0 (most purchases) to 1 (most revenue), as in
                serving.pipeline.slate_policy.Policy; None for the bundle's own. Raises ValueError for
                anything else.
            explore: chance that the last slot explores; None for the recommender's own.
        """
        if not isinstance(checkout, Checkout):
            raise TypeError(f"recommend takes a serving.Checkout, not a {type(checkout).__name__}")
        policy, explore = self.policy_for(revenue_weight), self.explore if explore is None else explore
        clock = Clock(deadline_ms, self.stages, started)
        attempt = Attempt(checkout, self.eligible(checkout), policy, clock, explore)
        late = self._first(attempt)
        if late and clock.left() > FILL_MS:
            clock = clock.again()
            attempt = replace(attempt, clock=clock, best=None, reasons=[late])
            late = clock.wait(self.threads, FILL_MS, partial(self._predict, attempt, NOTHING))
        reasons = [*attempt.reasons, late] if late else list(attempt.reasons)
        if isinstance(best := attempt.best, Near):  # read once: its thread may go on
            best = best.scored()
        return self._slate(checkout, attempt.allowed, best, reasons, clock)

    def _first(self, attempt: Attempt) -> str:
        """The attempt, and why it was left, if it was. A store may hang for good: those that ask it have
        threads of their own, so that it keeps none from those that go on without it."""
        clock, user_id, breaker = attempt.clock, attempt.checkout.user_id, self.stages.breakers["store"]
        without = partial(self._predict, attempt, NOTHING)
        if self.store is None or user_id is None:
            return clock.wait(self.threads, FILL_MS, without)
        if breaker.lost >= THREADS:
            attempt.reasons.append(f"store: {breaker.lost} calls have not returned")
            return clock.wait(self.threads, FILL_MS, without)
        rest: list[Callable[[Facts], None]] = [partial(self._predict, attempt)]
        asking = partial(ask_first, self.store, user_id, clock, attempt.reasons, rest)
        threads = self.threads if breaker.resting else self.asking
        late = clock.wait(threads, FILL_MS, asking, "store", STORE_MS)
        rest.clear()
        return late

    def fall_back(self, checkout: Checkout, reason: str, started: float | None = None) -> Slate:
        """What `recommend` gives when no stage can run: the user's last slate, else what is popular. In this
        thread, and in some 0.1 ms."""
        clock = Clock(0.0, self.stages, started)
        return self._slate(checkout, self.eligible(checkout), None, [reason], clock)

    def _slate(
        self, checkout: Checkout, allowed: NDArray, best: Scored | None, reasons: list[str], clock: Clock
    ) -> Slate:
        if best is None and checkout.user_id is not None:
            best = self.last.get(checkout.user_id)
        items, tier = self.fill(checkout, allowed, best, reasons)
        return Slate(
            items=tuple(items),
            tier=tier,
            reason="; ".join(reasons),
            timings=clock.finish(),
            request_id=token_hex(16),
            bundle_version=self.bundle.version,
        )

    def policy_for(self, revenue_weight: float | None) -> Policy:
        """The bundle's policy, with another weight if one is given. Raises ValueError as `recommend` does."""
        return self.policy if revenue_weight is None else replace(self.policy, revenue_weight=revenue_weight)

    def _predict(self, attempt: Attempt, stored: Facts) -> None:
        try:
            self._pipeline(attempt, stored)
        except Exception as error:
            attempt.reasons.append(reason_of(error))

    @torch.inference_mode()
    def _pipeline(self, attempt: Attempt, stored: Facts) -> None:
        """Set `attempt.best` to what each tier that works would show, one after the other."""
        bundle, catalog, clock = self.bundle, self.bundle.catalog, attempt.clock
        checkout, reasons = attempt.checkout, attempt.reasons
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        columns = clock.run("encode", self.encoder.columns, checkout, stored, ts)
        remembers = not math.isinf(clock.deadline_ms)  # else somebody measures, or verifies
        now = state(columns) if remembers else b""
        within = None if checkout.categories is None else frozenset(checkout.categories)
        asked = now, attempt.policy, frozenset(checkout.exclude), within
        # What is drawn is drawn for every answer.
        if remembers and not attempt.explore and (slate := self.slates.get(asked)) is not None:
            attempt.best = slate
            return
        query = tensors(columns)
        if remembers and (known := self.vectors_of.get(now)) is not None:
            vector = torch.frombuffer(bytearray(known), dtype=torch.float32).unsqueeze(0)
        else:
            vector = clock.run("query_tower", finite, bundle.query_tower, query, catalog[-1])
        ann = clock.optional("index", NO_ROWS, reasons, self._search, vector, checkout, attempt.allowed)
        if ann.size and ann[0, 0] >= 0:  # if all that follows fails
            attempt.best = Near(ann[0])
        if attempt.allowed is not bundle.available:  # else items that may not be shown take places
            catalog = among(catalog, attempt.allowed)
        near = torch.from_numpy(ann)
        found = Found(*clock.run("candidates", finite, bundle.candidates, query, vector, near, catalog))
        if found.item.numel() == 0:
            raise Skipped("candidates: no source proposed anything")
        item, mask = found.item.numpy(), found.source.numpy()
        attempt.best = Near(item, mask, found.score.numpy())
        scores = clock.run("ranker", finite, bundle.ranker, query, vector, found, catalog)
        click, purchase, spend = (part.numpy() for part in scores)
        allowed, policy = attempt.allowed, attempt.policy
        shown = clock.run("slate", self._choose, allowed, policy, item, purchase, spend)
        propensity = None
        if remembers and attempt.explore:
            score = self._score(policy, item, purchase, spend)
            shown, chances = explored(shown, score, allowed[item], attempt.explore, self.rng)
            propensity = tuple(chances.tolist())
        parts = (tuple(part[shown].tolist()) for part in (item, mask, click, purchase, purchase * spend))
        attempt.best = best = Scored("ranked", *parts)._replace(propensity=propensity)
        if remembers and not reasons:
            if not attempt.explore:
                self.slates.put(asked, best)
            self.vectors_of.put(now, vector.numpy().tobytes())
            if checkout.user_id is not None:
                self.last.put(checkout.user_id, best._replace(tier="cached"))

    def _choose(
        self, allowed: NDArray, policy: Policy, item: NDArray, purchase: NDArray, spend: NDArray
    ) -> NDArray:
        """Positions of the candidates [n] that the policy shows, best first; fewer than six if n is."""
        column = self.choose_rows(allowed, policy, item[None], purchase[None], spend[None])[0]
        return column[column >= 0]

    def choose_rows(
        self, allowed: NDArray, policy: Policy, item: NDArray, purchase: NDArray, spend: NDArray
    ) -> NDArray:
        """The same for n checkouts with candidates [n, C], padded by row 0: [n, 6], -1 for none."""
        score = self._score(policy, item, purchase, spend)
        return select(score, allowed[item], item, self.bundle.leaf, self.vectors, policy).column

    def _score(self, policy: Policy, item: NDArray, purchase: NDArray, spend: NDArray) -> NDArray:
        """What a policy orders by, of candidates of any shape."""
        margin = None if self.margin is None else self.margin[item]
        return objective(purchase, spend, policy.revenue_weight, margin)

    def _search(self, vector: Tensor, checkout: Checkout, allowed: NDArray) -> NDArray:
        """[1, K] rows of what is near and may be shown, -1 behind the last."""
        more = len(checkout.exclude)
        if checkout.categories is not None or more > FEW:
            return self.bundle.index.search(vector.numpy(), self.ann, allowed)
        rows = self.bundle.index.search(vector.numpy(), self.ann + more)
        # Cheaper than a filter: as many more as are taken out again.
        return rows[:, (rows[0] >= 0) & allowed[rows[0]]][:, : self.ann] if more else rows


@cache
def _keep_from_collector() -> None:
    """Take all objects that the process has now out of garbage collection until it exits. Once: these are
    what the libraries made, a later bundle has few, and to look through remembered slates takes time."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules report leaks for what is still frozen at exit
