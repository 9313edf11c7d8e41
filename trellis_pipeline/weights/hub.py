"""The hub's manners: who we are to it, what it says about a file, and what its refusals mean.

`huggingface_hub` knows the endpoint, the token and the cache of this machine, and whether the user wants no
network at all; nothing else in the house imports it. Bytes are fetched by `transfer`: the library's own
download begins a file anew when it was interrupted, and a file here has 2.6 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from trellis_pipeline.errors import ConfigError, StorageUnavailable, WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, REPOSITORIES, PublishedFile
from trellis_pipeline.weights.sources import HubRepository

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata
    from huggingface_hub.errors import HfHubHTTPError

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_SHA256_DIGITS = 64
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """Where the bytes of a file are now, and what to say to whoever has them. Good for minutes, not days."""

    url: str
    headers: Mapping[str, str]


class Hub:
    """The hub as this machine's environment describes it (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE)."""

    def __init__(self, *, endpoint: str | None = None, cache: Path | None = None) -> None:
        """endpoint, cache: another address and another cache folder than the environment's.

        Raises ConfigError where huggingface_hub is not installed.
        """
        try:
            import huggingface_hub
            from huggingface_hub import constants
        except ImportError:
            raise ConfigError(
                "fetching weights needs huggingface_hub: pip install 'trellis-pipeline[local]'"
            ) from None
        self._library = huggingface_hub
        self.offline = bool(constants.HF_HUB_OFFLINE)
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        self._endpoint = endpoint or constants.ENDPOINT
        self._host = urlsplit(self._endpoint).netloc
        self._use_token = not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN

    def in_cache(self, repository: HubRepository, path: str) -> Path | None:
        """The file in this machine's cache of the hub, or None. Asks nobody."""
        found = self._library.try_to_load_from_cache(
            repository.name, path, cache_dir=self.cache, revision=repository.revision
        )
        return Path(found).resolve() if isinstance(found, str) else None

    def locate(self, repository: HubRepository, file: PublishedFile) -> Location:
        """Ask where a file is. What the hub says about it must be what is published.

        Raises ConfigError where it refuses access, WeightsMissing where it has no such file, WeightsInvalid
        where it has another one, StorageUnavailable where it does not answer.
        """
        from huggingface_hub.errors import HfHubHTTPError

        # The base of all errors of the HTTP library beneath, which is another one in each major version.
        transport_error: type[Exception] = HfHubHTTPError.__mro__[1]
        url = self._library.hf_hub_url(
            repository.name, file.path, revision=repository.revision, endpoint=self._endpoint
        )
        try:
            said = self._library.get_hf_file_metadata(url, endpoint=self._endpoint)
        except HfHubHTTPError as error:
            self._explain(error, repository, file)
        except (transport_error, OSError) as error:
            raise StorageUnavailable(
                f"{self._host} does not answer ({type(error).__name__}): is there a network? Whatever was "
                "fetched before is kept; run the same command again"
            ) from error
        _compare(said, repository, file)
        headers = {"accept-encoding": "identity", "user-agent": "trellis-pipeline"}
        # The token is for the hub, not for whoever stores its files.
        if urlsplit(said.location).netloc == self._host and self._use_token and self._library.get_token():
            headers["authorization"] = f"Bearer {self._library.get_token()}"
        return Location(said.location, headers)

    def _explain(self, error: HfHubHTTPError, repository: HubRepository, file: PublishedFile) -> NoReturn:
        """Turn a refusal into what the user can do about it."""
        from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

        status = error.response.status_code
        if status in _BUSY:
            raise StorageUnavailable(f"{self._host} answers with {status}: try again later") from error
        if isinstance(error, RevisionNotFoundError):
            raise WeightsMissing(
                f"{repository.name} has no revision {repository.revision} on {self._host}"
            ) from error
        if isinstance(error, GatedRepoError) or status == _FORBIDDEN or self._is_gated(repository, status):
            raise ConfigError(self._gate(repository, file)) from error
        if status == _UNAUTHORIZED:
            raise ConfigError(
                f"{self._host} answers with 401 for {repository.name}: there is no such repository, it is "
                "private, or the token (HF_TOKEN) is not valid"
            ) from error
        if status == _NOT_FOUND:
            raise WeightsMissing(f"{repository} on {self._host} has no {file.path}") from error
        raise StorageUnavailable(
            f"{self._host} answers with {status} for {repository}: {file.path}"
        ) from error

    @staticmethod
    def _is_gated(repository: HubRepository, status: int) -> bool:
        known = REPOSITORIES.get(repository.name)
        return status == _UNAUTHORIZED and known is not None and known.gated

    def _gate(self, repository: HubRepository, file: PublishedFile) -> str:
        known = REPOSITORIES.get(repository.name)
        page = known.page if known else f"https://huggingface.co/{repository.name}"
        state = (
            "the token of this machine has no access to it"
            if self._library.get_token()
            else "this machine has no token (HF_TOKEN)"
        )
        text = (
            f"{repository.name} is gated, and {state}. Nothing was downloaded. Ask for access at {page}, "
            "then set HF_TOKEN (or run `hf auth login`) and run this command again."
        )
        if file.repository == ENCODER_REPOSITORY:
            text += (
                " Other ways: --image-encoder FOLDER, if you have the files; --image-encoder "
                "OWNER/REPOSITORY, for a repository that holds the same files; --without-image-encoder, to "
                "fetch the rest now."
            )
        return text


def _compare(said: HfFileMetadata, repository: HubRepository, file: PublishedFile) -> None:
    """What the hub states before anything is downloaded: the size, and for large files the SHA-256."""
    wrong = ""
    if said.size is not None and said.size != file.file_bytes:
        wrong = f"{said.size:,} bytes instead of {file.file_bytes:,}"
    elif said.etag and len(said.etag) == _SHA256_DIGITS and said.etag.lower() != file.sha256:
        wrong = f"SHA-256 {said.etag[:12]}… instead of {file.sha256[:12]}…"
    if wrong:
        raise WeightsInvalid(f"{repository}: {file.path} is not the published file ({wrong}); not downloaded")
