"""The loggers that a config chooses, and what they write."""

import csv
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import tracking
from training.config import check_overrides
from training.config_files import CONFIG_DIR
from training.errors import ConfigError
from training.loggers import check_loggers, close_loggers, log_config, log_final_metrics, make_other_loggers
from training.mlflow_outbox import OutboxLogger


def composed(*arguments: str) -> DictConfig:
    overrides = check_overrides("train", arguments)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "ranker-0123456789ab"
    folder.mkdir()
    return folder


def test_metrics_and_settings_reach_every_logger(stage: Path) -> None:
    cfg = composed("logger=[csv,tensorboard]", "+logger.mine={_target_: pytorch_lightning.loggers.CSVLogger}")
    loggers = make_other_loggers(cfg, stage)
    assert [type(logger) for logger in loggers] == [CSVLogger, TensorBoardLogger, CSVLogger]
    log_config(cfg, loggers)
    for logger in loggers:
        logger.log_metrics({"loss": 0.5}, step=3)
        logger.finalize("success")
    close_loggers(loggers)
    log_final_metrics(cfg, stage, tracking.prefix_metrics({"ndcg6": 0.25, "seed": 0, "slice": "all"}, "test"))
    rows = [list(csv.DictReader(file.open())) for file in sorted(stage.glob("csv/version_*/metrics.csv"))]
    assert [row["loss"] for row in rows[0]] == ["0.5"]
    assert rows[1] == [{"step": "0", "test/ndcg6": "0.25"}], "a seed is not a metric"
    assert "retrieval.train.epochs: 100" in (stage / "csv/version_0/hparams.yaml").read_text()
    assert list(stage.glob("mine/**/metrics.csv"))  # its save_dir is not set
    events = EventAccumulator(str(stage / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [0.5]
    assert [event.value for event in events.Scalars("test/ndcg6")] == [0.25]


def test_mlflow_is_one_of_the_loggers(stage: Path) -> None:
    uri = "mlflow.tracking_uri=http://127.0.0.1:9"  # a SQLite file would be created, which takes seconds
    loggers = tracking.stage_loggers(composed("logger=[mlflow,csv]", uri), stage, "ranker")
    assert [type(logger) for logger in loggers] == [OutboxLogger, CSVLogger]
    assert tracking.stage_loggers(composed("logger=none", uri), stage, "ranker") == []


@pytest.mark.parametrize("choice", ["csv", "none", "[]"])
def test_nothing_goes_to_mlflow_without_its_logger(stage: Path, choice: str) -> None:
    cfg = composed(
        f"logger={choice}", f"mlflow.tracking_uri=sqlite:///{stage}/mlflow.db", f"paths.runs={stage.parent}"
    )
    (stage / "mlflow_outbox.jsonl").write_text('{"kind": "end"}\n')
    tracking.check_server(cfg)
    tracking.send_kept(cfg)
    assert tracking.start_run(cfg, stage, {}) == ""
    tracking.finish_run(cfg, stage, {"a": 1.0}, [])
    assert not (stage / "mlflow.db").exists()
    assert (stage / "mlflow_outbox.jsonl").read_text() == '{"kind": "end"}\n'


OWN_LOGGER = """
from pytorch_lightning.loggers import CSVLogger

class Mine(CSVLogger):
    def __init__(self, path: str, level: int = 1) -> None:
        super().__init__(path)

class NoLogger:
    def __init__(self, path: str = "") -> None: ...
"""


@pytest.fixture
def own_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The argument that names a folder with a logger of the user, `logger=mine`."""
    (tmp_path / "own_loggers.py").write_text(OWN_LOGGER)
    monkeypatch.syspath_prepend(tmp_path)
    group = tmp_path / "my_configs" / "logger"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text('mine: {_target_: own_loggers.Mine, path: "{folder}/mine-{id}"}\n')
    (group / "typo.yaml").write_text("mine: {_target_: own_loggers.Mine, pth: x}\n")
    return f"--config-dir={tmp_path / 'my_configs'}"


def test_a_logger_of_the_user(own_loggers: str, stage: Path) -> None:
    for choice in ("logger=mine", "logger=[mlflow,mine]"):
        assert check_overrides("train", [own_loggers, choice]) == [own_loggers, choice]
    with pytest.raises(
        ConfigError, match=r"logger=\[mlflow,typo\] sets logger\.mine\.pth: Mine takes no pth.*path"
    ):
        check_overrides("train", [own_loggers, "logger=[mlflow,typo]"])
    cfg = composed("logger=none", 'logger.mine={_target_: own_loggers.Mine, path: "{folder}/of-{id}"}')
    (logger,) = make_other_loggers(cfg, stage)
    assert logger.save_dir == f"{stage}/of-{stage.name}"
    (logger,) = make_other_loggers(composed("logger=csv", "logger.csv.save_dir=elsewhere"), stage)
    assert logger.save_dir == "elsewhere"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("logger=tensorbord", "Did you mean tensorboard"),
        ("logger=[mlflow,cvs]", "logger=cvs: unknown choice of logger. Did you mean csv"),
        ("logger.mine=csv", r"logger\.mine: expected a class or function: 'logger\.mine=\{_target_"),
        ("logger.mine={_target_: pytorch_lightning.loggers.CSVLoger}", "Did you mean CSVLogger"),
        ("logger.mine={_target_: own_loggers.Mine, levle: 2}", "Mine takes no levle. Did you mean level"),
        ("logger.mlflow.uri=x", "OutboxLogger takes no settings"),
    ],
)
def test_a_wrong_logger_is_refused(own_loggers: str, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [argument])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("logger.mine={_target_: own_loggers.NoLogger}", "NoLogger is not a logger of Lightning"),
        ("logger.mine={_target_: own_loggers.Mine}", r"logger\.mine: .*missing.*path"),
    ],
)
def test_a_logger_that_cannot_be_built_is_refused(
    own_loggers: str, argument: str, message: str, stage: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_other_loggers(composed(argument), stage)


def test_a_logger_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(composed("logger=[csv,tensorboard,mlflow]"))
    monkeypatch.setattr(sys, "meta_path", [])  # no further package is found
    with pytest.raises(ConfigError, match="the package wandb is not installed: pip install wandb"):
        check_loggers(composed("logger=wandb"))
