"""Crops sent to the provider once, and named afterwards.

A crop that is generated with three seeds need not travel three times. The provider keeps an upload for thirty
days after its last use, so what is remembered is remembered in this process only: another one uploads again,
which costs nothing but the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Uploads:
    """Remembers under which UUID the provider keeps a picture, by content hash.

    send: uploads a PNG and gives the UUID. Whoever asks for a picture that is under way waits for it.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[str]]) -> None:
        self._send = send
        self._known: dict[str, asyncio.Future[str]] = {}

    async def uuid_of(self, png: bytes, sha256: str) -> str:
        """The picture's UUID, uploading it if need be. Raises what `send` raises, and forgets it then."""
        while True:
            known = self._known.get(sha256)
            if known is None:
                return await self._upload(png, sha256)
            try:
                return await asyncio.shield(known)
            except asyncio.CancelledError:
                me = asyncio.current_task()
                if not known.cancelled() or (me is not None and me.cancelling()):
                    raise  # we are cancelled, perhaps together with the one who uploads

    def forget(self, sha256: str) -> None:
        """The provider no longer has it."""
        self._known.pop(sha256, None)

    async def _upload(self, png: bytes, sha256: str) -> str:
        place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._known[sha256] = place
        try:
            uuid = await self._send(png)
        except BaseException as error:
            self.forget(sha256)
            if isinstance(error, asyncio.CancelledError):
                place.cancel()
            else:
                place.set_exception(error)
                place.exception()  # it is raised below; nobody else need have waited
            raise
        place.set_result(uuid)
        return uuid
