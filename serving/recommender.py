"""The recommender: six items inside one deadline, whatever fails.

    stage         result                                    if it fails or times out
    store         history and profile of the user           rank without a history (pipeline/store_read.py)
    encode        the checkout as tensors                   cached
    query_tower   query vector                              cached
    index         nearest eligible items                    candidates of the other sources only
    candidates    candidates of all sources                 retrieval: the index's items
    ranker        predictions of every task                 retrieval: candidates by inner product
    slate         order by objective and slate policy       retrieval: candidates by inner product

    tiers: ranked → retrieval → cached (the user's last slate) → category (bestsellers) → popularity

The best tier with a result answers, lower tiers fill empty slots, and `Slate.reason` names the failures. A
stage fails if it raises, returns a number that is not finite, has too little time left
(serving/resilience/deadline.py), or has an open circuit breaker (serving/resilience/circuit_breaker.py).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkout import Checkout, Slate
from .pipeline.eligibility import EligibilityFilter, EligibleItems
from .pipeline.encode import FeatureEncoder, QueryArrays, to_tensors
from .pipeline.frequency import count_impressions
from .pipeline.last_slates import LastSlateCache
from .pipeline.popular_items import PopularityFallback
from .pipeline.rank import PredictionRows, RankedItems, Retrieved, SlateSelector
from .pipeline.ranked_slate import rank_slate
from .pipeline.request_ids import new_request_id
from .pipeline.request_state import RequestState
from .pipeline.rules.catalog import RuleCatalog
from .pipeline.rules.rule_set import RuleSet
from .pipeline.search import EMPTY_ROWS, search_eligible
from .pipeline.slate_builder import SlateBuilder
from .pipeline.slate_policy import SlatePolicy
from .pipeline.state_cache import LRUCache, filter_fingerprint, query_fingerprint
from .pipeline.store_read import HistoryReader, read_and_rank
from .resilience.deadline import (
    SLATE_RESERVE_MS,
    Deadline,
    StageSkipped,
    StageStats,
    error_message,
    finite_output,
)
from .resilience.runtime import freeze_garbage_collector, set_single_thread
from .resilience.thread_pool import ThreadPool
from .resilience.warm_up import warm_up
from .storage import golden_requests
from .storage.bundle import MANIFEST, Bundle, BundleError, Candidates, open_bundle
from .storage.formats import manifest_slate
from .stores.base import UNREAD_HISTORY, Store, UserHistory
from .stores.quarantine import CorruptHistories
from .stores.uri import open_store

STAGES = ("store", "encode", "query_tower", "index", "candidates", "ranker", "slate")
CACHE_SIZE = 20_000  # slates, query vectors and users' last slates, each
CACHE_BYTES = 48 * 2**20  # most bytes of each
MAX_THREADS = 64  # of each pool: concurrent requests, abandoned ones included


class Recommender:
    """Answers checkouts from one bundle. Safe to share between threads; the modules release the GIL."""

    def __init__(self, bundle: Bundle, store: Store | None = None) -> None:
        self.bundle = bundle
        self.store = store
        self.corrupt_histories = CorruptHistories()
        self.feature_encoder = FeatureEncoder(bundle.manifest["features"], bundle.item_rows, bundle.price)
        self.eligibility_filter = EligibilityFilter(bundle.available, bundle.category, bundle.item_rows)
        self.popularity_fallback = PopularityFallback(
            bundle.fallback_rank, bundle.leaf, bundle.items_by_popularity, bundle.items_by_leaf,
            bundle.catalog.orders_28d[0].numpy(),
        )  # fmt: skip
        self.slate_builder = SlateBuilder(bundle, self.popularity_fallback)
        try:
            self.policy = SlatePolicy(**manifest_slate(bundle.manifest))
            self.slate_selector = SlateSelector.of_bundle(bundle, self.policy)
        except (TypeError, ValueError) as error:
            raise BundleError(bundle.folder / MANIFEST, str(error), "export again") from error
        self.item_vectors = bundle.catalog[-1].numpy()
        self.task_rows = PredictionRows.of_tasks(bundle.tasks)
        self.n_ann_candidates = int(bundle.manifest["candidates"]["ann"])
        self.rules = RuleSet(RuleCatalog(bundle))  # of the shop (docs/how_to/rules.md)
        self.exploration_rate = 0.0  # chance that the last slot explores (serving/pipeline/explore.py)
        self.viewed_impressions_only = False  # whether the frequency cap counts only slates that were viewed
        self.rng = np.random.default_rng()
        self.stage_stats = StageStats(STAGES)
        self.pipeline_pool = ThreadPool(MAX_THREADS, "pipeline", set_single_thread)
        self.store_pool = ThreadPool(MAX_THREADS, "store", set_single_thread)  # store, then pipeline
        self.slate_cache: LRUCache[RankedItems] = LRUCache(
            CACHE_SIZE, CACHE_BYTES, RankedItems.estimate_bytes
        )  # by state, policy and filters
        self.query_vector_cache: LRUCache[bytes] = LRUCache(CACHE_SIZE, CACHE_BYTES, len)  # by state
        self.last_slates = LastSlateCache(CACHE_SIZE, CACHE_BYTES)

    @classmethod
    def load(
        cls, path: str | Path, store: Store | str | Path | None = None, trust: Sequence[Path] = ()
    ) -> "Recommender":
        """Load a version folder, or a bundle root's `current`, and replay its golden requests.

        Sets torch and faiss to one thread in this process: each worker serves one request at a time. Freezes
        the process's objects out of garbage collection, whose pauses would reach 0.1 s.

        Args:
            store: a Store or its URI (serving/stores/base.py). Without a store, only `Checkout.history` is
                used.
            trust: public keys, one of which must have signed the version; none to accept any version.

        Raises BundleError for a bundle that must not serve, and the errors of `open_store`.
        """
        set_single_thread()
        store = open_store(store) if isinstance(store, str | Path) else store
        recommender = cls(open_bundle(path, trust), store)
        requests = golden_requests.read_golden_requests(recommender.bundle)
        recommend = partial(recommender.recommend, deadline_ms=math.inf)
        golden_requests.replay_golden_requests(recommend, recommender.bundle.folder, requests)
        warm_up(
            [checkout for checkout, _ in requests],
            lambda checkout: recommend(checkout).timings,
            recommender.stage_stats,
            (recommender.pipeline_pool, recommender.store_pool),
        )
        freeze_garbage_collector()
        return recommender

    def recommend(
        self,
        checkout: Checkout,
        deadline_ms: float = 100.0,
        revenue_weight: float | None = None,
        start_time: float | None = None,
        exploration_rate: float | None = None,
    ) -> Slate:
        """Six distinct eligible items, best first.

        Eligible items are available, in the requested categories, not excluded and not just bought
        (serving/pipeline/exclusion.py). Never raises for a valid Checkout. If the catalog has fewer than six
        such items, the slate has all of them, and its `reason` says so.

        Args:
            deadline_ms: milliseconds after `start_time`. `math.inf`, to measure or verify, switches off the
                caches and exploration.
            revenue_weight: from 0 (most purchases) to 1 (most revenue), as in SlatePolicy; None for the
                bundle's. Raises ValueError for other values.
            start_time: time.perf_counter of the arrival; None for now.
            exploration_rate: chance that the last slot explores; None for the recommender's.
        """
        if not isinstance(checkout, Checkout):
            raise TypeError(f"recommend takes a serving.Checkout, not a {type(checkout).__name__}")
        policy = self.policy_for(revenue_weight)
        if exploration_rate is None:
            exploration_rate = self.exploration_rate
        deadline = Deadline(deadline_ms, self.stage_stats, start_time)
        if deadline.is_infinite:
            exploration_rate = 0.0
        request = RequestState(
            checkout, self.eligible_items(checkout, policy), policy, deadline, exploration_rate
        )
        abandon_reason = self._run_first_attempt(request)
        if abandon_reason and deadline.remaining_ms() > SLATE_RESERVE_MS:
            deadline = deadline.new_attempt()
            request = replace(request, deadline=deadline, best_result=None, reasons=[abandon_reason])
            abandon_reason = self._run_without_history(request)
        reasons = [*request.reasons, abandon_reason] if abandon_reason else list(request.reasons)
        result = request.best_result  # read once: an abandoned thread may still set it
        ranked = result.to_ranked_items() if isinstance(result, Retrieved) else result
        return self._build_slate(checkout, request.eligible, ranked, reasons, deadline)

    def fallback_slate(self, checkout: Checkout, reason: str, start_time: float | None = None) -> Slate:
        """The slate that needs no stage: the user's last slate, else popular items.

        The call runs in the calling thread and takes about 0.1 ms.
        """
        deadline = Deadline(0.0, self.stage_stats, start_time)
        eligible = self.eligible_items(checkout, self.policy)
        return self._build_slate(checkout, eligible, None, [reason], deadline)

    def eligible_items(
        self,
        checkout: Checkout,
        policy: SlatePolicy,
        query: QueryArrays | None = None,
        stored_profile: Mapping[str, str] | None = None,
    ) -> EligibleItems:
        """The items that a request may show under the rules of the shop.

        `query` (see EligibilityFilter.eligible_items) and `stored_profile` are known once the store was read.
        """
        # Rules know an item before it is available: taken in this order, none is shown before they do.
        available = self.eligibility_filter.available_items
        compiled = self.rules.compiled
        if compiled is None:
            return self.eligibility_filter.eligible_items(checkout, policy, query, None, available)
        if self.store is None or checkout.user_id is None:
            stored_profile = {}
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        rules = compiled.in_force(checkout, ts, stored_profile)
        return self.eligibility_filter.eligible_items(checkout, policy, query, rules, available)

    def policy_for(self, revenue_weight: float | None) -> SlatePolicy:
        """The bundle's policy, with `revenue_weight` if given. Raises ValueError as `recommend` does."""
        return self.policy if revenue_weight is None else replace(self.policy, revenue_weight=revenue_weight)

    def _build_slate(
        self,
        checkout: Checkout,
        eligible: EligibleItems,
        ranked: RankedItems | None,
        reasons: list[str],
        deadline: Deadline,
    ) -> Slate:
        if ranked is None:
            ranked, capped = self.last_slates.show(checkout)
            eligible = eligible.without_capped(capped)
        cap = self.policy.product_cap
        built = self.slate_builder.build(checkout, eligible, ranked, cap, reasons)
        return Slate(
            items=built.items,
            tier=built.tier,
            reason="; ".join(reasons),
            timings=deadline.timings_ms(),
            request_id=new_request_id(item.item_id for item in built.items),
            bundle_version=self.bundle.version,
            rules=built.rules,
        )

    def _run_first_attempt(self, request: RequestState) -> str:
        """Run the attempt with the user's history. Returns "", or why the attempt was abandoned.

        A store may never return. Store reads therefore run in a separate pool, and take no thread from
        requests without a history.
        """
        user_id, breaker = request.checkout.user_id, self.stage_stats.breakers["store"]
        if self.store is None or user_id is None:
            return self._run_without_history(request)
        if breaker.abandoned >= MAX_THREADS:
            request.reasons.append(f"store: {breaker.abandoned} calls have not returned")
            return self._run_without_history(request)
        pool = self.pipeline_pool if breaker.is_open else self.store_pool
        reader = HistoryReader(self.store, self.corrupt_histories)
        return read_and_rank(reader, request, partial(self._try_pipeline, request), pool)

    def _run_without_history(self, request: RequestState) -> str:
        """Run the attempt with an empty history. Returns "", or why the attempt was abandoned."""
        rank = partial(self._try_pipeline, request, UNREAD_HISTORY)
        return request.deadline.run_in_pool(self.pipeline_pool, rank)

    def _try_pipeline(self, request: RequestState, history: UserHistory) -> None:
        try:
            self._run_pipeline(request, history)
        except Exception as error:
            request.reasons.append(error_message(error))

    @torch.inference_mode()
    def _run_pipeline(self, request: RequestState, history: UserHistory) -> None:
        """Set `request.best_result`, tier by tier, to the best result so far."""
        checkout, deadline = request.checkout, request.deadline
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        columns = deadline.run_stage("encode", self.feature_encoder.encode_arrays, checkout, history, ts)
        compiled = self.rules.compiled
        if compiled is not None and compiled.reads_profile and history is not UNREAD_HISTORY:
            request.eligible = self.eligible_items(checkout, request.policy, stored_profile=history.profile)
        filter_purchases = self.eligibility_filter.without_purchases
        request.eligible = filter_purchases(request.eligible, request.policy, columns)
        shown = count_impressions(
            request.policy.frequency_cap, checkout, history, ts, self.viewed_impressions_only
        )
        capped = self.eligibility_filter.capped_rows(request.policy, shown)
        request.eligible = request.eligible.without_capped(capped)
        state = b"" if deadline.is_infinite else query_fingerprint(columns)
        if state and request.eligible.generation:
            state += request.eligible.generation.to_bytes(8)
        filters = filter_fingerprint(checkout.exclude, checkout.categories, capped)
        rules = None if request.eligible.rules is None else request.eligible.rules.key
        slate_key = state, request.policy, filters, rules
        # An exploring slot is drawn anew for every answer.
        if state and not request.exploration_rate and (cached := self.slate_cache.get(slate_key)) is not None:
            request.best_result = cached
            return
        query = to_tensors(columns)
        vector = self._query_vector(deadline, state, query)
        candidates, catalog = self._retrieve(request, query, vector)
        request.best_result = ranked = self._rank(request, query, vector, candidates, catalog)
        if state and not request.reasons:
            if not request.exploration_rate:
                self.slate_cache.put(slate_key, ranked)
            self.query_vector_cache.put(state, vector.numpy().tobytes())
            item_ids = [self.slate_builder.item_id[row] for row in ranked.item_row]
            self.last_slates.put(checkout, ranked, item_ids, request.policy.frequency_cap, shown)

    def _query_vector(self, deadline: Deadline, state: bytes, query: tuple[Tensor, ...]) -> Tensor:
        """The query vector [1, D], from the cache or the query tower."""
        if state and (cached := self.query_vector_cache.get(state)) is not None:
            return torch.frombuffer(bytearray(cached), dtype=torch.float32).unsqueeze(0)
        vector: Tensor = deadline.run_stage(
            "query_tower", finite_output, self.bundle.query_tower, query, self.bundle.catalog[-1]
        )
        return vector

    def _retrieve(
        self, request: RequestState, query: tuple[Tensor, ...], vector: Tensor
    ) -> tuple[Candidates, tuple[Tensor, ...]]:
        """The candidates, and the catalog of eligible items from which the sources chose."""
        bundle, deadline, eligible = self.bundle, request.deadline, request.eligible
        ann_rows = deadline.run_stage_or_default(
            "index", EMPTY_ROWS, request.reasons,
            search_eligible, bundle.index, vector, self.n_ann_candidates, eligible,
        )  # fmt: skip
        if ann_rows.size and ann_rows[0, 0] >= 0:
            request.best_result = Retrieved(ann_rows[0])
        catalog = eligible.restrict_catalog(bundle.catalog)
        fields = deadline.run_stage(
            "candidates", finite_output,
            bundle.candidates, query, vector, torch.from_numpy(ann_rows), catalog,
        )  # fmt: skip
        candidates = Candidates(*fields)
        if candidates.item.numel() == 0:
            raise StageSkipped("candidates: no source proposed anything")
        request.best_result = Retrieved(
            candidates.item.numpy(), candidates.source_mask.numpy(), candidates.score.numpy()
        )
        return candidates, catalog

    def _rank(
        self,
        request: RequestState,
        query: tuple[Tensor, ...],
        vector: Tensor,
        candidates: Candidates,
        catalog: tuple[Tensor, ...],
    ) -> RankedItems:
        """Returns the slate of the ranked tier. Its exploring slot is already drawn."""
        outputs = request.deadline.run_stage(
            "ranker", finite_output, self.bundle.ranker, query, vector, candidates, catalog
        )
        return request.deadline.run_stage(
            "slate", rank_slate, self.slate_selector, self.task_rows, request, candidates, outputs.numpy(),
            self.rng,
        )  # fmt: skip
