"""How a process is told to stop."""

import signal
import threading
from types import FrameType


def obey(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set `stop`; a second SIGINT ends the process at once. For the main thread."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
