"""Limits how many imports and exports a worker processes at once, so that threads are left for other requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Semaphore
from typing import TYPE_CHECKING, Self

from inventory.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

RETRY_SECONDS = 5


class Slot:
    """One of the places of ``Slots``. It can be released more than once."""

    def __init__(self, free: Semaphore) -> None:
        self.held = [free]

    def release(self) -> None:
        with suppress(IndexError):
            self.held.pop().release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


class Slots:
    def __init__(self, number: int) -> None:
        self.free = Semaphore(number)

    def take(self) -> Slot:
        """Raises RateLimited if none is free."""
        if not self.free.acquire(blocking=False):
            raise RateLimited(RETRY_SECONDS, "Too many imports and exports at the same time. Retry later.")
        return Slot(self.free)

    def stream(self, start: Callable[[], Generator[bytes]]) -> Iterator[bytes]:
        """The stream that ``start`` returns, which keeps a slot until it ends or is closed. Raises RateLimited."""
        slot = self.take()
        try:
            return SlottedStream(start(), slot)
        except BaseException:
            slot.release()
            raise


class SlottedStream(Iterator[bytes]):
    """Not a generator, because one that was never started would not notice that it is closed."""

    def __init__(self, stream: Generator[bytes], slot: Slot) -> None:
        self.stream, self.slot = stream, slot

    def __next__(self) -> bytes:
        try:
            return next(self.stream)
        except BaseException:
            self.slot.release()
            raise

    def close(self) -> None:
        """Called by the server after the response, also if the client has disconnected."""
        try:
            self.stream.close()
        finally:
            self.slot.release()

    def __del__(self) -> None:
        self.slot.release()
