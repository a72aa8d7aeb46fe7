"""Model files of a few hundred MB for real runtimes, written here: no download, no dependency.

    python3 models.py FORMAT PATH [--mib N]

The formats are written by hand, from their specifications:

- gguf: a LLaMA of few layers with many experts, and a vocabulary of single bytes
  (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
- safetensors: named matrices (https://github.com/huggingface/safetensors#format)
- onnx, onnx-external: matrix products, the weights in the model itself or in PATH.data beside
  it (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto)
- ncnn: inner products; PATH, which ends in .bin, holds the weights, a .param beside it the graph
  (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure)

Weights are small numbers that differ: a runtime computes with them without an overflow, and
every page of the file is on the disk.  Prints the bytes of weights and of each file, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
from collections.abc import Callable, Iterable
from typing import IO, Any

MIB = 1 << 20
_BLOCK = 4 * MIB
_WIDTH = 2048  # of the matrices of all formats but GGUF: 16 MiB each


def _numbers(width: int) -> bytes:
    """_BLOCK bytes of floats of ``width`` bytes, of either sign, between 2**-7 and 2**-5."""
    source = random.Random(8191)
    block = bytearray(source.randbytes(_BLOCK))
    # IEEE 754: sign and the upper bits of the exponent are in the last byte of each.
    exponent, keep = {2: (0x24, 0x83), 4: (0x3C, 0x80)}[width]
    table = bytes(byte & keep | exponent for byte in range(256))
    block[width - 1 :: width] = block[width - 1 :: width].translate(table)
    return bytes(block)


def _fill(file: IO[bytes], size: int, block: bytes) -> None:
    """``size`` bytes, which are a multiple of a number's."""
    while size:
        size -= file.write(block[: min(size, len(block))])


# --- GGUF ------------------------------------------------------------------------------------

# A mixture of experts, of which one computes: all are loaded, and an emulator gets through.
_EMBEDDING, _FORWARD, _HEADS, _EXPERTS = 256, 512, 4, 32
_LAYER = 2 * (4 * _EMBEDDING**2 + 3 * _EMBEDDING * _FORWARD * _EXPERTS)  # bytes, F16
_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_GGUF_ALIGNMENT = 32


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    return struct.pack({_U32: "<I", _F32: "<f", _I32: "<i"}[kind], value)


def _pair(key: str, kind: int, value: Any) -> bytes:
    return _text(key) + struct.pack("<I", kind) + _value(kind, value)


def _list(key: str, kind: int, values: Iterable[Any]) -> bytes:
    data = [_value(kind, value) for value in values]
    return _text(key) + struct.pack("<IIQ", _ARRAY, kind, len(data)) + b"".join(data)


def _tensors(layers: int, vocabulary: int) -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (_EMBEDDING, vocabulary))]
    for layer in range(layers):
        name = f"blk.{layer}."
        found.append((f"{name}attn_norm.weight", (_EMBEDDING,)))
        for part in ("q", "k", "v", "output"):
            found.append((f"{name}attn_{part}.weight", (_EMBEDDING, _EMBEDDING)))
        found.append((f"{name}ffn_norm.weight", (_EMBEDDING,)))
        found.append((f"{name}ffn_gate_inp.weight", (_EMBEDDING, _EXPERTS)))
        for part in ("gate", "up"):
            found.append((f"{name}ffn_{part}_exps.weight", (_EMBEDDING, _FORWARD, _EXPERTS)))
        found.append((f"{name}ffn_down_exps.weight", (_FORWARD, _EMBEDDING, _EXPERTS)))
    return [*found, ("output_norm.weight", (_EMBEDDING,))]


def gguf(path: str, size: int) -> None:
    """A LLaMA with as many layers as ``size`` bytes hold, at least one."""
    layers = max(1, size // _LAYER)
    # Control tokens, every byte, and the space that SentencePiece begins a text with.
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    kinds = [2, 3, 3, *[6] * 256, 1]  # unknown, control, byte, normal
    pairs = [
        _pair("general.architecture", _STRING, "llama"),
        _pair("general.name", _STRING, "written by dmatrace's tests"),
        _pair("llama.context_length", _U32, 512),
        _pair("llama.embedding_length", _U32, _EMBEDDING),
        _pair("llama.block_count", _U32, layers),
        _pair("llama.feed_forward_length", _U32, _FORWARD),
        _pair("llama.expert_count", _U32, _EXPERTS),
        _pair("llama.expert_used_count", _U32, 1),
        _pair("llama.attention.head_count", _U32, _HEADS),
        _pair("llama.attention.layer_norm_rms_epsilon", _F32, 1e-5),
        _pair("llama.rope.dimension_count", _U32, _EMBEDDING // _HEADS),
        _pair("tokenizer.ggml.model", _STRING, "llama"),
        _list("tokenizer.ggml.tokens", _STRING, tokens),
        _list("tokenizer.ggml.scores", _F32, [0.0] * len(tokens)),
        _list("tokenizer.ggml.token_type", _I32, kinds),
        _pair("tokenizer.ggml.bos_token_id", _U32, 1),
        _pair("tokenizer.ggml.eos_token_id", _U32, 2),
    ]
    tensors = _tensors(layers, len(tokens))
    infos, offset, sizes = [], 0, []
    for name, shape in tensors:
        # F16; norms and what chooses the experts are F32.
        width = 4 if len(shape) == 1 or "gate_inp" in name else 2
        info = _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(info + struct.pack("<IQ", int(width == 2), offset))
        count = 1
        for length in shape:
            count *= length
        sizes.append((count * width, width))
        offset += -(-count * width // _GGUF_ALIGNMENT) * _GGUF_ALIGNMENT
    blocks = {width: _numbers(width) for width in (2, 4)}
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)))
        file.write(b"".join(pairs) + b"".join(infos))
        for length, width in sizes:
            file.write(b"\0" * (-file.tell() % _GGUF_ALIGNMENT))
            _fill(file, length, blocks[width])


# --- safetensors -----------------------------------------------------------------------------


def _matrices(size: int) -> int:
    """How many square matrices of F32 make about ``size`` bytes."""
    return max(1, size // (4 * _WIDTH**2))


def safetensors(path: str, size: int) -> None:
    """Square matrices of F32."""
    one = 4 * _WIDTH**2
    header = {
        f"weight.{number}": {
            "dtype": "F32",
            "shape": [_WIDTH, _WIDTH],
            "data_offsets": [number * one, (number + 1) * one],
        }
        for number in range(_matrices(size))
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        _fill(file, len(header) * one, _numbers(4))


# --- ONNX ------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _head(field: int, length: int) -> bytes:
    """Of a string, bytes or message of ``length`` bytes."""
    return _varint(field << 3 | 2) + _varint(length)


def _bytes(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return _head(field, len(data)) + data


def _onnx_value(name: str) -> bytes:
    """ValueInfoProto of a row of floats."""
    shape = b"".join(_bytes(1, _number(1, length)) for length in (1, _WIDTH))
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shape)))


def _onnx_tensor(number: int, external: str | None) -> tuple[bytes, int]:
    """TensorProto without the bytes of raw_data, and how many follow it."""
    size = 4 * _WIDTH**2
    tensor = _number(1, _WIDTH) + _number(1, _WIDTH) + _number(2, 1) + _bytes(8, f"w{number}")
    if external is None:
        return tensor + _head(9, size), size
    for key, value in (("location", external), ("offset", number * size), ("length", size)):
        tensor += _bytes(13, _bytes(1, key) + _bytes(2, str(value)))
    return tensor + _number(14, 1), 0


def _onnx(path: str, size: int, external: str | None) -> None:
    count = _matrices(size)
    nodes = b"".join(
        _bytes(1, _bytes(1, f"x{n}") + _bytes(1, f"w{n}") + _bytes(2, f"x{n + 1}")
               + _bytes(4, "MatMul"))
        for n in range(count)
    )  # fmt: skip
    tensors = [_onnx_tensor(number, external) for number in range(count)]
    ends = _bytes(11, _onnx_value("x0")) + _bytes(12, _onnx_value(f"x{count}"))
    name = _bytes(2, "products")
    heads = [_head(5, len(tensor) + more) + tensor for tensor, more in tensors]
    length = len(nodes) + len(name) + len(ends)
    length += sum(len(head) + more for head, (_, more) in zip(heads, tensors, strict=True))
    model = _number(1, 8) + _bytes(2, "dmatrace's tests") + _bytes(8, _number(2, 17))
    block = _numbers(4)
    with open(path, "wb") as file:
        file.write(model + _head(7, length) + nodes + name)
        for head, (_, more) in zip(heads, tensors, strict=True):
            file.write(head)
            _fill(file, more, block)
        file.write(ends)
    if external is not None:
        with open(os.path.join(os.path.dirname(path), external), "wb") as file:
            _fill(file, count * 4 * _WIDTH**2, block)


def onnx(path: str, size: int) -> None:
    """The weights are in the model."""
    _onnx(path, size, None)


def onnx_external(path: str, size: int) -> None:
    """The weights are in PATH.data."""
    _onnx(path, size, os.path.basename(path) + ".data")


# --- ncnn ------------------------------------------------------------------------------------


def ncnn(path: str, size: int) -> None:
    """Inner products without a bias; the graph has ".param" in the place of ".bin"."""
    count = _matrices(size)
    lines = ["7767517", f"{count + 1} {count + 1}", f"Input in 0 1 x0 0={_WIDTH}"]
    block = _numbers(4)
    with open(path, "wb") as file:
        for n in range(count):
            lines.append(f"InnerProduct w{n} 1 1 x{n} x{n + 1} 0={_WIDTH} 1=0 2={_WIDTH * _WIDTH}")
            file.write(struct.pack("<I", 0))  # F32
            _fill(file, 4 * _WIDTH**2, block)
    with open(path.removesuffix(".bin") + ".param", "w") as file_of_text:
        file_of_text.write("\n".join(lines) + "\n")


FORMATS: dict[str, Callable[[str, int], None]] = {
    "gguf": gguf,
    "safetensors": safetensors,
    "onnx": onnx,
    "onnx-external": onnx_external,
    "ncnn": ncnn,
}


def main() -> None:
    """One file, and what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("path")
    parser.add_argument("--mib", type=int, default=256)
    args = parser.parse_args()
    FORMATS[args.format](args.path, args.mib * MIB)
    print(json.dumps({args.path: os.path.getsize(args.path)}))


if __name__ == "__main__":
    main()
