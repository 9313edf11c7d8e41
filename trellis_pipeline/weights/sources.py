"""Where weights may come from: the hub, a mirror on it, or a folder.

Whatever the source, files end under the name of the published repository, because that is where the loader
looks, and each must be the published file to the last bit. So a source needs no trust, only the right bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.published import (
    ENCODER_REPOSITORY,
    MAIN_REPOSITORY,
    REPOSITORIES,
    PublishedFile,
)

# As the hub allows: owner/name, each of letters, digits, dots, dashes and underscores.
_HUB_ID = re.compile(r"^(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?$")


@dataclass(frozen=True, slots=True)
class Folder:
    """A clone of a repository, a folder of repositories (`owner/name/...`), or the hub's own cache folder."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository on the hub. revision: a branch, a tag or a commit."""

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision[:8] if len(self.revision) == 40 else self.revision}"


def parse_source(text: str, option: str) -> Folder | HubRepository:
    """A folder that exists, else `owner/name` or `owner/name@revision` on the hub.

    Raises ConfigError, naming the option, for what is neither.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path)
    found = _HUB_ID.match(text)
    if found is None:
        raise ConfigError(
            f"{option} {text}: no folder there, and not a repository of the hub (owner/name) either"
        )
    published = REPOSITORIES.get(found["name"])
    return HubRepository(found["name"], found["revision"] or (published.revision if published else "main"))


@dataclass(frozen=True, slots=True)
class Sources:
    """model: instead of the published TRELLIS.2 repository. encoder: instead of the image encoder's."""

    model: Folder | HubRepository | None = None
    encoder: Folder | HubRepository | None = None

    def in_folders(self, file: PublishedFile) -> Path | None:
        """Where a file lies in the folders that were named, or None.

        Raises ConfigError where the folder that was named for the image encoder does not have it.
        """
        if file.repository == ENCODER_REPOSITORY and isinstance(self.encoder, Folder):
            found = _first_file(_places(self.encoder.path, file, clone=True))
            if found is None:
                raise ConfigError(f"--image-encoder {self.encoder.path}: there is no {file.path} in it")
            return found
        if not isinstance(self.model, Folder):
            return None
        base = self.model.path
        is_clone = (base / "pipeline.json").is_file() and file.repository != ENCODER_REPOSITORY
        return _first_file(_places(base, file, clone=is_clone))

    def on_hub(self, file: PublishedFile) -> HubRepository:
        """The repository of the hub that a file would be fetched from."""
        for repository, source in ((MAIN_REPOSITORY, self.model), (ENCODER_REPOSITORY, self.encoder)):
            if file.repository == repository and isinstance(source, HubRepository):
                return source
        return HubRepository(file.repository, REPOSITORIES[file.repository].revision)

    def require_model_in(self, files: tuple[PublishedFile, ...]) -> None:
        """Raise ConfigError where a folder was named that has nothing of the model in it."""
        if isinstance(self.model, Folder) and not any(self.in_folders(file) for file in files):
            raise ConfigError(
                f"--source {self.model.path}: no weights in it; expected pipeline.json, as in a clone of "
                f"{MAIN_REPOSITORY}, or {MAIN_REPOSITORY}/pipeline.json"
            )


def _places(base: Path, file: PublishedFile, *, clone: bool) -> Iterator[Path]:
    owner, name = file.repository.split("/")
    yield base / owner / name / file.path
    yield base / name / file.path
    revision = REPOSITORIES[file.repository].revision
    yield base / f"models--{owner}--{name}" / "snapshots" / revision / file.path
    if clone:
        yield base / file.path
        # Its siblings, where it lies among repositories itself.
        yield base.absolute().parent / name / file.path
        yield base.absolute().parent.parent / owner / name / file.path


def _first_file(places: Iterator[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)
