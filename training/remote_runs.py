"""Opens runs below `paths.runs=s3://…` on any machine."""

from pathlib import Path

from data.io.folders import META_FILE
from data.io.remote_roots import is_complete, local_root
from serving.files import is_uri
from serving.remote import RemoteFolder, split_uri
from training.config_versions import load_run_config
from training.retrieval_stage import CONTINUED
from training.stage_folders import fetch_stage, read_stage_manifest


def fetch_remote_run(uri: str) -> Path:
    """Copies a run at a URI (also `latest` and `best`), and all folders on which it builds. Returns the copy.

    Raises FileNotFoundError if a folder is missing, RemoteError if the store cannot be read.
    """
    root_uri, name = split_uri(uri)
    root = local_root(root_uri)
    name = RemoteFolder(root_uri).read_text(name) or name
    _fetch(root / name, uri)
    manifest = read_stage_manifest(root / name)
    for part in ("retrieval", "candidates"):
        if part in manifest:
            _fetch(root / Path(manifest[part]).name, uri)
    towers = root / Path(manifest.get("retrieval", name)).name
    while (continued := read_stage_manifest(towers).get(CONTINUED)) is not None:
        towers = root / Path(continued).name
        _fetch(towers, uri)
    prepared = str(load_run_config(root / name).paths.prepared)
    if not is_uri(prepared):
        raise FileNotFoundError(
            f"{uri}: the run's prepared data are at {prepared} of the machine that trained the run; "
            "train with a URI as paths.prepared too"
        )
    folder = local_root(prepared) / Path(manifest["prepared"]).name
    if not is_complete(folder, META_FILE):
        raise FileNotFoundError(
            f"{uri}: the run's prepared data, {folder.name}, are missing or unfinished in {prepared}"
        )
    return root / name


def _fetch(folder: Path, uri: str) -> None:
    if not fetch_stage(folder):
        raise FileNotFoundError(f"{uri}: {folder.name} is missing or unfinished")
