"""`export.py sign=KEY` and `export.py update --sign KEY`."""

from pathlib import Path

import pytest

from exporting.export import export
from exporting.exportable_run import ExportError
from exporting.updates.update import update_bundle
from serving.storage.bundle import BundleError, read_manifest
from serving.storage.signatures import SIGNATURE
from tests.exporting.bundles import export_config
from tests.exporting.updates.test_update import write_changes
from tests.serving.storage.test_signatures import write_key


def test_an_export_and_its_update_are_signed(run_folder: Path, tmp_path: Path) -> None:
    key, other = write_key(tmp_path, "shop"), write_key(tmp_path, "other")
    root, trust = tmp_path / "bundle", [key.with_suffix(".pem")]

    def export_signed(*sign: str) -> Path:
        return export(export_config(run_folder, root, "bundle.force=false", *sign))

    unsigned = export_signed()
    with pytest.raises(ExportError, match="is not signed by this key"):
        update_bundle(root, write_changes(tmp_path), sign=key)
    signed = export_signed(f"sign={key}")
    assert signed != unsigned  # the same run and settings, and no signature
    assert read_manifest(signed, trust)["version"] == signed.name
    assert export_signed(f"sign={key}") == signed
    updated = update_bundle(root, write_changes(tmp_path), sign=key)
    assert read_manifest(updated, trust)["export"]["updated"] == signed.name
    with pytest.raises(ExportError, match="is not signed by this key"):
        update_bundle(root, write_changes(tmp_path, [{"item_id": "i003", "price": 1.0}]), sign=other)
    with pytest.raises(BundleError, match="no trusted key"):
        read_manifest(updated, [other.with_suffix(".pem")])
    assert (updated / SIGNATURE).stat().st_size == 64


def test_a_key_that_cannot_sign_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    cfg = export_config(tmp_path / "no run", tmp_path, f"sign={tmp_path / 'key'}")
    with pytest.raises(ExportError, match="no private key"):
        export(cfg)
