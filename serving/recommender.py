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
from .pipeline.eligibility import EligibilityFilter, restrict_catalog
from .pipeline.encode import FeatureEncoder, to_tensors
from .pipeline.explore import explore_last_slot
from .pipeline.popular_items import PopularityFallback
from .pipeline.request_state import RequestState, run_with_history
from .pipeline.slate_builder import RankedItems, Retrieved, SlateBuilder
from .pipeline.slate_policy import SlatePolicy, impute_margins, objective, select_slates
from .pipeline.state_cache import LRUCache, query_fingerprint
from .resilience.deadline import (
    Deadline,
    StageSkipped,
    StageStats,
    error_message,
    finite_output,
    set_single_thread,
)
from .resilience.thread_pool import ThreadPool
from .storage import golden_requests
from .storage.bundle import MANIFEST, Bundle, BundleError, Candidates, open_bundle
from .stores.base import EMPTY_HISTORY, Store, UserHistory
from .stores.uri import open_store

MAX_OVERFETCH = 200  # excluded items for which the search asks for more instead of filtering
STAGES = ("store", "encode", "query_tower", "index", "candidates", "ranker", "slate")
EMPTY_ROWS = np.zeros([1, 0], np.int64)
STORE_TIMEOUT_MS = 20.0  # that the store may take: without a history the rest of the pipeline still ranks
SLATE_RESERVE_MS = 2.0  # before the deadline in which six items are put together from what there is
CACHE_SIZE = 20_000  # slates, query vectors and users' last slates
MAX_THREADS = 64  # requests under way, those included that nobody waits for any more


class Recommender:
    """Answers checkouts from one bundle. Safe to share between threads; the modules release the GIL."""

    def __init__(self, bundle: Bundle, store: Store | None = None) -> None:
        self.bundle = bundle
        self.store = store
        self.feature_encoder = FeatureEncoder(bundle.manifest["features"], bundle.item_rows, bundle.price)
        self.eligibility_filter = EligibilityFilter(bundle.available, bundle.category, bundle.item_rows)
        self.popularity_fallback = PopularityFallback(
            bundle.fallback_rank, bundle.leaf, bundle.items_by_popularity, bundle.items_by_leaf
        )
        self.slate_builder = SlateBuilder(bundle, self.popularity_fallback)
        try:
            self.policy = SlatePolicy(**bundle.manifest["slate"])
            self.item_margins = impute_margins(bundle.margin) if self.policy.margin else None
        except (TypeError, ValueError) as error:
            raise BundleError(bundle.folder / MANIFEST, str(error), "export again") from error
        self.item_vectors = bundle.catalog[-1].numpy()
        self.n_ann_candidates = int(bundle.manifest["candidates"]["ann"])
        self.exploration_rate = 0.0  # chance that the last slot explores (serving/pipeline/explore.py)
        self.rng = np.random.default_rng()
        self.stage_stats = StageStats(STAGES)
        self.pipeline_pool = ThreadPool(MAX_THREADS, "pipeline", set_single_thread)
        self.store_pool = ThreadPool(MAX_THREADS, "asking", set_single_thread)  # pipelines that ask the store
        self.slate_cache: LRUCache[RankedItems] = LRUCache(
            CACHE_SIZE
        )  # by state of the user and what was asked
        self.query_vector_cache: LRUCache[bytes] = LRUCache(CACHE_SIZE)  # query vectors by state
        self.last_slate_cache: LRUCache[RankedItems] = LRUCache(CACHE_SIZE)  # by user

    @classmethod
    def load(cls, path: str | Path, store: Store | str | Path | None = None) -> "Recommender":
        """Load a version folder, or a bundle root's `current`, and replay its golden requests.

        Sets torch and faiss to one thread in this process: a worker serves one request at a time, and
        each library would start a pool of its own. What the process holds by then is kept from the garbage
        collector, which else stops a request for 0.1 s now and then to look through it. `store` is a Store
        or its URI (serving/stores/base.py); without one a checkout must bring its history. Raises BundleError
        for a bundle that must not serve, and what `open_store` raises.
        """
        set_single_thread()
        recommender = cls(open_bundle(path), open_store(store) if isinstance(store, str | Path) else store)
        requests = golden_requests.read_golden_requests(recommender.bundle)
        unhurried = partial(recommender.recommend, deadline_ms=math.inf)
        golden_requests.replay_golden_requests(unhurried, recommender.bundle.folder, requests)
        recommender.warm_up([checkout for checkout, _ in requests])
        _freeze_garbage_collector()
        return recommender

    def warm_up(self, checkouts: list[Checkout]) -> None:
        """Answer each of the checkouts, twice if they are few, and note how long every stage takes. Then a
        thread of the pipeline for every core answers one, so that no request is its first."""
        seen: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for checkout in checkouts * (2 if len(checkouts) < 50 else 1):
            slate = self.recommend(checkout, deadline_ms=math.inf)
            for stage in STAGES:
                seen[stage].append(slate.timings.get(stage, 0.0))
        self.stage_stats.expected_ms = {
            stage: median(taken) if taken else 0.0 for stage, taken in seen.items()
        }
        cores = min(os.cpu_count() or 1, MAX_THREADS)
        together = threading.Barrier(2 * cores)

        def one() -> None:
            together.wait()
            self.recommend(checkouts[0], deadline_ms=math.inf)

        for task in [
            some.submit(one) for some in (self.pipeline_pool, self.store_pool) for _ in range(cores)
        ]:
            task.wait()

    def recommend(
        self,
        checkout: Checkout,
        deadline_ms: float = 100.0,
        revenue_weight: float | None = None,
        start_time: float | None = None,
        exploration_rate: float | None = None,
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
        policy, exploration_rate = (
            self.policy_for(revenue_weight),
            self.exploration_rate if exploration_rate is None else exploration_rate,
        )
        clock = Deadline(deadline_ms, self.stage_stats, start_time)
        attempt = RequestState(checkout, self.eligibility_filter(checkout), policy, clock, exploration_rate)
        late = self._run_first_attempt(attempt)
        if late and clock.remaining_ms() > SLATE_RESERVE_MS:
            clock = clock.new_attempt()
            attempt = replace(attempt, deadline=clock, best_result=None, reasons=[late])
            late = clock.run_in_pool(
                self.pipeline_pool, SLATE_RESERVE_MS, partial(self._try_pipeline, attempt, EMPTY_HISTORY)
            )
        reasons = [*attempt.reasons, late] if late else list(attempt.reasons)
        if isinstance(best := attempt.best_result, Retrieved):  # read once: its thread may go on
            best = best.to_ranked_items()
        return self._build_slate(checkout, attempt.eligible, best, reasons, clock)

    def _run_first_attempt(self, attempt: RequestState) -> str:
        """The attempt, and why it was left, if it was. A store may hang for good: those that ask it have
        threads of their own, so that it keeps none from those that go on without it."""
        clock, user_id, breaker = (
            attempt.deadline,
            attempt.checkout.user_id,
            self.stage_stats.breakers["store"],
        )
        without = partial(self._try_pipeline, attempt, EMPTY_HISTORY)
        if self.store is None or user_id is None:
            return clock.run_in_pool(self.pipeline_pool, SLATE_RESERVE_MS, without)
        if breaker.abandoned >= MAX_THREADS:
            attempt.reasons.append(f"store: {breaker.abandoned} calls have not returned")
            return clock.run_in_pool(self.pipeline_pool, SLATE_RESERVE_MS, without)
        rest: list[Callable[[UserHistory], None]] = [partial(self._try_pipeline, attempt)]
        asking = partial(run_with_history, self.store, user_id, clock, attempt.reasons, rest)
        threads = self.pipeline_pool if breaker.is_open else self.store_pool
        late = clock.run_in_pool(threads, SLATE_RESERVE_MS, asking, "store", STORE_TIMEOUT_MS)
        rest.clear()
        return late

    def fallback_slate(self, checkout: Checkout, reason: str, start_time: float | None = None) -> Slate:
        """What `recommend` gives when no stage can run: the user's last slate, else what is popular. In this
        thread, and in some 0.1 ms."""
        clock = Deadline(0.0, self.stage_stats, start_time)
        return self._build_slate(checkout, self.eligibility_filter(checkout), None, [reason], clock)

    def _build_slate(
        self,
        checkout: Checkout,
        allowed: NDArray,
        best: RankedItems | None,
        reasons: list[str],
        clock: Deadline,
    ) -> Slate:
        if best is None and checkout.user_id is not None:
            best = self.last_slate_cache.get(checkout.user_id)
        items, tier = self.slate_builder(checkout, allowed, best, reasons)
        return Slate(
            items=tuple(items),
            tier=tier,
            reason="; ".join(reasons),
            timings=clock.timings_ms(),
            request_id=token_hex(16),
            bundle_version=self.bundle.version,
        )

    def policy_for(self, revenue_weight: float | None) -> SlatePolicy:
        """The bundle's policy, with another weight if one is given. Raises ValueError as `recommend` does."""
        return self.policy if revenue_weight is None else replace(self.policy, revenue_weight=revenue_weight)

    def _try_pipeline(self, attempt: RequestState, stored: UserHistory) -> None:
        try:
            self._pipeline(attempt, stored)
        except Exception as error:
            attempt.reasons.append(error_message(error))

    @torch.inference_mode()
    def _pipeline(self, attempt: RequestState, stored: UserHistory) -> None:
        """Set `attempt.best` to what each tier that works would show, one after the other."""
        bundle, catalog, clock = self.bundle, self.bundle.catalog, attempt.deadline
        checkout, reasons = attempt.checkout, attempt.reasons
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        columns = clock.run_stage("encode", self.feature_encoder.encode_arrays, checkout, stored, ts)
        remembers = not math.isinf(clock.deadline_ms)  # else somebody measures, or verifies
        now = query_fingerprint(columns) if remembers else b""
        within = None if checkout.categories is None else frozenset(checkout.categories)
        asked = now, attempt.policy, frozenset(checkout.exclude), within
        # What is drawn is drawn for every answer.
        if remembers and not attempt.exploration_rate and (slate := self.slate_cache.get(asked)) is not None:
            attempt.best_result = slate
            return
        query = to_tensors(columns)
        if remembers and (known := self.query_vector_cache.get(now)) is not None:
            vector = torch.frombuffer(bytearray(known), dtype=torch.float32).unsqueeze(0)
        else:
            vector = clock.run_stage("query_tower", finite_output, bundle.query_tower, query, catalog[-1])
        ann = clock.run_stage_or_default(
            "index", EMPTY_ROWS, reasons, self._search, vector, checkout, attempt.eligible
        )
        if ann.size and ann[0, 0] >= 0:  # if all that follows fails
            attempt.best_result = Retrieved(ann[0])
        if attempt.eligible is not bundle.available:  # else items that may not be shown take places
            catalog = restrict_catalog(catalog, attempt.eligible)
        near = torch.from_numpy(ann)
        found = Candidates(
            *clock.run_stage("candidates", finite_output, bundle.candidates, query, vector, near, catalog)
        )
        if found.item.numel() == 0:
            raise StageSkipped("candidates: no source proposed anything")
        item, mask = found.item.numpy(), found.source.numpy()
        attempt.best_result = Retrieved(item, mask, found.score.numpy())
        scores = clock.run_stage("ranker", finite_output, bundle.ranker, query, vector, found, catalog)
        click, purchase, spend = (part.numpy() for part in scores)
        allowed, policy = attempt.eligible, attempt.policy
        shown = clock.run_stage("slate", self._select_candidates, allowed, policy, item, purchase, spend)
        propensity = None
        if remembers and attempt.exploration_rate:
            score = self._score(policy, item, purchase, spend)
            shown, chances = explore_last_slot(
                shown, score, allowed[item], attempt.exploration_rate, self.rng
            )
            propensity = tuple(chances.tolist())
        parts = (tuple(part[shown].tolist()) for part in (item, mask, click, purchase, purchase * spend))
        attempt.best_result = best = RankedItems("ranked", *parts)._replace(propensity=propensity)
        if remembers and not reasons:
            if not attempt.exploration_rate:
                self.slate_cache.put(asked, best)
            self.query_vector_cache.put(now, vector.numpy().tobytes())
            if checkout.user_id is not None:
                self.last_slate_cache.put(checkout.user_id, best._replace(tier="cached"))

    def _select_candidates(
        self, allowed: NDArray, policy: SlatePolicy, item: NDArray, purchase: NDArray, spend: NDArray
    ) -> NDArray:
        """Positions of the candidates [n] that the policy shows, best first; fewer than six if n is."""
        column = self.select_batch(allowed, policy, item[None], purchase[None], spend[None])[0]
        return column[column >= 0]

    def select_batch(
        self, allowed: NDArray, policy: SlatePolicy, item: NDArray, purchase: NDArray, spend: NDArray
    ) -> NDArray:
        """The same for n checkouts with candidates [n, C], padded by row 0: [n, 6], -1 for none."""
        score = self._score(policy, item, purchase, spend)
        return select_slates(score, allowed[item], item, self.bundle.leaf, self.item_vectors, policy).column

    def _score(self, policy: SlatePolicy, item: NDArray, purchase: NDArray, spend: NDArray) -> NDArray:
        """What a policy orders by, of candidates of any shape."""
        margin = None if self.item_margins is None else self.item_margins[item]
        return objective(purchase, spend, policy.revenue_weight, margin)

    def _search(self, vector: Tensor, checkout: Checkout, allowed: NDArray) -> NDArray:
        """[1, K] rows of what is near and may be shown, -1 behind the last."""
        more = len(checkout.exclude)
        if checkout.categories is not None or more > MAX_OVERFETCH:
            return self.bundle.index.search(vector.numpy(), self.n_ann_candidates, allowed)
        rows = self.bundle.index.search(vector.numpy(), self.n_ann_candidates + more)
        # Cheaper than a filter: as many more as are taken out again.
        return rows[:, (rows[0] >= 0) & allowed[rows[0]]][:, : self.n_ann_candidates] if more else rows


@cache
def _freeze_garbage_collector() -> None:
    """Take all objects that the process has now out of garbage collection until it exits. Once: these are
    what the libraries made, a later bundle has few, and to look through remembered slates takes time."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules report leaks for what is still frozen at exit
