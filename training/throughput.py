"""Training throughput and the share of time that waits for data: in the progress bar and in the loggers."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from training.distributed import processes


class Throughput(pl.Callback):
    """Measures epochs of a `data.io.stream.BatchStream` over all processes, without validation."""

    def __init__(self) -> None:
        self.epoch_start = 0.0
        self.last_batch_end = 0.0
        self.wait_seconds_at_start = 0.0
        self.rows_at_start = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == 0 or not self.epoch_start:  # not 0 if the run was resumed within an epoch
            stream: Any = trainer.train_dataloader
            self.epoch_start = time.monotonic()
            self.wait_seconds_at_start, self.rows_at_start = stream.wait_seconds, stream.rows_received

    def on_train_batch_end(self, *_: Any) -> None:
        self.last_batch_end = time.monotonic()  # validation comes before the epoch ends

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        rates = self.rates(trainer)
        for logger in trainer.loggers if rates else ():
            logger.log_metrics(rates, step=trainer.global_step)
        self.epoch_start = 0.0

    def rates(self, trainer: pl.Trainer) -> dict[str, float]:
        """Rows per second, and the share of the time spent waiting for data. Empty before the first batch."""
        stream: Any = trainer.train_dataloader
        seconds = self.last_batch_end - self.epoch_start
        if not self.epoch_start or seconds <= 0 or stream.rows_received <= self.rows_at_start:
            return {}
        return {
            "rows_per_s": (stream.rows_received - self.rows_at_start) * processes.world_size() / seconds,
            "data_wait_share": (stream.wait_seconds - self.wait_seconds_at_start) / seconds,
        }


class ProgressLine(TQDMProgressBar):
    """A progress bar: position in the epoch, losses, checkouts per second, share of time waiting for data."""

    def __init__(self, throughput: Throughput) -> None:
        super().__init__(refresh_rate=10)
        self.throughput = throughput

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, module)
        metrics.pop("v_num", None)
        if rates := self.throughput.rates(trainer):
            metrics["rows/s"] = f"{rates['rows_per_s']:,.0f}"
            metrics["waiting"] = f"{rates['data_wait_share']:.1%}"
        return metrics
