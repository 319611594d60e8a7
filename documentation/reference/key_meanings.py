"""Meanings of the config keys that have no comment in a config file.

The names of these keys are terms of the field, or several keys share a line. A key of KEY_MEANINGS is the end
of a config key: `split.test_start` gives the meaning of `data.split.test_start`.
"""

from collections.abc import Mapping

SOURCE = "largest number of candidates from this source; 0 turns it off"
CLASS_SETTING = "argument of the logger's class"
FILE = "file or folder of the table; null: the file in data.root that is named after the table"
COLUMNS = "names of the table's columns in the files: '{order_id: Invoice}'"
TABLE = "name of the table in the database, or a SELECT; null: the canonical name"
KEY_MEANINGS = {
    "files.orders": FILE,
    "files.items": FILE,
    "files.users": FILE,
    "files.events": FILE,
    "columns.orders": COLUMNS,
    "columns.items": COLUMNS,
    "columns.users": COLUMNS,
    "columns.events": COLUMNS,
    "tables.orders": TABLE,
    "tables.items": TABLE,
    "tables.users": TABLE,
    "tables.events": TABLE,
    "csv.delimiter": "character between two columns of a CSV file",
    "csv.decimal": "decimal mark of numbers in CSV files",
    "csv.time_format": "format of times in CSV files, as in strptime; null: ISO 8601 or Unix seconds",
    "frequency_cap.times": "slates that may show an item to a user who does not click, cart or buy the item",
    "frequency_cap.window": "time before the checkout in which slates count for the frequency cap",
    "optimizer._target_": "class of the optimizer of the dense layers",
    "optimizer.weight_decay": "weight decay of the dense layers",
    "schedule._target_": "learning-rate schedule: constant, warmup_cosine or WarmupStableDecay",
    "loss.listwise": "weight of the listwise softmax loss",
    "item.id_dropout": "share of items whose id is hidden in training, so that features represent new items",
    "item.attribute_dim": "width of the embedding of each item attribute",
    "item.content_dim": "width of the projection of the items' own vectors",
    "item.id_rows": "number of rows of a hashed table of item ids; null: one row per item, not hashed",
    "item.token_rows": "number of rows of a hashed table of title words; null: one row per word, not hashed",
    "item.hashes": "number of rows of a hashed table whose sum represents an id or word",
    "item.id_dim": "width of id vectors in runs before config version 4; null: as wide as item vectors",
    "multitask.hidden": "widths of an expert, or of the network of one task",
    "blocks.heads": "number of attention heads of each layer; must divide retrieval.model.dim",
    "_target_": "dotted path of a class or function",
    "bundle.dir": "the bundle root: a folder, or s3://, gs://, abfs://",
    "data.days": "length of the simulated log in days",
    "data.items": "number of simulated items",
    "data.users": "number of simulated users",
    "data.name": "the source module in data/sources/",
    "index.name": "name of this choice of index",
    "split.validation_start": "first instant of the validation split; null: validation_share sets it",
    "split.test_start": "first instant of the test split; null: test_share sets it",
    "split.test_end": "instant at which the test split ends; null: the end of the mature checkouts",
    "split.validation_share": "share of the mature checkouts in the validation split",
    "split.test_share": "share of the mature checkouts in the test split",
    "features.tokens_per_item": "largest number of title words that are kept per item",
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
    "loss.pointwise": "weight of the pointwise loss of each pair",
    "loss.pairwise": "weight of the pairwise logistic loss",
    "loss.lambda": "weight of the LambdaRank loss",
    "train.epochs": "largest number of epochs",
    "train.max_steps": "largest number of steps",
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
    "extra.limit_train_batches": "largest number of batches of a training epoch (Lightning)",
    "extra.limit_val_batches": "largest number of batches of a validation (Lightning)",
    "extra.log_every_n_steps": "steps between two log entries (Lightning)",
    "kind": "kind of the task: binary, amount or count",
    "label": "label of the log that the task predicts",
    "given": "earlier binary task on which the task is conditional",
    "warm.run": "run folder whose weights a warm start continues, on checkouts since that run; null: none",
    "train.entire_space": "whether chained tasks learn from all candidates; false: where the parent happened",
    "joint": "whether the task reports p(parent) · p(task | parent); false: p(task | parent)",
    "control": "binary task for the label without the slot; this task then reports the uplift over it",
    "weight": "weight of the task's loss",
    "ranking": "share of the ranking losses that order candidates by the task's output",
}


def meaning_of(path: str) -> str:
    """Return the meaning of a config key; "" if there is none."""
    return lookup_longest_end(KEY_MEANINGS, path)


def lookup_longest_end(texts: Mapping[str, str], path: str) -> str:
    """Return the text of the longest end of a dotted path that `texts` has; "" if there is none."""
    parts = path.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((texts[end] for end in ends if end in texts), "")
