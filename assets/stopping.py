"""A request to stop that cannot get lost.

Python runs a signal's handler wherever the main thread happens to be, and Dagster's handler raises there. In
a finalizer or a weak reference's callback (SQLAlchemy has one for each pooled connection) Python prints that
exception and drops it: the run would go on, and go on spending. Python also writes the number of every signal
into a wake-up descriptor, whatever becomes of the handler. A thread reads it here, and what is dropped is not
printed either.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster._core.errors import DagsterExecutionInterruptedError

STOPPING = frozenset({signal.SIGINT, signal.SIGTERM})


@contextmanager
def stop_requests(tell: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """Within it, the yielded event is set when SIGINT or SIGTERM arrives.

    tell: called in a thread of its own, once, right after the event was set. The handlers stay as they are
    and do what they do. Contexts may be nested: the innermost one hears. Outside of the main thread, where
    no signal ends anything, the event is never set.
    """
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while numbers := reader.recv(64):
            if STOPPING.intersection(numbers) and not heard.is_set():
                heard.set()
                tell()

    thread = threading.Thread(target=listen, name="trellis-stop-requests", daemon=True)
    thread.start()
    outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    show = sys.unraisablehook

    def show_others(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt | DagsterExecutionInterruptedError):
            show(dropped)

    sys.unraisablehook = show_others
    try:
        yield heard
    finally:
        sys.unraisablehook = show
        signal.set_wakeup_fd(outer)
        writer.close()  # the listener reads what was written before, then the end
        thread.join()
        reader.close()
