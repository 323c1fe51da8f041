"""A worker that says what it finds in its process and leaves its mark there, for test_zygote."""

import json
import os
import signal
import sys
import time
from typing import Any


def work(job: Any, emit: Any) -> None:
    emit(
        {
            "event": "found",
            "process": os.getpid(),
            "torch": "torch" in sys.modules,
            "marked": hasattr(json, "mark"),
            "variable": os.environ.get("VARIABLE"),
            "others": sum(os.path.exists(f"/proc/self/fd/{number}") for number in range(3, 64)),
        }
    )
    json.mark = True  # type: ignore[attr-defined]
    sys.stdout.write("a word on stdout\n")
    sys.stdout.flush()
    if os.environ.get("VARIABLE") == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        emit({"event": "waiting"})
        time.sleep(60)
