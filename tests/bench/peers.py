"""The engines that compiled models are timed against, each at its best public settings, in a process of its own.

    python peers.py NAME MODEL.onnx INPUTS.npz --threads N --runs N --warmup N

prints one line of JSON, like `--bench` of a compiled model. "first_ms" is from before the model is loaded, with everything
imported, to after the first run; "peak_rss_bytes" is of the whole process.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))


def onnxruntime(model, feeds, threads):
    """All graph optimisations, which are its default; inputs as they are."""
    from compiled import session
    s = session(model, threads)
    names = [o.name for o in s.get_outputs()]
    return lambda: s.run(names, feeds)


def openvino(model, feeds, threads):
    """Reshaped to the extents of the inputs, as its documentation advises; float32; one stream for all threads."""
    import openvino as ov
    core = ov.Core()
    network = core.read_model(model)
    network.reshape({name: list(x.shape) for name, x in feeds.items()})
    compiled = core.compile_model(network, "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    })
    request = compiled.create_infer_request()
    # The arrays are read where they are: they must stay, which a shared tensor does not see to.
    arrays = {name: np.ascontiguousarray(x) for name, x in feeds.items()}
    for name, x in arrays.items():
        request.set_tensor(name, ov.Tensor(x, shared_memory=True))

    def run(_keep=arrays):
        request.infer()
    return run


def tract(model, feeds, threads):
    """At the extents of the inputs. Its package has no setting for threads: it runs on one, whatever is asked."""
    import tract as engine
    names = {"float32": "f32", "float64": "f64", "float16": "f16"}
    network = engine.onnx().load(model)
    arrays = [feeds[network.input_name(i)] for i in range(network.input_count())]
    for i, x in enumerate(arrays):
        kind = names.get(x.dtype.name) or x.dtype.name.replace("uint", "u").replace("int", "i")
        network.set_input_fact(i, ",".join([*map(str, x.shape), kind]))
    runnable = network.into_model().into_runnable()
    tensors = [engine.Tensor.from_numpy(x) for x in arrays]
    return lambda: runnable.run(tensors)


# How a package is called, what it is called in tables, and what loads a model in it; rten has no package, see peers/.
PEERS = {"onnxruntime": ("ONNX Runtime", onnxruntime), "openvino": ("OpenVINO", openvino), "tract": ("tract", tract),
         "rten": ("rten", None)}

# Built by `cargo build --release` in peers/.
RTEN = Path(__file__).resolve().parent / "peers" / "target" / "release" / "rten-peer"


def installed():
    return [name for name in PEERS if (RTEN.exists() if name == "rten" else importlib.util.find_spec(name))]


def version(name):
    if name == "rten":
        lock = (RTEN.parents[2] / "Cargo.lock").read_text(encoding="utf-8")
        return "rten " + lock.split('name = "rten"\nversion = "')[1].split('"')[0]
    return f"{PEERS[name][0]} {importlib.metadata.version(name)}"


def command(name, model, feeds_path, threads, runs, warmup):
    program = [RTEN] if name == "rten" else [sys.executable, Path(__file__).resolve(), name]
    return [*program, model, feeds_path, "--threads", threads, "--runs", runs, "--warmup", warmup]


def peak_rss_bytes():
    """The kernel's mark of this program alone: getrusage also remembers what the process was before exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("name", choices=[name for name, (_, load) in PEERS.items() if load])
    ap.add_argument("model")
    ap.add_argument("inputs")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--runs", type=int, default=20)
    ap.add_argument("--warmup", type=int, default=5)
    options = ap.parse_args()
    with np.load(options.inputs) as arrays:
        feeds = dict(arrays)
    importlib.import_module(options.name)
    begin = time.perf_counter_ns()
    run = PEERS[options.name][1](options.model, feeds, options.threads)
    times, first = [], None
    for i in range(options.warmup + options.runs):
        start = time.perf_counter_ns()
        run()
        end = time.perf_counter_ns()
        first = first or (end - begin) / 1e6
        if i >= options.warmup:
            times.append((end - start) / 1e6)
    print(json.dumps({"median_ms": float(np.median(times)), "min_ms": min(times), "max_ms": max(times), "first_ms": first,
                      "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
