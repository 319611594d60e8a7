"""Training of the two towers: sampled softmax over what each checkout led to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytorch_lightning as pl
import torch
from torch import Tensor

from data.io.batches import Batch
from data.io.parquet import iter_slices
from models.embeddings import pack_int8, unpack_int8
from models.jagged import rank_in_segment, segment_ids
from models.retrieval.item_tower import item_encoder_inputs
from models.retrieval.losses import sampled_softmax_loss
from models.retrieval.recent_events import mask_users
from models.retrieval.two_tower import TwoTower
from models.schema import Catalog, ItemText
from training.distributed import processes
from training.distributed.sharding import dense_parameters, shard, to_device

RECALL_CUTOFFS = (100, 300, 500)


class RetrievalTask(pl.LightningModule):
    """One step: B checkouts, up to `positives` outcomes of each, `uniform` random items.

    Args:
        build: makes the TwoTower.
        catalog, text: facts of the items.
        price: [N+1] the price table that the item tower reads.
        probability: [N+1] chance that a drawn positive is this item, see `positive_probability`.
        trained: [N+1] bool, items whose id was ever a positive, in this training or before.
        learning_rate, table_learning_rate: of AdamW and of the tables' row-wise Adagrad.
        user_dropout: share of checkouts whose user is hidden in training, so that the basket alone is
            understood too (DropoutNet, Volkovs et al. 2017, section 3).
        sharding, start: how tables lie in processes, and weights to start from
        (`training.distributed.sharding.shard`).
    """

    def __init__(
        self,
        build: Callable[[], TwoTower],
        catalog: Catalog,
        text: ItemText,
        price: Tensor,
        probability: Tensor,
        trained_mask: Tensor,
        learning_rate: float,
        table_learning_rate: float,
        temperature: float,
        positives: int,
        uniform_negatives: int,
        user_dropout: float,
        seed: int,
        sharding: str = "auto",
        initial_weights: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.build = build
        self.catalog, self.text, self.price, self.probability = catalog, text, price, probability
        self.trained_mask = trained_mask
        self.learning_rate, self.table_learning_rate = learning_rate, table_learning_rate
        self.temperature, self.positives, self.uniform_negatives, self.seed = (
            temperature,
            positives,
            uniform_negatives,
            seed,
        )
        self.user_dropout, self.sharding, self.initial_weights = user_dropout, sharding, initial_weights
        self.model: Any = None  # a DistributedModelParallel, once configured

    def configure_model(self) -> None:
        if self.model is None:
            towers = self.build()
            device = self.trainer.strategy.root_device
            self.catalog, self.text = to_device(self.catalog, device), to_device(self.text, device)
            self.price, self.probability = self.price.to(device), self.probability.to(device)
            self.model = shard(towers, self.table_learning_rate, device, self.sharding, self.initial_weights)
            self.model.module.item_encoder.trained_mask.copy_(self.trained_mask)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        dense = dense_parameters(self.model)
        return torch.optim.AdamW(dense, lr=self.learning_rate, weight_decay=1e-3, fused=True)

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        # Draws depend on seed, step and process alone, so that a resumed run repeats them.
        torch.manual_seed(
            (self.seed * 1_000_003 + self.global_step) * processes.world_size() + processes.rank()
        )
        items, device = self.catalog.leaf.numel() - 1, self.device
        owner, positive = draw_positives(batch, self.positives)
        counts = processes.all_gather_rows(
            torch.tensor([[batch.query.ts.numel(), positive.numel()]], device=device)
        )
        if positive.numel() == 0 and processes.world_size() == 1:
            return None  # several processes must all go on: Lightning allows no step to be skipped
        uniform = local_share(self.uniform_negatives)
        negative = torch.randint(1, items + 1, [uniform], device=device)
        rows = torch.cat([positive, negative])
        hidden = torch.rand(batch.query.ts.shape, device=device) < self.user_dropout
        query, vectors = self.model(
            mask_users(batch.query, hidden), rows, self.catalog, self.text, self.price
        )
        # What other processes drew are negatives too: the batch is one, however many share it.
        first, start = counts[: processes.rank()].sum(0).tolist()
        together, query, vectors = processes.all_gather_rows, query.float(), vectors.float()
        with torch.autocast(device.type, enabled=False):  # inner products over a temperature need all bits
            loss = sampled_softmax_loss(
                query, together(vectors[: positive.numel()]), together(vectors[positive.numel() :]),
                together(positive), together(negative), together(owner + first), self.probability,
                self.uniform_negatives, items, self.temperature, slice(start, start + positive.numel()),
                first,
            )  # fmt: skip
        loss = loss * processes.world_size()  # gradients are averaged over the processes
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=query.shape[0])
        return loss

    def on_validation_epoch_start(self) -> None:
        self.packed_vectors = encode_items(self.model.module, self.catalog, self.text, self.price)
        self.vectors = unpack_int8(self.packed_vectors)
        self.hits: list[Tensor] = []
        # Of histories and baskets: how many rows are 0, and how many there are.
        self.unknown_counts = {part: torch.zeros(2, device=self.device) for part in ("history", "basket")}

    def validation_step(self, batch: Batch, index: int) -> None:
        nothing = batch.query.history_item[:0]
        query, _ = self.model.module(batch.query, nothing, self.catalog, self.text, self.price)
        found = exact_top_k(query, self.vectors, self.catalog.available, max(RECALL_CUTOFFS))
        self.hits.append(count_hits(found, batch))
        for part, items in (("history", batch.query.history_item), ("basket", batch.query.basket_item)):
            self.unknown_counts[part] += torch.tensor([(items == 0).sum(), items.numel()], device=self.device)

    def on_validation_epoch_end(self) -> None:
        # [n, 1 + len(RECALL_AT)] purchases, found in the first k
        hits = processes.all_gather_rows(torch.cat(self.hits))
        asked = hits[hits[:, 0] > 0]
        for i, k in enumerate(RECALL_CUTOFFS):
            recall = (asked[:, i + 1] / asked[:, 0]).mean() if len(asked) else torch.tensor(0.0)
            self.log(f"recall_{k}", recall, prog_bar=k == 300, sync_dist=True)  # the same everywhere
        for part, counts in self.unknown_counts.items():
            missing, rows = processes.all_gather_rows(counts.unsqueeze(0)).sum(0)
            self.log(f"unknown_{part}", missing / rows.clamp_min(1), sync_dist=True)


def local_share(count: int) -> int:
    """This process's part of `count` things."""
    return (
        count * (processes.rank() + 1) // processes.world_size()
        - count * processes.rank() // processes.world_size()
    )


def draw_positives(batch: Batch, limit: int) -> tuple[Tensor, Tensor]:
    """Up to `limit` random purchases of each checkout: which checkout [P], which item [P]."""
    bought = batch.outcomes.purchase
    owner, item = segment_ids(batch.outcomes.offsets)[bought], batch.outcomes.item[bought]
    kept = rank_in_segment(owner, torch.rand(owner.shape, device=owner.device)) < limit
    return owner[kept], item[kept]


def positive_probability(examples: Path, rows: int, items: int, limit: int) -> Tensor:
    """Chance that a positive drawn by `draw_positives` from the first `rows` is each item: [items]."""
    drawn = torch.zeros(items, dtype=torch.float64)
    for table in iter_slices(examples, ["outcome_item", "outcome_purchase"], 0, rows, 65_536):
        lengths = torch.from_numpy(pc.list_value_length(table["outcome_item"]).to_numpy().astype("int64"))
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        item = torch.from_numpy(pc.list_flatten(table["outcome_item"]).to_numpy().astype("int64"))
        flags = pc.list_flatten(table["outcome_purchase"]).to_numpy(zero_copy_only=False)
        bought = torch.from_numpy(flags > 0)
        owner, item = owner[bought], item[bought]
        count = torch.bincount(owner, minlength=len(lengths))
        share = count.clamp_max(limit)[owner] / count[owner].double()  # chance that this purchase is drawn
        drawn.index_add_(0, item, share)
    return (drawn / drawn.sum().clamp_min(1e-12)).float()


@torch.no_grad()
def encode_items(
    tower: TwoTower, catalog: Catalog, text: ItemText, price: Tensor, chunk: int = 8192
) -> Tensor:
    """Item vectors of the whole catalog, row-wise int8: uint8 [N+1, D+8]."""
    parts = []
    for rows in torch.arange(catalog.leaf.numel(), device=catalog.leaf.device).split(chunk):
        vectors = tower.item_encoder(*item_encoder_inputs(rows, catalog, text, price))
        parts.append(pack_int8(vectors.masked_fill((rows == 0).unsqueeze(1), 0.0)))  # unknown: points nowhere
    return torch.cat(parts)


def exact_top_k(query: Tensor, vectors: Tensor, available: Tensor, k: int) -> Tensor:
    """Exact search: the k available items of largest inner product, [B, min(k, N)], -1 where too few."""
    with torch.autocast(query.device.type, enabled=False):
        scores = (query.float() @ vectors.T).masked_fill(~available, -torch.inf)
    top = scores.topk(min(k, scores.shape[1] - 1), dim=1)
    return top.indices.masked_fill(top.values == -torch.inf, -1)


def count_hits(found: Tensor, batch: Batch) -> Tensor:
    """Per checkout: purchases, and how many of them are in the first k of `found`, k in RECALL_AT."""
    bought = batch.outcomes.purchase
    owner, item = segment_ids(batch.outcomes.offsets)[bought], batch.outcomes.item[bought]
    equal = found[owner] == item.unsqueeze(1)  # [purchases, k]
    counts = torch.stack(
        [torch.ones_like(item)] + [equal[:, :k].any(1).long() for k in RECALL_CUTOFFS], dim=1
    )
    return counts.new_zeros(found.shape[0], counts.shape[1]).index_add_(0, owner, counts).float()
