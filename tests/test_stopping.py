"""Whoever asks a process to stop asks once."""

import contextlib
import gc
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from trellis_pipeline.stopping import STOPPING, stop_requests, stopped_by_signals

SAFETY_SECONDS = 60


@pytest.fixture(autouse=True)
def handlers_stay_as_they_were():
    """At first they are Python's own. A shell that starts the tests in the background has SIGINT ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in STOPPING]
    yield
    assert [signal.getsignal(number) for number in STOPPING] == before
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_what_is_under_way(number):
    def work():
        signal.raise_signal(number)
        time.sleep(SAFETY_SECONDS)

    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        work()


def test_a_signal_that_does_not_end_the_wait_of_the_main_thread_stops_it_all_the_same():
    """Another thread takes the signal, as when it comes right before the wait: the wait goes on."""
    ours, theirs = socket.socketpair()
    ours.settimeout(SAFETY_SECONDS)

    def signal_later():
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def work():
        thread.start()
        ours.recv(1)

    thread = threading.Thread(target=signal_later)
    with ours, theirs, pytest.raises(KeyboardInterrupt), stopped_by_signals():
        work()
    thread.join()


# Sockets that were made when it came are left to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_at_any_line_of_the_beginning_stops_it_too():
    lines, moment, worked = 0, 0, False

    def count(frame, event, _argument):
        nonlocal lines
        if Path(frame.f_code.co_filename).name not in {"stopping.py", "contextlib.py"}:
            return None
        lines += event == "line"
        if event == "line" and lines == moment:
            signal.raise_signal(signal.SIGINT)
        return count

    def work():
        nonlocal worked
        with stopped_by_signals():
            sys.settrace(None)
            worked = True

    while not worked:
        lines, moment = 0, moment + 1
        with contextlib.suppress(KeyboardInterrupt):
            sys.settrace(count)
            work()
    assert lines < moment
    gc.collect()


class SignalledWhenItGoes:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_finalizer_stops_the_work_and_prints_nothing(capfd):
    def work():
        SignalledWhenItGoes()
        time.sleep(SAFETY_SECONDS)

    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        work()
    assert capfd.readouterr().err == ""


def test_somebody_elses_handler_answers_alone_and_once():
    answered, heard = [], threading.Event()
    with stopped_by_signals():
        ours = signal.signal(signal.SIGINT, lambda number, _frame: answered.append(number))
        with stop_requests(heard.set) as stop:
            signal.raise_signal(signal.SIGINT)
            assert heard.wait(SAFETY_SECONDS)
            assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.5)  # long enough to insist twice
        signal.signal(signal.SIGINT, ours)
    assert answered == [signal.SIGINT, signal.SIGINT]


def test_other_signals_and_other_threads_are_left_alone():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not stop.is_set()

    def elsewhere():
        with stopped_by_signals():
            entered.append(signal.getsignal(signal.SIGINT))

    entered: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]


def test_an_error_of_the_users_in_a_finalizer_is_still_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))

    class Broken:
        def __del__(self):
            raise ValueError("broken")

    with stop_requests():
        Broken()
    assert shown == [ValueError]
