"""Baselines that count items, on public sequences: popularity, own frequency, TIFU-KNN, co-occurrence.

Each baseline takes the known orders and returns a list of ten items for every user.
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse

from benchmarks.public_data import Lines, PublicSet, known_lines
from benchmarks.public_metrics import DEPTH, top_columns
from evaluation.jagged import Array, segment_ids, to_offsets

USERS_PER_BLOCK = 512  # bounds the memory of dense rows
CO_OCCURRENCE_STEPS = 3
RANK_DECAY = 0.7  # per order back
COUNT_SMOOTHING = 3
# Hu et al., SIGIR 2020, section 4.3: the setting for Ta-Feng.
GROUPS, ORDER_DECAY, GROUP_DECAY, OWN_SHARE, NEIGHBOURS = 7, 0.9, 0.7, 0.7, 300


def popularity(public: PublicSet) -> Array:
    """Item lists [U, 10] by the number of orders with the item."""
    shape = len(public.user_ids), len(public.item_ids)
    return best_items(public, sparse.csr_matrix(shape))


def own_frequency(public: PublicSet) -> Array:
    """Item lists [U, 10] by the number of the user's orders with the item; popular items fill the rest.

    GP-TopFreq (Li et al., TOIS 2023, section 4). Popularity breaks ties.
    """
    known = known_lines(public)
    return best_items(public, user_item_matrix(public, known, np.ones(len(known.item))))


def tifu_knn(public: PublicSet) -> Array:
    """Lists [U, 10] of TIFU-KNN (Hu et al., SIGIR 2020, section 3).

    A user's vector holds decayed item frequencies. Orders are in groups. Weights decay over the orders of a
    group and over the groups. The score is a weighted mean of the user's vector and the mean vector of the
    nearest users.
    """
    known = known_lines(public)
    vectors = user_item_matrix(public, known, group_weights(public.n_orders[known.user] - 1, known.order))
    squares = np.asarray(vectors.multiply(vectors).sum(1)).ravel()
    n_users = vectors.shape[0]
    k = min(NEIGHBOURS, n_users - 1)

    def scores(start: int, stop: int) -> sparse.csr_matrix:
        distance = squares - 2 * (vectors[start:stop] @ vectors.T).toarray()  # the own square is a constant
        distance[np.arange(stop - start), np.arange(start, stop)] = np.inf
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        offsets = np.arange(stop - start + 1) * k
        mean = sparse.csr_matrix(
            (np.full(nearest.size, 1 / k), nearest.ravel(), offsets), (stop - start, n_users)
        )
        return OWN_SHARE * vectors[start:stop] + (1 - OWN_SHARE) * (mean @ vectors)

    return best_items_of(public, scores)


def co_occurrence(public: PublicSet) -> Array:
    """Return item lists [U, 10] by co-occurrence: pairs up to three orders apart count 1 / distance.

    Pairs are counted in all orders but the last two. A user's score of an item is the sum over the item's
    pairs with the user's known orders. Each order further back multiplies a pair by .7. The sum is divided by
    the root of the item's count plus 3.
    """
    train = known_lines(public, n_held_out=2)
    pairs = co_occurrence_counts(public, train)
    counts = np.bincount(train.item, minlength=len(public.item_ids))
    pairs = pairs @ sparse.diags(1 / np.sqrt(counts + COUNT_SMOOTHING))
    known = known_lines(public)
    back = public.n_orders[known.user] - 2 - known.order
    profile = user_item_matrix(public, known, RANK_DECAY**back)
    return best_items_of(public, lambda start, stop: profile[start:stop] @ pairs)


def co_occurrence_counts(public: PublicSet, train: Lines) -> sparse.csr_matrix:
    """Sum 1 / distance over the item pairs of orders up to CO_OCCURRENCE_STEPS apart: [I, I]."""
    n_items = len(public.item_ids)
    first = to_offsets(public.n_orders)[:-1]
    orders = first[train.user] + train.order  # row among all orders of all users
    owner = segment_ids(to_offsets(public.n_orders))
    of_order = sparse.csr_matrix((np.ones(len(orders)), (orders, train.item)), (len(owner), n_items))
    counts = sparse.csr_matrix((n_items, n_items))
    for distance in range(1, CO_OCCURRENCE_STEPS + 1):
        is_same_user = sparse.diags((owner[distance:] == owner[:-distance]).astype(float))
        pairs = of_order[:-distance].T @ is_same_user @ of_order[distance:]
        counts = counts + (pairs + pairs.T) / distance
    return counts.tocsr()


def group_weights(n_known: Array, order: Array) -> Array:
    """The weight of each order line in its user's vector; all arrays are [M].

    Groups have equal sizes, but later groups may have one order more. Each of the n orders of a group counts
    1 / n, times a decay. Groups are weighted in the same way.
    """
    n_groups = np.minimum(n_known, GROUPS)
    size, n_longer = n_known // n_groups, n_known % n_groups
    first_longer = (n_groups - n_longer) * size  # the first order of a longer group
    is_longer = order >= first_longer
    position, length = np.where(is_longer, order - first_longer, order), size + is_longer
    group = position // length + np.where(is_longer, n_groups - n_longer, 0)
    in_group: Array = ORDER_DECAY ** (length - 1 - position % length) / length
    return in_group * GROUP_DECAY ** (n_groups - 1 - group) / n_groups


def user_item_matrix(public: PublicSet, lines: Lines, weight: Array) -> sparse.csr_matrix:
    """Summed weights of (user, item): [U, I]."""
    shape = len(public.user_ids), len(public.item_ids)
    return sparse.csr_matrix((weight, (lines.user, lines.item)), shape)


def best_items(public: PublicSet, scores: sparse.csr_matrix) -> Array:
    """Item lists [U, 10] by scores [U, I], each 0 or at least 1; see `best_items_of`."""
    return best_items_of(public, lambda start, stop: scores[start:stop], tie=1.0)


def best_items_of(
    public: PublicSet, scores: Callable[[int, int], sparse.csr_matrix], tie: float = 1e-9
) -> Array:
    """Item lists [U, 10] by score; popular items fill the rest.

    Args:
        scores: (start, stop) → scores of the users start … stop - 1, [stop - start, I].
        tie: amount added to the score of the most popular item; less than the smallest score.
    """
    known, n_users = known_lines(public), len(public.user_ids)
    counts = np.bincount(known.item, minlength=len(public.item_ids))
    filler = tie * counts / (counts.max() + 1)
    bought = user_item_matrix(public, known, np.ones(len(known.item)))
    lists = np.full((n_users, DEPTH), -1, np.int64)
    for start in range(0, n_users, USERS_PER_BLOCK):
        stop = min(start + USERS_PER_BLOCK, n_users)
        dense = scores(start, stop).toarray() + filler
        if public.is_leave_one_out:
            dense[bought[start:stop].nonzero()] = -np.inf
        lists[start:stop] = top_columns(dense)
    return lists


COUNTING: dict[str, Callable[[PublicSet], Array]] = {
    "popularity": popularity,
    "GP-TopFreq": own_frequency,
    "TIFU-KNN": tifu_knn,
    "co-occurrence": co_occurrence,
}
