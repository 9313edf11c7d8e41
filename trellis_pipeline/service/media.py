"""Pictures that clients sent: kept once under their hash, known to each account by a UUID."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update

from trellis_pipeline.service.disk import Disk
from trellis_pipeline.service.tables import media


def inline_owner(account: str) -> str:
    """Who owns pictures that came inside tasks: deleting an upload must not take them from their task."""
    return f"{account}/inline"


def owners(account: str) -> tuple[str, str]:
    """Whose pictures a task of this account may use."""
    return account, inline_owner(account)


class MediaStore:
    """All pictures. What writes is called from one thread only: none vanishes while it gets a new name."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def path(self, sha256: str) -> Path:
        """Where the bytes lie."""
        return self._disk.folder / "media" / sha256

    def add(self, media_uuid: str, account: str, data: bytes, mime: str) -> str:
        """Keep a picture; gives the name it has from now on.

        The same bytes of the same account keep the name they got first, and are kept for another month.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.path(sha256).exists():
            self._disk.write(self.path(sha256), data)
        now = time.time()
        with self._disk.begin() as connection:
            same = (media.c.account == account) & (media.c.sha256 == sha256)
            known = connection.execute(
                update(media).where(same).values(at=now).returning(media.c.media_uuid)
            ).scalars()
            for name in known:
                return str(name)
            row = {"media_uuid": media_uuid, "account": account, "sha256": sha256, "mime": mime, "at": now}
            connection.execute(insert(media), row)
        return media_uuid

    def expire(self, before: float) -> None:
        """Forget uploads that were last used before this time."""
        with self._disk.read() as connection:
            query = select(media.c.media_uuid, media.c.account).where(media.c.at < before).limit(1000)
            old = connection.execute(query).all()
        for row in old:
            self.delete(row.media_uuid, row.account)

    def find(self, media_uuid: str, accounts: Sequence[str] = ()) -> tuple[str, str] | None:
        """(sha256, MIME type) of a picture, None if there is none of that name. accounts: none for any."""
        query = select(media.c.sha256, media.c.mime).where(media.c.media_uuid == media_uuid)
        if accounts:
            query = query.where(media.c.account.in_(accounts))
        with self._disk.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.sha256, row.mime)

    def use(self, media_uuid: str, accounts: Sequence[str]) -> bool:
        """Whether one of these accounts has a picture of this name, which is kept for another month."""
        query = update(media).where(media.c.media_uuid == media_uuid, media.c.account.in_(accounts))
        with self._disk.begin() as connection:
            return connection.execute(query.values(at=time.time())).rowcount == 1

    def delete(self, media_uuid: str, account: str) -> bool:
        """Forget an upload; its bytes go with the last name they have."""
        with self._disk.begin() as connection:
            query = delete(media).where(media.c.media_uuid == media_uuid, media.c.account == account)
            sha256 = connection.execute(query.returning(media.c.sha256)).scalar()
            if sha256 is None:
                return False
            others = connection.execute(select(func.count()).where(media.c.sha256 == sha256)).scalar_one()
        if others == 0:
            self.path(sha256).unlink(missing_ok=True)
        return True
