"""Runs in the image's Python: loads a model with a runtime, computes with it once, and ends.

python3 loading.py RUNTIME-MODE MODEL
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, "/opt/site")  # SITE of table.py

WIDTH = 2048  # of the models' matrices


def onnxruntime(model: str) -> float:
    """A session with the defaults; the weights are where the model has them."""
    import numpy
    import onnxruntime as runtime

    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    row = numpy.ones((1, WIDTH), "float32")
    return float(session.run(None, {"x0": row})[0].sum())


def safetensors_mmap(model: str) -> float:
    """Tensor by tensor, out of a mapping."""
    from safetensors import safe_open

    with safe_open(model, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return float(sum(tensor[0, 0] for tensor in tensors.values()))


def safetensors_bytes(model: str) -> float:
    """The whole file, read by Python."""
    from safetensors.numpy import load

    tensors = load(Path(model).read_bytes())
    return float(sum(tensor[0, 0] for tensor in tensors.values()))


def ncnn(model: str) -> float:
    """A network on one thread."""
    import ncnn as runtime
    import numpy

    network = runtime.Net()
    network.opt.num_threads = 1
    graph = model.removesuffix(".bin") + ".param"
    if network.load_param(graph) or network.load_model(model):
        raise SystemExit(f"ncnn cannot load {model}")
    row = numpy.ones(WIDTH, "float32")  # which the Mat does not keep alive
    extractor = network.create_extractor()
    extractor.input("x0", runtime.Mat(row))
    code, result = extractor.extract(network.output_names()[0])
    if code:
        raise SystemExit(f"ncnn cannot compute: {code}")
    return float(numpy.array(result).sum())


LOADS = {
    "onnxruntime-inline": onnxruntime,
    "onnxruntime-external": onnxruntime,
    "safetensors-mmap": safetensors_mmap,
    "safetensors-bytes": safetensors_bytes,
    "ncnn-file": ncnn,
}

if __name__ == "__main__":
    print(LOADS[sys.argv[1]](sys.argv[2]))
