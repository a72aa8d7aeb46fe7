"""Model file formats by name and first bytes, for a label alone: nothing else depends on it.

Sources: GGUF's specification (ggml docs/gguf.md), safetensors' README (a header's length in
8 bytes, then JSON), TensorFlow Lite's schema.fbs (file_identifier "TFL3"), ONNX's onnx.proto3
(ModelProto begins with field 1, a varint), ncnn's param format (magic 7767517).  MNN's
flatbuffers have no identifier.
"""

from __future__ import annotations

import os

HEAD = 16  # bytes that ``recognised`` wants

_BY_NAME = {
    ".gguf": "GGUF", ".safetensors": "safetensors", ".onnx": "ONNX", ".ort": "ONNX Runtime",
    ".tflite": "TFLite", ".mnn": "MNN",
}  # fmt: skip


def recognised(path: str, head: bytes) -> str:
    """The format of a file called ``path`` that begins with ``head``; "" where nothing says.

    What the bytes say goes before the name; a name alone ends in " (by name)".
    """
    if head[:4] == b"GGUF":
        return "GGUF"
    if head[4:8] == b"TFL3":
        return "TFLite"
    if head[:7] == b"7767517":
        return "NCNN param"
    if head[:4] == b"ggml" or head[:4] == b"tjgg":
        return "GGML"
    name = path.removesuffix(" (deleted)").lower()
    extension = os.path.splitext(name)[1]
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and 2 <= length < 1 << 30:
        return "safetensors"
    if extension == ".onnx" and head[:1] == b"\x08":
        return "ONNX"
    if name.endswith((".ncnn.bin", ".ncnn.param")):
        return "NCNN (by name)"
    found = _BY_NAME.get(extension, "")
    return f"{found} (by name)" if found else ""
