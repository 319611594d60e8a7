"""Meanings of config keys that have no comment in their file, because their name stands for the field's term.

A key here is the end of a config key: `split.test_start` is the meaning of `data.split.test_start`.
"""

SOURCE = "candidates that this source may propose; 0 turns it off"
CLASS_SETTING = "see the class"
KEY_MEANINGS = {
    "_target_": "the class or function",
    "bundle.dir": "the bundle root: a folder, or s3://, gs://, abfs://",
    "data.days": "length of the simulated log in days",
    "data.items": "number of simulated items",
    "data.users": "number of simulated users",
    "data.name": "the source module in data/sources/",
    "index.name": "name of this file",
    "split.validation_start": "first instant of the validation split; null: by share",
    "split.test_start": "first instant of the test split; null: by share",
    "split.test_end": "instant at which the test split ends; null: the end of the mature checkouts",
    "split.validation_share": "share of the mature checkouts in the validation split",
    "split.test_share": "share of the mature checkouts in the test split",
    "features.tokens_per_item": "title words kept of an item",
    "csv.name": CLASS_SETTING,
    "csv.save_dir": CLASS_SETTING,
    "tensorboard.default_hp_metric": CLASS_SETTING,
    "tensorboard.name": CLASS_SETTING,
    "tensorboard.save_dir": CLASS_SETTING,
    "wandb.offline": CLASS_SETTING,
    "wandb.project": CLASS_SETTING,
    "wandb.resume": CLASS_SETTING,
    "wandb.save_dir": CLASS_SETTING,
    "mlflow.experiment": "name of the MLflow experiment",
    "mlflow.tracking_uri": "URI of the MLflow tracking server or database",
    "paths.prepared": "folder of prepared data",
    "paths.runs": "folder of runs",
    "run": "the run to export: a folder, a URI or an MLflow run id",
    "seed": "seed of all random draws of the training",
    "model.attribute_dim": "width of the embedding of an attribute",
    "model.brand_dim": "width of the embedding of a brand",
    "model.leaf_dim": "width of the embedding of a leaf category",
    "multitask.experts": "number of experts",
    "multitask.tower": "width of a task's tower",
    "loss.pointwise": "weight of the loss of each pair",
    "loss.pairwise": "weight of the loss of pairs of candidates",
    "loss.lambda": "weight of the LambdaRank loss",
    "train.epochs": "most epochs",
    "train.max_steps": "most steps",
    "train.learning_rate": "learning rate of the dense layers",
    "train.table_learning_rate": "learning rate of the embedding tables",
    "model.dim": "width of the vectors of items and queries",
    "item.brand_dim": "width of the embedding of a brand",
    "item.category_dim": "width of the embedding of a category level",
    "item.token_dim": "width of the embedding of a title word",
    "item.hidden": "width of the hidden layer of the item tower",
    "query.hidden": "width of the hidden layer of the query tower",
    "blocks.layers": "number of attention layers",
    "blocks.dropout": "share of activations that training drops",
    "blocks.gated": "whether the layers are gated (LiGR)",
    "sources.ann": SOURCE,
    "sources.buy_again": SOURCE,
    "sources.category": SOURCE,
    "sources.co_purchase": SOURCE,
    "sources.ease": SOURCE,
    "sources.popularity": SOURCE,
    "sources.recency": SOURCE,
    "sources.transitions": SOURCE,
    "trainer.accelerator": "cpu or gpu",
    "trainer.progress": "whether progress is printed",
    "extra.limit_train_batches": "Lightning: batches of a training epoch",
    "extra.limit_val_batches": "Lightning: batches of a validation",
    "extra.log_every_n_steps": "Lightning: steps between two log entries",
    "kind": "binary, amount or count",
    "label": "the label of the log that the task predicts",
    "given": "the earlier binary task that must have happened",
    "weight": "weight of the task's loss",
    "ranking": "share of the ranking losses that order by this output",
}


def meaning_of(path: str) -> str:
    """The meaning of a key by the longest end that has one; empty where none has."""
    parts = path.split(".")
    for start in range(len(parts)):
        if meaning := KEY_MEANINGS.get(".".join(parts[start:])):
            return meaning
    return ""
