"""A worker that says which GPU it was given, for test_executor."""

import json
import os
import sys

sys.stdout.write(json.dumps({"event": "step", "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}) + "\n")
