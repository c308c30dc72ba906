"""The workflow's jobs as forks of a process that has imported what the steps import.

A job of a tiny run imports libraries for seconds and computes for a fraction of one. So the shells of a
workspace's workflow find, first on their path, a ``trak-steps`` that hands its arguments, folder,
environment and streams to a server, and a fork of that runs them. The server imports nothing of the
package: a job has the copy that its PYTHONPATH names, as with the real command. Jobs that a test kills
are of the real command, since a fork outlives its caller.
"""

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

IMPORTED = (
    *("torch", "torch.func", "accelerate", "safetensors.torch", "tokenizers", "huggingface_hub"),
    *("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.pytorch_utils"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
    *("datasets", "pyarrow.parquet", "pyarrow.compute", "zarr.codecs.numcodecs", "zarr.storage"),
    *("scipy.stats", "scipy.optimize", "typer", "pydantic", "yaml", "psutil", "tqdm"),
)
COMMAND = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(said).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(said)
    code = server.recv(16)
sys.exit(int(code) if code else "the job was killed")
"""


@cache
def startup_of_shells() -> Path:
    """What bash reads first, as BASH_ENV, to find such a ``trak-steps``.

    The server is started by the first call, and ends with this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="jobs-"))
    address = str(folder / "socket")
    command = folder / "trak-steps"
    command.write_text(COMMAND.format(python=sys.executable, address=address))
    command.chmod(0o700)
    startup = folder / "startup"
    # Read after the workflow has put this Python's commands first.
    startup.write_text(f"PATH={folder}:$PATH\n")
    # One thread, so that none is lost in a fork; Arrow's allocator starts one that only tidies up.
    one = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    environment = {**os.environ, **one, "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)
    return startup


def serve(address: str) -> None:
    """Fork for every call, until whoever started the server is gone."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "trak_steps" for name in sys.modules)
    if (threads := Path("/proc/self/task")).is_dir():
        assert len([*threads.iterdir()]) == 1, "a thread would be lost in a fork"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    os.write(1, b"ready\n")
    while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
        call, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(call)
        call.close()
    shutil.rmtree(Path(address).parent)


def _run(call: socket.socket) -> None:
    """What ``trak-steps`` does, for another process; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        size, streams, *_ = socket.recv_fds(call, 8, 3)
        said = call.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # Anew: what they write to may be of another kind, a file or a pipe.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        arguments, folder, environment = json.loads(said)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["trak-steps", *arguments]
        sys.path[0:1] = environment["PYTHONPATH"].split(os.pathsep)  # instead of this file's folder
        code = _command()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        call.sendall(str(code).encode())
        os._exit(code)


def _command() -> int:
    import numpy as np

    np.random.seed()  # as in a process of its own: whoever draws from it gets other numbers each time
    from trak_steps.__main__ import main

    try:
        main()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
