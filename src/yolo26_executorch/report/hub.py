"""Artifacts on Hugging Face's Hub: which repository each goes to, and sending it there.

What speaks to the Hub, and what finds the token, is `huggingface_hub`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.manifest import MANIFEST, Manifest
from ..artifacts.reading import verify
from ..errors import UsageError, Yolo26Error, first_line, printable
from ..system.probe import package_version

LOG_IN = "log in with `hf auth login`, or put a token that may write there into HF_TOKEN"

_BACKENDS = {"cuda": "CUDA", "xnnpack": "XNNPACK"}
_LOCAL_PATH = re.compile(r"(?:^|[\s='\"])(?:~|/|[A-Za-z]:\\)")


@dataclass(frozen=True)
class Upload:
    """An artifact that was found whole, and where it goes."""

    folder: Path
    repository: str
    """ORG/NAME."""
    manifest: Manifest
    files: dict[str, int]
    """All that is sent: name → bytes."""

    @property
    def names_local_folders(self) -> bool:
        """Whether the command in card and manifest, which everybody will read, names folders of this machine."""
        return _LOCAL_PATH.search(self.manifest.command) is not None


def check_prefix(prefix: str) -> str:
    """Return the user or organisation that `--repo-prefix` names; raises UsageError for what cannot be one."""
    organisation = prefix.removesuffix("/")
    if not organisation or _fault(f"{organisation}/model"):
        raise UsageError(
            f"--repo-prefix {printable(prefix)}: expected a user or an organisation of the Hub, such as my-org"
        )
    return organisation


def prepare(folder: Path, organisation: str, *, allow_random: bool = False) -> Upload:
    """Verify an artifact and name its repository, such as ORG/yolo26n-seg-ExecuTorch-CUDA; asks nobody.

    Raises:
        ArtifactError: it is not whole.
        UsageError: its weights are random, which has to be allowed, or its name cannot be a repository's.
    """
    manifest = verify(folder)
    if manifest.checkpoint.origin == "random" and not allow_random:
        raise UsageError(
            f"{folder} has random weights, which are of no use to others; add --allow-random to send it all the same"
        )
    repository = f"{organisation}/{manifest.name}-ExecuTorch-{_BACKENDS[manifest.backend]}"
    if fault := _fault(repository):
        raise UsageError(f"{folder}: {fault}; export the checkpoint under another file name")
    files = {name: record.bytes for name, record in manifest.files.items()}
    return Upload(folder, repository, manifest, {**files, MANIFEST: (folder / MANIFEST).stat().st_size})


def check_distinct(uploads: Iterable[Upload]) -> None:
    """Refuse artifacts that go to the same repository, where the last would replace the others; raises UsageError."""
    found = list(uploads)
    for repository, count in Counter(upload.repository for upload in found).items():
        if count > 1:
            folders = ", ".join(str(upload.folder) for upload in found if upload.repository == repository)
            raise UsageError(
                f"{folders} would all go to {repository}; send one of them, or one to another --repo-prefix"
            )


def send(upload: Upload, *, private: bool = False, revision: str | None = None, progress: bool = False) -> str:
    """Make the repository where it is not there yet, and put the artifact into it in one commit; returns its address.

    Args:
        upload: what and where to.
        private: make the repository a private one; one that is there and public is refused.
        revision: the branch, made where it is not there; None is the main one.
        progress: let the library draw its bars on standard error.

    Raises:
        Yolo26Error: the Hub refused, or could not be reached.
    """
    import huggingface_hub

    if not progress:
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    api = huggingface_hub.HfApi(library_name="yolo26-executorch", library_version=package_version())
    try:
        api.create_repo(upload.repository, private=private or None, exist_ok=True)
        # For a repository that was there, the wish is passed over.
        if private and not api.repo_info(upload.repository).private:
            raise Yolo26Error(
                f"{upload.repository} is there and public; make it private in its settings, or leave out --private"
            )
        if revision is not None:
            api.create_branch(upload.repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repository,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
            revision=revision,
            commit_message=f"{upload.manifest.name}, exported to ExecuTorch for {_BACKENDS[upload.manifest.backend]}",
        )
    except Yolo26Error:
        raise
    except Exception as error:  # the library's own, its HTTP client's, and those of what compresses the files
        raise Yolo26Error(f"{upload.repository}: {_in_words(error)}") from error
    return str(commit.repo_url)


def _fault(repository: str) -> str | None:
    """Return why the Hub would not take a repository's name, or None."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        return first_line(error)
    return None


def _in_words(error: Exception) -> str:
    """Return what went wrong in one line, with what to do about it where that is known."""
    said = printable(" ".join(str(getattr(error, "server_message", None) or "").split()))[:200] or first_line(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the Hub refused it ({status}: {said}); {LOG_IN}"
    if status is not None:
        return f"the Hub refused it ({status}: {said})"
    return f"it could not be sent ({said})"
