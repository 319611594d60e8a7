"""Ed25519 signatures of versions, which prove who exported a bundle.

`manifest.sig` holds the 64 bytes of the signature of `manifest.json`, which holds the hashes of all other
files. Needs the library `cryptography`: pip install '<wheel>[sign]'. Without it:

    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem
    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.sig
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIGNATURE = "manifest.sig"


def sign_file(file: Path, signature: Path, key_file: Path) -> None:
    """Write the signature of a file. Raises the errors of `read_private_key`."""
    signature.write_bytes(read_private_key(key_file).sign(file.read_bytes()))


def read_private_key(file: Path) -> Any:
    """The Ed25519 private key of a PEM file.

    Raises OSError, ValueError for any other file, ImportError without the library.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise ValueError(f"{file}: no private key in PEM without a password: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"{file}: a key of another kind; make one with openssl genpkey -algorithm ed25519")
    return key


def read_trusted_keys(paths: Sequence[Path]) -> list[Any]:
    """The Ed25519 public keys of PEM files, and of all files *.pem of folders.

    Raises OSError, ValueError for any other file or a folder without *.pem, ImportError without the library.
    """
    if not paths:
        return []
    serialization, ed25519 = _library()
    keys = []
    for path in paths:
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: no public key (*.pem) is in the folder")
        for file in files:
            try:
                key = serialization.load_pem_public_key(file.read_bytes())
            except ValueError as error:
                raise ValueError(f"{file}: no public key in PEM: {error}") from error
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise ValueError(f"{file}: a key of another kind than Ed25519")
            keys.append(key)
    return keys


def check_signature(content: bytes, signature: Path, keys: Sequence[Any]) -> None:
    """Raises ValueError unless the file `signature` holds a signature of `content` by one of the keys."""
    from cryptography.exceptions import InvalidSignature

    if not signature.is_file():
        raise ValueError("the version is not signed")
    signed = signature.read_bytes()
    for key in keys:
        try:
            key.verify(signed, content)
        except InvalidSignature:
            continue
        return
    raise ValueError("no trusted key signed this manifest")


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signatures need a library: pip install '<wheel>[sign]'") from error
    return serialization, ed25519
