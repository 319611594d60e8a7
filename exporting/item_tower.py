"""The serving form of the item tower. It encodes new items without ids, in plain torch."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from exporting.exportable_run import ExportableRun, load_item_tower
from models.embeddings import pack_int8, unpack_int8
from models.lowering import FloatTables
from models.retrieval.item_sales import item_sales
from models.retrieval.item_tower import ItemEncoder, ItemFeatures
from models.torchscript import to_torchscript
from serving.live_items.item_features import ITEM_TOWER_FILE
from training.prepared_data import training_prices


class NewItemTower(nn.Module):
    """Encodes items that were never sold and have no id as packed vectors.

    Args:
        encoder: the trained item tower. Copies replace its tables; the id table keeps the unknown id's row.
        usual_price: the usual price of the shop's items in training.
        sales: [n_sales] the sales columns in the vector of an item without sales.
    """

    usual_price: Tensor
    sales: Tensor

    def __init__(self, encoder: ItemEncoder, usual_price: Tensor, sales: Tensor) -> None:
        super().__init__()
        tables = FloatTables(encoder.embeddings)
        tables.tables[0] = tables.tables[0][:1].clone()  # the largest: a row per item
        self.encoder = copy.copy(encoder)
        self.encoder._modules = {**encoder._modules, "embeddings": tables}
        self.encoder._buffers = {**encoder._buffers, "trained_mask": encoder.trained_mask[:1].clone()}
        self.register_buffer("usual_price", usual_price.clone())
        self.register_buffer("sales", sales)

    def forward(
        self,
        category: Tensor,
        brand: Tensor,
        attributes: Tensor,
        content: Tensor,
        price: Tensor,
        tokens: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Returns the row-wise int8 vectors [U, D+8] of U items.

        Args:
            category: [U, L] codes. brand: [U] codes. attributes: [U, A] codes.
            content: [U, E+8] uint8, row-wise int8; [U, 0] for none.
            price: [U] float32, 0 for unknown.
            tokens: ids [ΣT], lengths [U], weights [ΣT].
        """
        values = unpack_int8(content) if content.shape[1] > 0 else price.new_zeros(price.numel(), 0)
        features = ItemFeatures(category, brand, attributes, values, price, self.usual_price, tokens)
        packed = pack_int8(self.encoder(torch.zeros_like(brand), features))
        n_sales = self.sales.numel()
        if n_sales > 0:
            vectors = unpack_int8(packed)
            vectors = vectors.narrow(1, 0, vectors.shape[1] - n_sales)
            packed = pack_int8(torch.cat([vectors, self.sales.expand(price.numel(), n_sales)], dim=1))
        return packed


def new_item_tower(run: ExportableRun, unsold_row: int) -> NewItemTower:
    """The serving form of a run's item tower; `unsold_row` is the row of a catalog item without sales."""
    encoder = load_item_tower(run)
    sales = torch.zeros(0)
    if encoder.n_sales > 0:
        sales = item_sales(run.catalog, torch.zeros(1, dtype=torch.int64), torch.tensor([unsold_row]))[0]
    return NewItemTower(encoder, training_prices(run.prepared)[0], sales).eval()


def save_item_tower(run: ExportableRun, unsold_row: int, folder: Path) -> None:
    """Write `item_tower.ts`."""
    to_torchscript(new_item_tower(run, unsold_row)).save(str(folder / ITEM_TOWER_FILE))
