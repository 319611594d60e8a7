"""Item lists of one library on the known orders that benchmarks/public_libraries.py wrote.

    <environment>/bin/python benchmarks/public_peers.py SASRec|ALS|BPR|ItemKNN FOLDER SEED

Reads FOLDER/known.npz; writes FOLDER/<system>-<seed>.npy with [U, 10] items, -1 for no item. The script runs
in a separate environment, so it imports nothing of this project.
"""

import sys
from pathlib import Path

import numpy as np

DEPTH = 10
MAX_EPOCHS, PATIENCE = 100, 3
FACTORS, ITERATIONS, NEIGHBOURS = 64, 30, 100
EVENTS_PER_USER = 50


def main(system, folder, seed):
    with np.load(folder / "known.npz") as known:
        user, item, order = known["user"], known["item"], known["order"]
        drop_bought = bool(known["is_leave_one_out"])
    lists = SYSTEMS[system](user, item, order, drop_bought, folder, seed)
    np.save(folder / f"{system}-{seed}.npy", lists)


def sasrec(user, item, order, drop_bought, folder, seed):
    """Train RecTools' SASRec with sampled softmax, with early stopping by the loss on users' last items."""
    import pandas as pd
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.transformers.utils import leave_one_out_mask

    pl.seed_everything(seed)
    interactions = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Weight: 1.0})
    interactions[Columns.Datetime] = pd.Timestamp("2014-01-01") + pd.to_timedelta(order, unit="D")

    def trainer():
        best = ModelCheckpoint(folder / f"SASRec-{seed}", "best", SASRecModel.val_loss_name, mode="min")
        stopping = EarlyStopping(SASRecModel.val_loss_name, patience=PATIENCE, verbose=True)
        return pl.Trainer(
            max_epochs=MAX_EPOCHS, callbacks=[stopping, best, TQDMProgressBar(50)], logger=False,
            accelerator="cpu",
        )  # fmt: skip

    model = SASRecModel(
        n_blocks=2, n_heads=2, n_factors=FACTORS, session_max_len=EVENTS_PER_USER, loss="sampled_softmax",
        n_negatives=256, get_val_mask_func=leave_one_out_mask, get_trainer_func=trainer, verbose=1,
        recommend_torch_device="cpu",
    )  # fmt: skip
    dataset = Dataset.construct(interactions)
    model.fit(dataset)
    best_model = model.fit_trainer.checkpoint_callback.best_model_path  # RecTools trains with a copy
    model.load_weights_from_checkpoint(best_model)
    users = np.arange(user.max() + 1)
    rows = model.recommend(users, dataset, DEPTH, filter_viewed=drop_bought)
    lists = np.full((len(users), DEPTH), -1, np.int64)
    lists[rows[Columns.User], rows[Columns.Rank] - 1] = rows[Columns.Item]
    return lists


def implicit_lists(build):
    """Return a function that trains a model of implicit on the users' item counts, and ranks items.

    `build` returns the model for a seed.
    """

    def lists(user, item, order, drop_bought, folder, seed):
        from scipy import sparse

        counts = sparse.csr_matrix((np.ones(len(user), np.float32), (user, item)))
        model = build(seed)
        model.fit(counts)
        users = np.arange(counts.shape[0])
        items, scores = model.recommend(users, counts, DEPTH, filter_already_liked_items=drop_bought)
        items = items.astype(np.int64)
        items[scores <= np.finfo(np.float32).min] = -1  # implicit's filler of short lists
        return items

    return lists


def build_als(seed):
    from implicit.cpu.als import AlternatingLeastSquares

    return AlternatingLeastSquares(FACTORS, iterations=ITERATIONS, random_state=seed)


def build_bpr(seed):
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    return BayesianPersonalizedRanking(FACTORS, iterations=3 * ITERATIONS, random_state=seed)


def build_item_knn(seed):
    from implicit.nearest_neighbours import CosineRecommender

    return CosineRecommender(NEIGHBOURS)


SYSTEMS = {
    "SASRec": sasrec,
    "ALS": implicit_lists(build_als),
    "BPR": implicit_lists(build_bpr),
    "ItemKNN": implicit_lists(build_item_knn),
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
