"""Who exported a version, and which files it may name."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from serving.cli import main
from serving.rollback import roll_back
from serving.storage.bundle import (
    CHECKSUM_PLACEHOLDER,
    MANIFEST,
    BundleError,
    manifest_checksum,
    read_manifest,
)
from serving.storage.signatures import SIGNATURE, read_private_key, read_trusted_keys, sign_file
from serving.storage.versions import find_version, set_current_version
from tests.exporting.bundles import reseal

NAMES = ("20240101T000000Z-a", "20240201T000000Z-b", "20240301T000000Z-c")


def write_key(folder: Path, name: str, rsa_bits: int = 0) -> Path:
    """A private key in PEM, and next to it its public one, NAME.pem."""
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    file = folder / f"{name}.key"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    file.with_suffix(".pem").write_bytes(public)
    return file


def sign(folder: Path, key: Path) -> None:
    sign_file(folder / MANIFEST, folder / SIGNATURE, key)


def test_only_versions_of_a_trusted_key_are_read(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    shop, other = write_key(tmp_path / "keys", "shop"), write_key(tmp_path, "other")
    public = [shop.with_suffix(".pem")]
    with pytest.raises(BundleError, match="the version is not signed"):
        read_manifest(copy, public)
    sign(copy, other)
    with pytest.raises(BundleError, match="no trusted key signed this manifest"):
        read_manifest(copy, public)
    sign(copy, shop)
    assert read_manifest(copy, public) == read_manifest(copy)
    assert read_manifest(copy, [other.with_suffix(".pem"), tmp_path / "keys"])["version"]
    reseal(copy, created="2020-01-01")  # a change with a new checksum
    with pytest.raises(BundleError, match="no trusted key signed this manifest"):
        read_manifest(copy, public)
    if shutil.which("openssl"):
        sign(copy, shop)
        verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public[0], "-rawin"]
        subprocess.run([*verify, "-in", copy / MANIFEST, "-sigfile", copy / SIGNATURE], check=True)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    wrong, empty = tmp_path / "text.pem", tmp_path / "empty"
    wrong.write_text("no key")
    empty.mkdir()
    other = write_key(tmp_path, "rsa", rsa_bits=2048)
    for path, reason in (
        (wrong, "no public key"), (empty, "no public key"), (other.with_suffix(".pem"), "another kind")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            read_trusted_keys([path])
    for path, reason in ((wrong, "no private key"), (other, "another kind")):
        with pytest.raises(ValueError, match=reason):
            read_private_key(path)
    with pytest.raises(FileNotFoundError):
        read_trusted_keys([tmp_path / "nowhere.pem"])


def test_commands_refuse_what_is_not_signed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write_key(tmp_path, "shop")
    trust = ["--trust", str(key.with_suffix(".pem"))]
    assert main(["recommend", "--bundle", str(root), "--items", "i001", *trust]) == 1
    assert "is not signed" in capsys.readouterr().err
    sign(root / NAMES[0], key)
    assert main(["rollback", "--bundle", str(root), *trust]) == 0
    assert NAMES[0] in capsys.readouterr().out
    assert main(["recommend", "--bundle", str(root), "--items", "i001", *trust]) == 0
    set_current_version(root, NAMES[2])
    with pytest.raises(BundleError, match="is not signed"):
        roll_back(root, NAMES[2], [key.with_suffix(".pem")])
    assert main(["serve", "--bundle", str(root), "--trust", str(tmp_path / "nowhere.pem")]) == 1


def test_without_the_library_it_says_what_to_install(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = write_key(tmp_path, "shop").with_suffix(".pem")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ImportError, match=r"pip install '<wheel>\[sign\]'"):
        read_manifest(copy, [public])
    assert read_manifest(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", ".", "a\\b", "linked", ""])
def test_a_manifest_names_files_of_its_own_folder(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("another file")
    (copy / "linked").symlink_to(tmp_path / "outside")
    manifest = json.loads((copy / MANIFEST).read_text()) | {"checksum": CHECKSUM_PLACEHOLDER}
    manifest["files"][name] = "1" * 64
    raw = json.dumps(manifest)
    (copy / MANIFEST).write_text(raw.replace(CHECKSUM_PLACEHOLDER, manifest_checksum(raw.encode())))
    with pytest.raises(BundleError, match="which is not in its folder"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["..", "../root", "/tmp", "a/../b", ""])
def test_a_version_is_a_name(root: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"is not the name of a version|there is no version"):
        find_version(root, name)
    with pytest.raises(BundleError, match="there is no version"):
        roll_back(root, name or "..")


def test_remote_names_stay_in_their_folder(bucket: Callable[[str], str], tmp_path: Path) -> None:
    """Storage takes any key; a copy of it must not leave the folder of the copy."""
    import boto3

    from serving.remote import RemoteError, RemoteFolder

    uri = bucket("bundle")
    options = dict(pair.split("=") for pair in uri.partition("?")[2].split("&"))
    client = boto3.client("s3", endpoint_url=f"http://{options['endpoint_override']}")
    client.put_object(Bucket="shop", Key="bundle/20240101T000000Z-a/../../outside", Body=b"x")
    with pytest.raises(RemoteError, match="may lead out of a folder"):
        RemoteFolder(uri).list_files()
