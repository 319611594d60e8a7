"""Passwords of URLs are for the command alone: no file gets them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from training.config import ConfigError, check_values
from training.config_files import CONFIG_DIR
from training.config_keys import flatten_config, reject_swept_secrets, without_secrets
from training.run_files import save_run_config

URL, MASKED = "postgresql://u:p%40ss@host/shop", "postgresql://u:***@host/shop"


def test_saved_and_logged_configs_have_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DB_URL", URL)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", ["data=warehouse", "data.url=${oc.env:SHOP_DB_URL}"])
    save_run_config(cfg, tmp_path)
    assert OmegaConf.load(tmp_path / "config.yaml").data.url == MASKED
    assert flatten_config(without_secrets(cfg))["data.url"] == MASKED
    assert cfg.data.url == URL, "the command goes on with it"
    assert "p%40ss" not in (tmp_path / "config.yaml").read_text()


def test_a_sweep_takes_no_password() -> None:
    arguments = ["-m", "seed=0,1", "data=warehouse", "data.url=postgresql://u:pw@host/shop"]
    with pytest.raises(ConfigError, match=r"multirun\.yaml.*data\.url=\$\{oc\.env:SHOP_DB_URL\}") as error:
        reject_swept_secrets(arguments)
    assert "pw" not in str(error.value)
    reject_swept_secrets(arguments[1:])
    reject_swept_secrets([*arguments[:3], "data.url=${oc.env:SHOP_DB_URL}"])


def test_a_missing_environment_variable_is_named() -> None:
    cfg = OmegaConf.create({"data": {"url": "${oc.env:NO_SUCH_VARIABLE_HERE}"}})
    with pytest.raises(ConfigError, match=r"^data\.url: .*NO_SUCH_VARIABLE_HERE"):
        check_values(cfg)
