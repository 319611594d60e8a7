"""Training of the two towers: sampled softmax over the items that followed each checkout or order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pytorch_lightning as pl
import torch
from torch import Tensor

from data.io.batches import Batch
from data.io.parquet import iter_slices
from models.embeddings import pack_int8
from models.jagged import segment_ids
from models.retrieval.item_tower import item_encoder_inputs
from models.retrieval.losses import Positives, SampledItems, sampled_softmax_loss
from models.retrieval.order_sequence import order_rows
from models.retrieval.recent_events import hide_profiles, mask_users
from models.retrieval.sequence_encoder import SequenceEncoder
from models.retrieval.two_tower import TwoTower
from models.schema import Catalog, ItemText
from training.distributed import processes
from training.distributed.sharding import dense_parameters, shard, to_device
from training.errors import ConfigError
from training.item_scores import ItemScores, Queries, add_sales, positive_vectors_at, snapshot_at
from training.order_targets import TargetRule, draw_order_targets, draw_outcomes
from training.task_settings import TaskSettings

RECALL_CUTOFFS = (100, 300, 500)
MAX_SELECTION_CUTOFF = 300
NEGATIVE_ITEMS = ("auto", "trained", "all")  # `retrieval.train.negative_items`


@dataclass(frozen=True, kw_only=True)
class TrainingItems:
    """The catalog as input of the item tower in training."""

    catalog: Catalog
    text: ItemText
    price: Tensor  # [N+1] the prices that the item tower reads
    snapshot_dates: Tensor  # [S] int64, Unix seconds, of the catalog's snapshots
    probability: Tensor  # [N+1] that a drawn positive is the item of this row, see `positive_probability`
    trained_mask: Tensor  # [N+1] bool, items that were a positive in this or an earlier training
    negatives: Tensor  # [M] int64, the items that uniform negatives are drawn from

    def to(self, device: torch.device) -> "TrainingItems":
        """The items on a device. `trained_mask` is not moved."""
        return TrainingItems(
            catalog=to_device(self.catalog, device),
            text=to_device(self.text, device),
            price=self.price.to(device),
            snapshot_dates=self.snapshot_dates.to(device),
            probability=self.probability.to(device),
            trained_mask=self.trained_mask,
            negatives=self.negatives.to(device),
        )


class DrawnItems(NamedTuple):
    """The K negative items that a process drew."""

    item: Tensor  # [K] int64
    group: Tensor  # [K] int64, the checkout with this positive, numbered across processes; -1 if uniform


class RetrievalTask(pl.LightningModule):
    """The Lightning module of the two towers.

    One step has B checkouts, up to `positives` outcomes of each checkout, and `uniform_negatives` random
    items.

    A SequenceEncoder learns at every order of the checkouts' histories, from the items that followed it.

    In training the user is hidden for a share `user_dropout` of the checkouts, so that the model learns to
    use the basket alone (DropoutNet, Volkovs et al. 2017, section 3).

    Args:
        build: creates the TwoTower.
        targets: the rule for items that follow an order.
    """

    def __init__(
        self,
        build: Callable[[], TwoTower],
        items: TrainingItems,
        settings: TaskSettings,
        targets: TargetRule,
    ) -> None:
        super().__init__()
        self.targets = targets
        self.build = build
        self.items = items
        self.settings = settings
        self.model: Any = None  # a DistributedModelParallel, once configured
        # By validation metric; `recall` selects the weights.
        self.recall_cutoffs = {f"recall_{k}": k for k in RECALL_CUTOFFS}
        self.recall_cutoffs["recall"] = selection_cutoff(items.price.numel() - 1)

    def configure_model(self) -> None:
        if self.model is None:
            towers = self.build()
            device = self.trainer.strategy.root_device
            self.items = self.items.to(device)
            settings = self.settings
            self.model = shard(
                towers,
                settings.train.table_learning_rate,
                device,
                settings.sharding,
                settings.initial_weights,
                table_optimizer=settings.train.table_optimizer,
            )
            self.model.module.item_encoder.trained_mask.copy_(self.items.trained_mask)

    def configure_optimizers(self) -> Any:
        return self.settings.configure_optimizers([{"params": dense_parameters(self.model)}])

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        torch.manual_seed(self.settings.step_seed(self.global_step))
        train, device, n_checkouts = self.settings.train, self.device, batch.query.ts.numel()
        is_user_hidden = torch.rand([n_checkouts], device=device) < train.user_dropout
        limits = order_limits(self.model.module)
        if limits is None:  # the encoder gives one query vector per checkout
            query, positive = mask_users(batch.query, is_user_hidden), draw_outcomes(batch, train.positives)
            cell = group = torch.arange(n_checkouts, device=device)
            ts = query.ts
        else:
            query, rows = hide_profiles(batch.query, is_user_hidden), order_rows(batch.query, *limits)
            cell, positive = draw_order_targets(batch, rows, self.targets)
            group, ts = cell // rows.ts.shape[1], rows.ts.flatten()[cell]
        positive = positive[:, (positive > 0).any(0)]  # orders with a single item fill only the first column
        known = positive > 0
        counts = processes.all_gather_rows(torch.tensor([[n_checkouts, int(known.sum())]], device=device))
        if not known.any() and processes.world_size() == 1:
            return None  # Lightning cannot skip a step of several processes
        group = group + counts[: processes.rank(), 0].sum()
        drawn, items = self.draw_sample(positive, group, int(counts[:, 1].sum())), self.items
        arguments = query, torch.cat([positive[known], drawn.item]), items.catalog, items.text, items.price
        vector, vectors = self.model(*arguments, None if limits is None else is_user_hidden)
        snapshot = snapshot_at(items.snapshot_dates, ts)
        queries = Queries(vector.flatten(0, -2)[cell].float(), snapshot, group)
        loss = self.loss(queries, vectors.float(), positive, drawn)
        # Gradients are averaged over the processes.
        loss = loss * processes.world_size() / counts[:, 1].sum().clamp_min(1)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=n_checkouts)
        return loss

    def draw_sample(self, positive: Tensor, group: Tensor, n_positives: int) -> "DrawnItems":
        """Draws this process's share of the sampled items: random positives [Q, k], and uniform draws.

        `group` [Q] holds the checkout of each query. `n_positives` counts the positives of all processes.
        """
        train, negatives = self.settings.train, self.items.negatives
        row, column = positive.nonzero(as_tuple=True)
        share = train.in_batch_negatives / max(n_positives, 1)
        kept = torch.rand(row.shape, device=row.device) < share
        drawn = torch.randint(negatives.numel(), [local_share(train.uniform_negatives)], device=row.device)
        return DrawnItems(
            item=torch.cat([positive[row[kept], column[kept]], negatives[drawn]]),
            group=torch.cat([group[row[kept]], torch.full_like(drawn, -1)]),
        )

    def loss(self, queries: Queries, vectors: Tensor, positive: Tensor, drawn: "DrawnItems") -> Tensor:
        """The summed loss of Q queries with positives [Q, k].

        `vectors` are those of the positives and of `drawn`.
        Draws of other processes are negatives too, so the batch does not depend on the number of processes.
        """
        gather, known = processes.all_gather_rows, positive > 0
        n_positives = int(known.sum())
        padded = vectors.new_zeros([*positive.shape, vectors.shape[1]])
        padded = padded.index_put(known.nonzero(as_tuple=True), vectors[:n_positives])
        sampled = SampledItems(
            gather(vectors[n_positives:]),
            gather(drawn.item),
            gather(drawn.group),
            self.items.negatives.numel(),
        )
        with torch.autocast(self.device.type, enabled=False):  # inner products need full precision
            if self.model.module.item_encoder.n_sales > 0:
                padded = positive_vectors_at(self.items.catalog, queries, padded, positive)
                sampled = add_sales(self.items.catalog, queries, sampled)
            return sampled_softmax_loss(
                queries.vector, Positives(padded, positive), sampled, self.items.probability, queries.group
            )

    def on_validation_epoch_start(self) -> None:
        items, towers = self.items, self.model.module
        vectors = encode_items(towers, items.catalog, items.text, items.price)
        catalog = items.catalog._replace(vectors=vectors)
        self.scores = ItemScores(catalog, towers.item_encoder.n_sales)
        self.hits: list[Tensor] = []
        # In histories and baskets: the number of unknown items, and of all items.
        self.unknown_counts = {part: torch.zeros(2, device=self.device) for part in ("history", "basket")}

    def validation_step(self, batch: Batch, index: int) -> None:
        items, no_rows = self.items, batch.query.history_item[:0]
        query, _ = self.model.module(batch.query, no_rows, items.catalog, items.text, items.price)
        top_items = self.scores.nearest(query, batch.query.snapshot, max(self.recall_cutoffs.values()))
        self.hits.append(count_hits(top_items, batch, [*self.recall_cutoffs.values()]))
        for part, rows in (("history", batch.query.history_item), ("basket", batch.query.basket_item)):
            self.unknown_counts[part] += torch.tensor([(rows == 0).sum(), rows.numel()], device=self.device)

    def on_validation_epoch_end(self) -> None:
        # [n, 1 + cutoffs] purchases, and purchases among the first k
        hits = processes.all_gather_rows(torch.cat(self.hits))
        hits = hits[hits[:, 0] > 0]
        for i, name in enumerate(self.recall_cutoffs):
            recall = (hits[:, i + 1] / hits[:, 0]).mean() if len(hits) else torch.tensor(0.0)
            self.log(name, recall, prog_bar=name == "recall_300", sync_dist=True)  # equal in all processes
        for part, counts in self.unknown_counts.items():
            unknown, total = processes.all_gather_rows(counts.unsqueeze(0)).sum(0)
            self.log(f"unknown_{part}", unknown / total.clamp_min(1), sync_dist=True)


def selection_cutoff(n_items: int) -> int:
    """The k of the recall@k that selects the weights: 300, or less in small catalogs."""
    return min(MAX_SELECTION_CUTOFF, max(n_items // 10, 6))


def local_share(count: int) -> int:
    """This process's share of `count`."""
    return (
        count * (processes.rank() + 1) // processes.world_size()
        - count * processes.rank() // processes.world_size()
    )


def order_limits(towers: TwoTower) -> tuple[int, int] | None:
    """The limits of events and orders that a SequenceEncoder reads. None for an encoder of checkouts."""
    encoder = towers.query_encoder
    return (encoder.max_events, encoder.max_orders) if isinstance(encoder, SequenceEncoder) else None


def positive_probability(examples: Path, rows: int, items: int, limit: int) -> Tensor:
    """Returns each item's probability [items] of being a positive that `draw_outcomes` draws.

    The draws are from the first `rows`.
    """
    expected_draws = torch.zeros(items, dtype=torch.float64)
    for table in iter_slices(examples, ["outcome_item", "outcome_purchase"], 0, rows, 65_536):
        lengths = torch.from_numpy(pc.list_value_length(table["outcome_item"]).to_numpy().astype("int64"))
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        item = torch.from_numpy(pc.list_flatten(table["outcome_item"]).to_numpy().astype("int64"))
        purchases = pc.list_flatten(table["outcome_purchase"]).to_numpy(zero_copy_only=False)
        bought = torch.from_numpy(purchases > 0)
        owner, item = owner[bought], item[bought]
        count = torch.bincount(owner, minlength=len(lengths))
        drawn_share = count.clamp_max(limit)[owner] / count[owner].double()
        expected_draws.index_add_(0, item, drawn_share)
    return (expected_draws / expected_draws.sum().clamp_min(1e-12)).float()


def negative_items(choice: str, trained_mask: Tensor, has_facts: bool) -> Tensor:
    """The items from which uniform negatives are drawn (`retrieval.train.negative_items`): [M] int64.

    An item that was never a positive has no trained id and can only be a negative. From such negatives the
    towers learn that items without an id are not bought, independent of their features. This is mostly true,
    and helps if features carry little information. With vectors or sales, features carry more information,
    which such negatives would hide. Then items without an id are not drawn.

    Args:
        choice: `trained` (the items of `trained_mask`), `all`, or `auto`: `trained` with `has_facts`.
        trained_mask: [N+1] bool. If no item is trained, all items can be drawn.
        has_facts: whether item vectors hold sales, or items have vectors of their own.

    Raises ConfigError for any other choice.
    """
    if choice not in NEGATIVE_ITEMS:
        raise ConfigError(f"retrieval.train.negative_items={choice}: expected {', '.join(NEGATIVE_ITEMS)}")
    trained = 1 + trained_mask[1:].nonzero()[:, 0]
    if trained.numel() and (choice == "trained" or (choice == "auto" and has_facts)):
        return trained
    return torch.arange(1, trained_mask.numel())


@torch.no_grad()
def encode_items(
    tower: TwoTower, catalog: Catalog, text: ItemText, price: Tensor, chunk: int = 8192
) -> Tensor:
    """Encodes the whole catalog as row-wise int8 item vectors: uint8 [N+1, D+8]."""
    parts = []
    for rows in torch.arange(catalog.leaf.numel(), device=catalog.leaf.device).split(chunk):
        vectors = tower.item_encoder(*item_encoder_inputs(rows, catalog, text, price))
        parts.append(
            pack_int8(vectors.masked_fill((rows == 0).unsqueeze(1), 0.0))
        )  # the unknown item is the zero vector
    return torch.cat(parts)


def count_hits(top_items: Tensor, batch: Batch, cutoffs: Sequence[int]) -> Tensor:
    """Count each checkout's purchases, and those in the top k of `top_items` [B, K] for k in `cutoffs`."""
    bought = batch.outcomes.purchase
    owner, item = segment_ids(batch.outcomes.offsets)[bought], batch.outcomes.item[bought]
    equal = top_items[owner] == item.unsqueeze(1)  # [purchases, k]
    counts = torch.stack([torch.ones_like(item)] + [equal[:, :k].any(1).long() for k in cutoffs], dim=1)
    return counts.new_zeros(top_items.shape[0], counts.shape[1]).index_add_(0, owner, counts).float()
