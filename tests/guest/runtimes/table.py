"""The runtimes and their modes of loading: how to run each, and what it must be seen to do.

Used on the host and in the guest: the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Where the image is mounted in the guest; the model is at /data in each tree and outside.
ROOT = "/opt/runtimes"
#: Tree of the image -> (Debian's suite, its packages).
TREES = {
    "llama": ("sid", ("llama.cpp-tools", "strace")),
    "python": ("trixie", ("python3", "libstdc++6", "strace")),
}
#: The wheels, in the tree "python".
SITE = "/opt/site"
DATA = "/data/runtimes"
#: Format of models.py -> what the file is called.
NAMES = {
    "gguf": "model.gguf",
    "safetensors": "model.safetensors",
    "onnx": "inline.onnx",
    "onnx-external": "external.onnx",
    "ncnn": "model.ncnn.bin",
}

# How a file comes into memory, and what takes it: in dmatrace's words for both.
MAPPED = "mmap"  # page by page, when it is touched
POPULATED = "mmap+populate"  # by one call
BUFFERED = "buffered"
DIRECT = "direct"
IN_MAPPING = ""
IN_ANONYMOUS = "anonymous memory"


@dataclass(frozen=True)
class Run:
    """One runtime in one mode.

    ``command`` is run in ``tree``, {model} in it is the model's path.  ``loaded`` is what is
    behind the model's name in the file that holds the weights.
    """

    runtime: str
    mode: str
    tree: str
    format: str  # of models.py
    command: tuple[str, ...]
    way: str
    where: str
    loaded: str = ""

    @property
    def name(self) -> str:
        return f"{self.runtime}-{self.mode}"

    @property
    def verdict(self) -> str:
        """What dmatrace should say of the load of that file."""
        return f"{self.way} into {self.where}" if self.where else self.way

    @property
    def model(self) -> str:
        return f"{DATA}/{NAMES[self.format]}"

    @property
    def file(self) -> str:
        """The file with the weights."""
        return self.model + self.loaded

    def argv(self, *before: str) -> list[str]:
        """The whole command, in its tree; ``before``: a program of the tree that runs it."""
        words = [word.replace("{model}", self.model) for word in self.command]
        return ["chroot", f"{ROOT}/{self.tree}", *before, *words]


def _llama(mode: str, way: str, where: str) -> Run:
    command = ("llama-completion", "-m", "{model}", "--load-mode", mode, "-n", "1", "-p", "a")
    command += ("-no-cnv", "--no-warmup", "-c", "64", "-t", "1", "--simple-io")
    names = {"none": "read", "dio": "direct"}
    return Run("llama.cpp", names.get(mode, mode), "llama", "gguf", command, way, where)


def _python(runtime: str, mode: str, format: str, way: str, where: str, loaded: str = "") -> Run:
    command = ("python3", f"{DATA}/loading.py", f"{runtime}-{mode}", "{model}")
    return Run(runtime, mode, "python", format, command, way, where, loaded)


RUNS = {
    run.name: run
    for run in (
        _llama("mmap", POPULATED, IN_MAPPING),
        _llama("none", BUFFERED, IN_ANONYMOUS),
        _llama("dio", DIRECT, IN_ANONYMOUS),
        _python("onnxruntime", "inline", "onnx", BUFFERED, IN_ANONYMOUS),
        _python("onnxruntime", "external", "onnx-external", MAPPED, IN_MAPPING, ".data"),
        _python("safetensors", "mmap", "safetensors", MAPPED, IN_MAPPING),
        _python("safetensors", "bytes", "safetensors", BUFFERED, IN_ANONYMOUS),
        _python("ncnn", "file", "ncnn", BUFFERED, IN_ANONYMOUS),
    )
}
