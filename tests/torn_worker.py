"""A worker that is killed in the middle of a word, for test_crashes."""

import os
import signal
import sys

sys.stdout.write('{"event": "step", "step": 1, "loss": 1.0, "train_s": 1.0}\n{"event": "trained", "training": "{')
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
