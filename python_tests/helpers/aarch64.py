"""The CPU operators for aarch64, executed by an emulator of that processor: the program that ``make test-aarch64`` builds,
as operators of torch in a namespace of their own. ``python_tests/kernels/aarch64/main.cpp`` says what goes through the
pipe."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

import torch

from desc_ext.ops import registration

NAMESPACE = "desc_ext_aarch64"
EMULATOR = "qemu-aarch64"
PROGRAM = os.environ.get("DESC_EXT_AARCH64_PROGRAM", "")

DTYPES = {
    torch.uint8: 0,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bfloat16: 15,
}
OF_NUMBER = {number: dtype for dtype, number in DTYPES.items()}
NUMBERS = {"int": ("I", "<q"), "bool": ("B", "<q"), "float": ("D", "<d")}


def text_bytes(text: str) -> bytes:
    return struct.pack("<q", len(text.encode())) + text.encode()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    head = struct.pack(f"<{2 + tensor.dim()}q", DTYPES[tensor.dtype], tensor.dim(), *tensor.shape)
    values = tensor.detach()
    return head + (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy().tobytes()


def argument_bytes(kind: str, value) -> bytes:
    """``kind`` is the type in the operator's schema."""
    if kind == "str":
        return b"S" + text_bytes(value)
    if kind in NUMBERS:
        letter, form = NUMBERS[kind]
        return letter.encode() + struct.pack(form, value)
    if value is None:
        return b"N"
    return (b"T" if kind == "Tensor" else b"O") + tensor_bytes(value)


class Program:
    """One process for all calls; another one where it ended in a call."""

    def __init__(self, *command: str):
        self.command = command
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )

    def read(self, size: int) -> bytes:
        data = self.process.stdout.read(size)
        if len(data) != size:
            self.fail()
        return data

    def write(self, data: bytes) -> None:
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail()

    def fail(self) -> NoReturn:
        code, self.process = self.process.wait(), None
        self.errors.seek(0)
        raise RuntimeError(f"{self.command[-1]} ended with exit code {code}: {self.errors.read()}")

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.read(8 * count))

    def text(self) -> str:
        return self.read(*self.numbers(1)).decode()

    def result(self) -> torch.Tensor | str:
        if self.read(1) == b"S":
            return self.text()
        number, dim = self.numbers(2)
        shape = self.numbers(dim)
        result = torch.empty(shape, dtype=OF_NUMBER[number])
        if result.numel():
            data = bytearray(self.read(result.numel() * result.element_size()))
            result.view(-1).copy_(torch.frombuffer(data, dtype=result.dtype))
        return result

    def call(self, schema: torch.FunctionSchema, given: tuple):
        """The results of the operator; torch leaves out trailing arguments that have their default."""
        values = [*given, *(argument.default_value for argument in schema.arguments[len(given) :])]
        arguments = [
            argument_bytes(str(argument.type), value)
            for argument, value in zip(schema.arguments, values, strict=True)
        ]
        n_results = len(schema.returns)
        counts = struct.pack("<3q", torch.get_num_threads(), n_results, len(arguments))
        with self.lock:
            if self.process is None:
                self.start()
            self.write(text_bytes(schema.name.partition("::")[2]) + counts + b"".join(arguments))
            (done,) = self.numbers(1)
            if not done:
                raise RuntimeError(self.text())
            results = tuple(self.result() for _ in range(n_results))
        return results if n_results > 1 else results[0]


@functools.cache
def load() -> torch.library.Library:
    """Defines every operator in the namespace; the library has to live as long as it is used."""
    program = Program(EMULATOR, str(Path(PROGRAM).resolve()))
    library = torch.library.Library(NAMESPACE, "DEF")
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("desc_ext::")]
    for name in (name.removeprefix("desc_ext::") for name in names):
        schema = getattr(torch.ops.desc_ext, name).default._schema
        library.define(str(schema).removeprefix("desc_ext::"))
        key = "CPU" if name != "build_info" else "CompositeExplicitAutograd"
        library.impl(name, lambda *given, _schema=schema: program.call(_schema, given), key)
    registration.register_namespace(NAMESPACE)
    return library
