"""What the Runware client is told. Plain values; the API key cannot be printed by accident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NoReturn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.runware.seller import NAME, RUNWARE_URL, checked_url, origin_of, seller_of
from trellis_pipeline.storage.store import BlobRef


class ApiKey:
    """A key that shows itself only when asked to, so that no log, traceback or settings dump repeats it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Raises ConfigError where it cannot be a key; the message does not repeat it."""
        text = text.strip()
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError(
                "the Runware API key is empty or holds spaces or letters that no key has; "
                "set RUNWARE_API_KEY to the key from https://my.runware.ai/keys"
            )
        self._text = text

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def __repr__(self) -> str:
        return "ApiKey(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled; every process reads its own")


class NoApiKey(ApiKey):
    """For those who ask nobody, and so need none."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("none")

    def reveal(self) -> NoReturn:
        """Raises ConfigError: nobody is asked with no key."""
        raise ConfigError("RUNWARE_API_KEY was not read: this generator was opened to be described")


@dataclass(frozen=True, slots=True)
class UploadSlot:
    """A place in the user's own storage for one result, to which the provider uploads it.

    put_url: presigned for one PUT. take: given the most bytes that a file may have, makes what was uploaded a
    blob of the store that models are kept in, whole and looked at; None while there is nothing new. It raises
    ModelFileError for what is no GLB, which may be followed by one that is; anything else ends the waiting
    for it. Runs in a thread.
    """

    put_url: str
    take: Callable[[int], BlobRef | None]

    def __repr__(self) -> str:
        """Without the URL, which is a permission."""
        return "UploadSlot(…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunwareOptions:
    """Everything that can be chosen about buying from Runware.

    delivery: `async` polls; `sync` holds one connection a task open, up to sync_seconds, then polls.
    image_input: `data_uri` sends the crop with each task; `upload` sends it once and names it afterwards,
    which pays when one crop is generated several times; `url` names its file in your own storage.
    picture_url: for `url`, gives by content hash an address under which the provider may read the picture
    for a while; asked anew for each submit, in a thread.
    ttl_seconds: how long result URLs live; None leaves the provider's default. Files are fetched at once.
    upload_slot: makes a place for a task's file (by taskUUID); the provider then uploads to your own storage,
    and its URL is only used where the upload does not come. For tasks with one result.

    call_seconds: for one API call, from first to last byte. task_seconds: how long `collect` waits for a
    task. download_seconds: for one file. upload_wait_seconds: for an upload to appear after the task's end.
    settle_seconds: pause before a task is asked about whose acknowledgement got lost; the provider does not
    know a task the instant it accepts it. attempts: how often a call, a submit or a download is tried.

    tasks_per_request: tasks in one submit. 1, because no limit is documented, because one lost answer then
    leaves one outcome open and not many, and because a submit is short. polls_per_request: how many tasks
    one poll asks about; falls to 1 by itself where the provider refuses arrays. gather_seconds: how long the
    first poll waits for others to join it.
    max_concurrency: submits under way at once; the client begins with 4 and finds out how many go well.
    max_downloads: files under way at once; each is held in memory.

    max_reply_bytes, max_model_bytes: limits on an answer and on a file, also after decompression.
    allowed_hosts: where files may come from, besides the host of base_url; ".example.com" means every
    subdomain. allow_private_downloads: also from private addresses and over plain http.
    free_results: whether a cost of exactly 0 is believed. None: only from another server than Runware's own.
    """

    api_key: ApiKey
    base_url: str = RUNWARE_URL
    delivery: Literal["async", "sync"] = "async"
    image_input: Literal["data_uri", "upload", "url"] = "data_uri"
    picture_url: Callable[[str], str] | None = None
    ttl_seconds: int | None = None
    upload_slot: Callable[[str], UploadSlot] | None = None

    call_seconds: float = 60.0
    sync_seconds: float = 150.0
    task_seconds: float = 1800.0
    download_seconds: float = 300.0
    upload_wait_seconds: float = 15.0
    settle_seconds: float = 2.0
    attempts: int = 8
    back_off_seconds: float = 0.5
    back_off_most_seconds: float = 30.0
    poll_first_seconds: float = 1.0
    poll_factor: float = 1.5
    poll_most_seconds: float = 10.0

    tasks_per_request: int = 1
    polls_per_request: int = 50
    gather_seconds: float = 0.02
    max_concurrency: int = 32
    max_downloads: int = 8

    max_reply_bytes: int = 64_000_000
    max_model_bytes: int = 500_000_000
    allowed_hosts: tuple[str, ...] = (".runware.ai",)
    allow_private_downloads: bool = False
    free_results: bool | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for values that make no sense, and for a key that would travel in the open."""
        object.__setattr__(self, "base_url", checked_url(self.base_url))
        if self.ttl_seconds is not None and self.ttl_seconds < 60:
            raise ConfigError("runware.ttl_seconds must be 60 or more")
        positive = (
            "call_seconds", "sync_seconds", "task_seconds", "download_seconds", "attempts",
            "tasks_per_request", "polls_per_request", "max_concurrency", "max_downloads", "max_reply_bytes",
            "max_model_bytes", "poll_first_seconds", "poll_most_seconds",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"runware.{name} must be more than 0, not {getattr(self, name)}")
        if self.image_input == "url" and self.picture_url is None:
            raise ConfigError(
                'runware.image_input = "url" needs a store that gives out links: an s3:// url under [storage]'
            )
        if self.poll_factor < 1:
            raise ConfigError(f"runware.poll_factor must be 1 or more, not {self.poll_factor}")

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port of base_url."""
        return origin_of(self.base_url)

    @property
    def seller(self) -> str:
        """Who is paid: see `seller.seller_of`."""
        return seller_of(self.base_url)

    @property
    def least_cost(self) -> Decimal:
        """The smallest cost that is believed."""
        free = self.free_results
        if free is None:
            free = self.seller != NAME
        return Decimal(0) if free else LEAST_PRICE


LEAST_PRICE = Decimal("0.0001")
"""Below it a price is a mistake: the list price is $0.0256 and the cheapest seen was $0.0198."""
