"""Measures the training speed of torch-rechub's own model, loader and trainer.

The data are the rows of benchmarks/workload.py.

    <environment>/bin/python benchmarks/rechub_peer.py FILE ROWS      prints samples per second of one epoch

The data are in memory. The script runs in a separate environment, so it imports nothing of this project.
"""

import json
import sys
import time

import pyarrow.parquet as pq
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

# As in benchmarks/workload.py, whose imports this environment may lack.
VOCABULARIES = [1_000_000] * 2 + [100_000] * 5 + [1_000] * 13
LABELS = ["click", "purchase"]
BATCH_SIZE = 4_096


def main(file: str, rows: int) -> None:
    with pq.ParquetFile(file) as parquet_file:
        table = next(parquet_file.iter_batches(rows))
    features = [SparseFeature(f"f{i}", vocab_size=size, embed_dim=16) for i, size in enumerate(VOCABULARIES)]
    x = {feature.name: table[feature.name].to_numpy().astype("int64") for feature in features}
    y = table.select(LABELS).to_pandas().to_numpy()
    loader, _, _ = DataGenerator(x, y).generate_dataloader(
        x_val=x, y_val=y, x_test=x, y_test=y, batch_size=BATCH_SIZE
    )
    model = MMOE(
        features,
        ["classification"] * len(LABELS),
        n_expert=8,
        expert_params={"dims": [256, 128]},
        tower_params_list=[{"dims": [64]}] * len(LABELS),
    )
    trainer = MTLTrainer(model, ["classification"] * len(LABELS))
    step = trainer.optimizer.step
    step_ends: list[float] = []

    def timed_step(*arguments: object) -> None:
        step(*arguments)
        step_ends.append(time.perf_counter())

    trainer.optimizer.step = timed_step
    trainer.train_one_epoch(loader)
    seconds = step_ends[-1] - step_ends[1]  # the first two steps warm up
    print(json.dumps({"samples_per_s": BATCH_SIZE * (len(step_ends) - 2) / seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
