"""A request to stop that cannot get lost.

Python runs a signal's handler in the main thread, between two instructions. Two things can go wrong there. In
a finalizer or a weak reference's callback (SQLAlchemy has one for each pooled connection) Python prints what
the handler raised, and drops it. And a signal that comes right before the thread waits for the network is
answered when the wait is over. Either way the work would go on, and go on spending. But Python also writes
the number of every signal into a wake-up descriptor at once; a thread reads it here.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
_RAISED_BY_HANDLERS = frozenset({"KeyboardInterrupt", "DagsterExecutionInterruptedError"})
_PATIENCE_SECONDS = 0.2


def _nothing() -> None:
    pass


@contextmanager
def stop_requests(
    tell: Callable[[], None] = _nothing,
    insist: Callable[[], None] = _nothing,
    dropped: Callable[[], None] = _nothing,
) -> Iterator[threading.Event]:
    """Within it, the yielded event is set when SIGINT or SIGTERM arrives. Handlers do what they did before.

    tell: called once, in a thread of its own, right after the event was set. insist: called in that thread
    again and again from then on. dropped: called whenever Python drops what a handler raised, which is not
    printed then.
    Contexts may be nested: the innermost one hears. Outside of the main thread the event is never set.
    """
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        with reader:
            while True:
                try:
                    numbers = reader.recv(64)
                except TimeoutError:
                    insist()
                    continue
                if not numbers:
                    return
                if not heard.is_set() and not set(STOPPING).isdisjoint(numbers):
                    heard.set()
                    tell()
                    reader.settimeout(_PATIENCE_SECONDS)

    show = sys.unraisablehook

    def notice(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type.__name__ in _RAISED_BY_HANDLERS:
            dropped()
        else:
            show(unraisable)

    thread = threading.Thread(target=listen, name="trellis-stop-requests", daemon=True)
    outer = -1
    with writer:
        thread.start()
        try:
            outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            sys.unraisablehook = notice
            yield heard
        finally:
            sys.unraisablehook = show
            signal.set_wakeup_fd(outer)
            writer.close()  # the listener reads what was written before, then the end
            thread.join()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, at once and for certain.

    `docker stop` and `kill` thus ask like Ctrl-C does. Where somebody else puts a handler in our place, that
    one answers. Does nothing outside of the main thread.
    """
    main = threading.current_thread()
    if main is not threading.main_thread():
        yield
        return
    raised = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        raised.set()
        raise KeyboardInterrupt

    def insist() -> None:
        if not raised.is_set() and signal.getsignal(signal.SIGINT) is stop:
            assert main.ident is not None
            signal.pthread_kill(main.ident, signal.SIGINT)  # ends a wait that began after the first one

    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number in STOPPING:
            signal.signal(number, stop)
        with stop_requests(insist=insist, dropped=raised.clear):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
