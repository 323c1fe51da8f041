"""A worker that says which GPU it was given, for test_executor."""

import os
from typing import Any


def work(job: Any, emit: Any) -> None:
    emit({"event": "step", "gpu": os.environ["CUDA_VISIBLE_DEVICES"]})
