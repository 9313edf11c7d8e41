"""
TrellisError
├── ConfigError              the user can fix it in trellis.toml or the environment
│   ├── RequestInvalid         a request is outside the API document; names each field
│   ├── ProviderRefusesAccess  the provider does not take our key: stop the run, not the product
│   ├── WeightsMissing         the local model's weights are not on this machine
│   └── WeightsInvalid         a weight file is damaged or belongs to another network
├── CatalogError             the catalog as a whole cannot be read (a bad row is a RowProblem, not an error)
├── ProductError             one product failed; the others go on
│   ├── SourceImageError       the photo cannot be fetched or decoded
│   ├── MatteError             nothing in the photo that looks like one object
│   ├── MeshError              geometry that cannot be processed or written
│   ├── ModelFileError         a GLB that cannot be read
│   └── GenerationError        the generator gave no model; .retryable, .billable
│       ├── ProviderRejected     the request will never succeed as it is
│       ├── ProviderBusy         retryable: nothing was bought
│       ├── TaskFailed           accepted, then failed: another attempt is another purchase
│       ├── ResultLost           paid, but the file can no longer be fetched
│       └── OutcomeUnknown       submitted, answer lost: ask before buying again
├── ProductHeld              triage holds one product back until a person looks; not a failure
├── BudgetExceeded           the wall held; says which scope and how much was left
│   └── SpendingPaused         somebody pulled the kill switch
├── OutOfCredit              the provider account is empty: stop buying, keep what is finished
├── LedgerError              an event that would make the books wrong was refused
└── StorageError             the artifact store failed
    ├── BlobMissing            no such blob or path
    ├── BlobCorrupt            the bytes do not hash to their name
    └── StorageUnavailable     full disk, no permission, no network: stop the run, not the product

Why one file: whoever handles an error has to see its siblings. `retryable` says that the same call may
succeed later; `billable` says that money may have been spent although no model came back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One field that is wrong. path: as on the wire, for example `settings.texSlat.steps`.

    code: the API's word for it (`missingParameter`, `unknownParameter`, `invalidValue`, ...).
    allowed: the allowed values where they can be listed, else empty.
    """

    path: str
    message: str
    code: str = "invalidValue"
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (
            f"; allowed are {', '.join(self.allowed)}" if self.allowed else ""
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What an attempt has cost that brought no model. stage_seconds: where the time went, by stage."""

    usd: Decimal
    stage_seconds: Mapping[str, float]


class TrellisError(Exception):
    """Base of everything this project raises on purpose. The message names the thing and the way out."""

    retryable: bool = False
    billable: bool = False


class ConfigError(TrellisError):
    """A setting is unknown, missing or out of range. Fix trellis.toml or the environment."""


class RequestInvalid(ConfigError):
    """A request is outside the API document. Each fault names the field's path and what is allowed."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class ProviderRefusesAccess(ConfigError):
    """The provider does not accept the API key, or is not at this address. Every further call would fail."""


class WeightsMissing(ConfigError):
    """A file of the local model is not where it should be. Put it there, from the model's repository."""


class WeightsInvalid(ConfigError):
    """A weight file is truncated, has another hash, or does not fit its network. Fetch it again."""


class CatalogError(TrellisError):
    """The catalog cannot be read at all: missing file, unknown format, missing column."""


class ProductError(TrellisError):
    """One product failed. The run records it, goes on with the others and lists it at the end.

    spent: what it has cost all the same, where the generator knows (time on the user's own GPU).
    """

    spent: Spent | None = None


class SourceImageError(ProductError):
    """The photo cannot be fetched, is refused by a limit, or is not a PNG, JPEG or WebP image."""


class MatteError(ProductError):
    """No object could be separated from the background."""


class MeshError(ProductError):
    """Geometry that cannot be simplified, unwrapped, baked or written."""


class ModelFileError(ProductError):
    """A GLB file that is truncated, malformed or outside the limits of what is safe to read."""


class GenerationError(ProductError):
    """The generator gave no model."""


class ProviderRejected(GenerationError):
    """The request will never succeed as it is: change the request, not the timing."""


class ProviderBusy(GenerationError):
    """The provider turned the request away before it was accepted. Try again later."""

    retryable = True


class TaskFailed(GenerationError):
    """The provider accepted the task and could not finish it. Trying again is a new task with a new price."""

    retryable = True


class ResultLost(GenerationError):
    """The provider made and billed the model, but its file is gone. Only another purchase brings one."""

    billable = True


class OutcomeUnknown(GenerationError):
    """The request may have been accepted and billed, but the answer was lost. Ask before buying again."""

    retryable = True
    billable = True


class ProductHeld(TrellisError):
    """Triage holds one product back before money is spent on it. Not a failure: a person decides."""


class BudgetExceeded(TrellisError):
    """A reservation would have crossed a budget, so nothing was spent."""


class SpendingPaused(BudgetExceeded):
    """The kill switch is on, so nothing may be reserved. `trellis-pipeline costs resume` lifts it."""


class OutOfCredit(TrellisError):
    """The provider account has no credit left. Top it up and run again; what is finished is kept."""


class LedgerError(TrellisError):
    """A spend event contradicts the ones before it, for example a second settlement of one reservation."""


class StorageError(TrellisError):
    """The artifact store could not do what it was asked."""


class BlobMissing(StorageError):
    """No blob or path with that name."""


class BlobCorrupt(StorageError):
    """The bytes read do not hash to the blob's name. Delete the blob and run the product again."""


class StorageUnavailable(StorageError):
    """Disk full, no permission or no network. Retrying product by product would only repeat it."""

    retryable = True
