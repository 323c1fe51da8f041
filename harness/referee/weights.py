"""The formats of weights in the referee: raw bytes, and safetensors files that are written and read without torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence

from harness.core.errors import LlmbenchError
from harness.core.runs import RunFailedError
from harness.player.protocol import TensorSpec

# Names of types in safetensors files. The format's own library writes tensors in this order, those with the largest
# elements first (github.com/huggingface/safetensors, tensor.rs).
_TYPES = {
    "int64": "I64", "float64": "F64", "float32": "F32", "int32": "I32", "bfloat16": "BF16", "float16": "F16",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_LENGTH = struct.Struct("<Q")


def serialize(tensors: Sequence[TensorSpec], weights: bytes) -> bytes:
    """The weights as a safetensors file, byte for byte as the library `safetensors` writes it."""
    parts = dict(zip([spec.name for spec in tensors], split(tensors, weights), strict=True))
    header, offset, order = {}, 0, list(_TYPES)
    placed = sorted(tensors, key=lambda spec: (order.index(spec.dtype), spec.name))
    for spec in placed:
        end = offset + spec.num_bytes
        header[spec.name] = {"dtype": _TYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([_LENGTH.pack(len(text)), text, *(parts[spec.name] for spec in placed)])


def deserialize(content: bytes) -> dict[str, bytes]:
    """The bytes of each tensor of a file that `serialize` wrote.

    Raises LlmbenchError if `content` is not such a file.
    """
    try:
        start = _LENGTH.size + _LENGTH.unpack_from(content)[0]
        header = json.loads(content[_LENGTH.size : start])
        offsets = {name: tensor["data_offsets"] for name, tensor in header.items()}
        return {name: content[start + first : start + end] for name, (first, end) in offsets.items()}
    except (ValueError, KeyError, TypeError, struct.error, AttributeError) as error:
        raise LlmbenchError(
            "the weights file of a run is not a safetensors file; delete the run's folder and train it again"
        ) from error


def split(tensors: Sequence[TensorSpec], weights: bytes) -> list[bytes]:
    """Cut the bytes of all weights into the bytes of each tensor."""
    parts, offset = [], 0
    for spec in tensors:
        parts.append(weights[offset : offset + spec.num_bytes])
        offset += spec.num_bytes
    return parts


def in_order(tensors: Sequence[TensorSpec], weights: dict[str, bytes]) -> bytes:
    """The bytes of all weights, in the order of `tensors`.

    Raises RunFailedError if `weights` has other names or sizes.
    """
    parts = [weights.get(spec.name, b"") for spec in tensors]
    sizes = [spec.num_bytes for spec in tensors]
    if len(parts) != len(weights) or list(map(len, parts)) != sizes:
        raise RunFailedError(
            "invalid",
            "weights: training and evaluation have different tensors; keep parameters and buffers the same",
        )
    return b"".join(parts)


def parameters_of(tensors: Sequence[TensorSpec], weights: bytes) -> bytes:
    """The bytes of the parameters among the weights, without buffers."""
    parts = zip(tensors, split(tensors, weights), strict=True)
    return b"".join(part for spec, part in parts if spec.is_parameter)


def count_trained(tensors: Sequence[TensorSpec], start: bytes, end: bytes) -> int:
    """Number of trained values: those of parameters, and of other tensors that changed; tied tensors count once.

    The player reports which tensors are parameters and which are tied. Whether a tensor changed, and whether tied
    tensors are equal, is checked here.
    """
    parts = dict(zip([spec.name for spec in tensors], split(tensors, end), strict=True))
    count = 0
    for spec, before in zip(tensors, split(tensors, start), strict=True):
        is_tied = spec.tied_to is not None and parts.get(spec.tied_to) == parts[spec.name]
        if (spec.is_parameter or parts[spec.name] != before) and not is_tied:
            count += math.prod(spec.shape)
    return max(1, count)
