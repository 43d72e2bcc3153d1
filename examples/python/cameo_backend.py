#!/usr/bin/env python3
"""Cameo as a backend of ONNX: `CameoBackend` compiles a model to a shared library and runs it through the C interface.

    import onnx, cameo_backend
    outputs = cameo_backend.CameoBackend.prepare(onnx.load("model.onnx")).run([x])

As a program it runs ONNX's own backend tests; names are patterns of tests, without them all run:

    CAMEO=target/release/cameo python cameo_backend.py [PATTERN...]

The compiler is the program that the variable CAMEO names, or `cameo` on the PATH. Wants the packages `onnx` and `numpy`.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep

BITS = {name: int("".join(c for c in name.lower() if c.isdigit())[:1]) for name in
        ["UINT4", "INT4", "UINT2", "INT2", "FLOAT4E2M1"]}
BITS = {onnx.TensorProto.DataType.Value(name): bits for name, bits in BITS.items()}


class Refused(RuntimeError):
    """What the compiler or the runtime says of a model or of its inputs."""


class Dim(ctypes.Structure):
    _fields_ = [("extent", ctypes.c_int64), ("symbol", ctypes.c_int64)]


class TensorInfo(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_uint32), ("rank", ctypes.c_size_t),
                ("dims", ctypes.POINTER(Dim))]


class OutputInfo(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("dtype", ctypes.c_uint32),
                ("rank", ctypes.c_size_t), ("shape", ctypes.POINTER(ctypes.c_int64))]


class String(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


def compiler():
    program = os.environ.get("CAMEO") or shutil.which("cameo")
    if not program:
        raise Refused("set CAMEO to the compiler, or put `cameo` on the PATH")
    return program


def packed(array, dtype):
    """The elements as bytes: those of less than a byte share one, the first in the lowest bits."""
    array = np.ascontiguousarray(array)
    bits = BITS.get(dtype)
    if bits is None:
        return array.tobytes()
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    per_byte = 8 // bits
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    return sum(codes[:, i] << (bits * i) for i in range(per_byte)).astype(np.uint8).tobytes()


def texts(array):
    """The elements as an array of `cameo_string`, and what must stay for as long."""
    encoded = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1).tolist()]
    return (String * max(len(encoded), 1))(*(String(text, len(text)) for text in encoded)), encoded


def read_texts(address, shape):
    count = int(np.prod(shape, dtype=np.int64))
    out = np.empty(count, object)
    if count:
        # As numbers: ctypes would cut bytes at a zero.
        words = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_size_t)), (count, 2))
        out[:] = [ctypes.string_at(int(data), int(size)).decode() if size else "" for data, size in words]
    return out.reshape(shape)


def unpacked(raw, dtype, shape):
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    bits = BITS.get(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if bits is None:
        return np.frombuffer(raw, numpy_type, count).reshape(shape).copy()
    data = np.frombuffer(raw, np.uint8)
    codes = np.stack([data >> (bits * i) for i in range(8 // bits)], axis=1).reshape(-1)[:count] & ((1 << bits) - 1)
    if np.dtype(numpy_type).name.startswith("int"):
        codes = codes.astype(np.int8)
        codes[codes >= 1 << (bits - 1)] -= 1 << bits
        return codes.astype(numpy_type).reshape(shape)
    return codes.astype(np.uint8).view(numpy_type).reshape(shape)


def is_sequence(value_type):
    while value_type.WhichOneof("value") == "optional_type":
        value_type = value_type.optional_type.elem_type
    return value_type.WhichOneof("value") == "sequence_type"


def tensors(value_type, given):
    """The tensors of an input: those of a sequence, one, or none of an optional."""
    if given is None:
        return []
    return list(given) if is_sequence(value_type) else [given]


def items(value, given):
    """What `--items` says of an input that is a sequence or an optional."""
    if given is None:
        return f"{value.name}=none"
    shapes = [",".join(["?"] * np.ndim(tensor)) for tensor in tensors(value.type, given)]
    return f"{value.name}=" + (",".join(f"[{shape}]" for shape in shapes) or "0")


def sequence(results, name):
    """The tensors of an output. Where only a run knows how many there are, it has their elements and their shapes."""
    if f"{name}[].shapes" in results:
        shapes = results[f"{name}[].shapes"]
        sizes = np.prod(shapes, axis=1, dtype=np.int64)
        parts = np.split(results[f"{name}[].elements"], np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes)]
    own = [f"{name}[{i}]" for i in range(len(results))]
    return [results[one] for one in own if one in results]


class CameoRep(BackendRep):
    """A model. One with sequences or optionals as inputs is compiled for each number of tensors that they have."""

    def __init__(self, model, **flags):
        weights = {tensor.name for tensor in model.graph.initializer}
        self.model = model
        self.formals = [value for value in model.graph.input if value.name not in weights]
        self.programs = {}
        if all(value.type.WhichOneof("value") == "tensor_type" for value in self.formals):
            self.program([])

    def program(self, flags):
        """The compiled model for what inputs hold."""
        key = tuple(flags)
        if key not in self.programs:
            self.programs[key] = Program(self.model, flags)
        return self.programs[key]

    def run(self, inputs, **kwargs):
        if isinstance(inputs, dict):
            inputs = [inputs.get(value.name) for value in self.formals]
        if len(inputs) != len(self.formals):
            raise Refused(f"{len(inputs)} inputs given, the model has {len(self.formals)}")
        flags, flat = [], []
        for value, given in zip(self.formals, inputs):
            if value.type.WhichOneof("value") != "tensor_type":
                flags += ["--items", items(value, given)]
            flat += tensors(value.type, given)
        results = self.program(flags).run(flat)
        outputs = []
        for value in self.model.graph.output:
            if not results.get(f"{value.name}[].present", True):
                outputs.append(None)
            elif is_sequence(value.type):
                outputs.append(sequence(results, value.name))
            else:
                outputs.append(results[value.name])
        return outputs


class Program:
    """A compiled model."""

    def __init__(self, model, flags):
        self.context = None
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        onnx.save(model, path / "model.onnx")
        command = [compiler(), "compile", path / "model.onnx", *flags, "--emit", "shared", "-o", path / "out"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        library = next((path / "out").glob("*.so"))
        weights = next((path / "out").glob("*.weights"), None)
        self.api = ctypes.CDLL(str(library))
        self.api.cameo_last_error.restype = ctypes.c_char_p
        for count in (self.api.cameo_input_count, self.api.cameo_output_count):
            count.restype = ctypes.c_size_t
        name = library.stem.removeprefix("lib")
        descriptor = ctypes.addressof(ctypes.c_char.in_dll(self.api, f"{name}_model"))
        self.model, self.context = ctypes.c_void_p(), ctypes.c_void_p()
        weights = str(weights).encode() if weights else None
        self.call("cameo_model_open", ctypes.c_void_p(descriptor), weights, ctypes.byref(self.model))
        self.call("cameo_context_create", self.model, None, ctypes.byref(self.context))
        self.inputs = [self.describe("cameo_input_describe", i) for i in range(self.api.cameo_input_count(self.model))]
        self.outputs = [self.describe("cameo_output_describe", i).name.decode()
                        for i in range(self.api.cameo_output_count(self.model))]

    def call(self, function, *arguments):
        if getattr(self.api, function)(*arguments):
            raise Refused(self.api.cameo_last_error().decode())

    def describe(self, function, index):
        info = TensorInfo()
        self.call(function, self.model, ctypes.c_size_t(index), ctypes.byref(info))
        return info

    def run(self, inputs):
        """The outputs by name."""
        if len(inputs) != len(self.inputs):
            raise Refused(f"{len(inputs)} inputs given, the model has {len(self.inputs)}")
        kept = []
        for index, (info, value) in enumerate(zip(self.inputs, inputs)):
            array = np.asarray(value)
            if info.dtype == onnx.TensorProto.STRING:
                strings, encoded = texts(array)
                address, size = ctypes.addressof(strings), array.size * ctypes.sizeof(String)
                kept.append((strings, encoded))
            else:
                raw = packed(array, info.dtype)
                # Aligned as the widest element type is.
                memory = np.zeros(len(raw) // 8 + 1, np.int64)
                ctypes.memmove(memory.ctypes.data, raw, len(raw))
                address, size = memory.ctypes.data, len(raw)
                kept.append(memory)
            shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
            self.call("cameo_bind_input", self.context, ctypes.c_size_t(index), ctypes.c_uint32(info.dtype), shape,
                      ctypes.c_size_t(array.ndim), ctypes.c_void_p(address), ctypes.c_size_t(size))
        self.call("cameo_run", self.context)
        outputs = {}
        for index, name in enumerate(self.outputs):
            info = OutputInfo()
            self.call("cameo_output_get", self.context, ctypes.c_size_t(index), ctypes.byref(info))
            shape = tuple(info.shape[i] for i in range(info.rank))
            if info.dtype == onnx.TensorProto.STRING:
                outputs[name] = read_texts(info.data, shape)
                continue
            raw = ctypes.string_at(info.data, info.bytes) if info.bytes else b""
            outputs[name] = unpacked(raw, info.dtype, shape)
        return outputs

    def __del__(self):
        if self.context:
            self.api.cameo_context_destroy(self.context)
            self.api.cameo_model_close(self.model)


class CameoBackend(Backend):
    """What `onnx.backend.test.runner.Runner` wants."""

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return CameoRep(model)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"


def main():
    from onnx.backend.test.runner import Runner
    runner = Runner(CameoBackend, __name__)
    for pattern in sys.argv[1:]:
        runner.include(pattern)
    suite = unittest.TestSuite()
    for case in runner.test_cases.values():
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner().run(suite)
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
