"""Disks that are full, read-only, or fail: every output stays complete or absent."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.atomic import complete_or_absent, leftovers, sweep
from trak_steps.store.lock import holder, one_at_a_time, try_lock

TESTS = Path(__file__).parents[1]
IN_A_NAMESPACE = ["unshare", "--map-root-user", "--mount"]
Copy = Callable[[], tuple[Layout, Settings]]


def _can_mount() -> bool:
    try:
        done = subprocess.run(
            [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="needs unprivileged mounts (Linux)")


def _every_step(how: str, root: Path, before: str = "true") -> str:
    program = f"{before} && exec {sys.executable} -m faults.on_a_bad_disk {how} {root}"
    namespace = [] if how == "limit" else IN_A_NAMESPACE
    done = subprocess.run(
        [*namespace, "bash", "-c", program],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout.splitlines()[-1])
    return done.stdout


def test_no_step_leaves_half_a_result_when_a_file_cannot_grow(copy_run: Copy) -> None:
    layout, _ = copy_run()
    assert "26 refusals by 13 steps" in _every_step("limit", layout.root)


@needs_mounts
def test_no_step_leaves_half_a_result_on_a_full_disk(small_run: tuple[Layout, Settings]) -> None:
    copy = f"mount -t tmpfs -o size=120m none /mnt && cp -r {small_run[0].root} /mnt/run"
    assert "26 refusals by 13 steps" in _every_step("full", Path("/mnt/run"), copy)


@needs_mounts
def test_no_step_starts_in_a_folder_that_cannot_be_written_to(copy_run: Copy) -> None:
    layout, _ = copy_run()
    assert "13 refusals by 13 steps" in _every_step("read-only", layout.root)


CALLS = ("os.fsync", "os.open", "pathlib.Path.rename", "pathlib.Path.replace", "pathlib.Path.mkdir")


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_call_leaves_the_old_output_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, replaces: bool
) -> None:
    """Each call that the writer makes fails in turn, as a disk that goes bad would make it."""
    path = tmp_path / "deep" / "out"
    failures = 0
    for nth in range(1, 20):
        if path.parent.exists():
            shutil.rmtree(path.parent)
        if replaces:
            _write(path, "old")
        with monkeypatch.context() as patch:
            happened, refused = _fail(patch, call, nth), ""
            try:
                _write(path, "new")
            except TrakError as error:
                refused = str(error)
            failed = happened()
        if not failed:
            break
        if not refused:  # only what was replaced could not be removed, and the next run sweeps it
            assert _read(path) == "new"
            continue
        failures += 1
        assert "cannot be written" in refused
        # A failure after the rename reports what is uncertain, and the new output may be there.
        assert _read(path) in ({"old", "new"} if replaces else {None, "new"})
        assert leftovers(tmp_path) == []
        _write(path, "again")
        assert _read(path) == "again"
    assert failures or (call, replaces) == ("pathlib.Path.rename", False)


def _fail(patch: pytest.MonkeyPatch, call: str, nth: int) -> Callable[[], bool]:
    """Make the nth call of a function raise, once; gives whether that happened."""
    owner, _, name = call.rpartition(".")
    holder_ = os if owner == "os" else Path
    real = getattr(holder_, name)
    calls = 0

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **named)

    patch.setattr(holder_, name, failing)
    return lambda: calls >= nth


def _write(path: Path, text: str) -> None:
    with complete_or_absent(path) as folder:
        folder.mkdir()
        for i in range(3):
            (folder / f"{i}").write_text(text)


def _read(path: Path) -> str | None:
    """The text that all three files hold; none if there is no output. Half of one fails."""
    if not path.exists():
        return None
    texts = {(path / f"{i}").read_text() for i in range(3)}
    assert len(texts) == 1
    return texts.pop()


WRITER = """
import sys
from pathlib import Path
from trak_steps.store.atomic import complete_or_absent
for i in range(60):
    with complete_or_absent(Path(sys.argv[1])) as folder:
        folder.mkdir()
        for name in range(3):
            (folder / str(name)).write_text(f"{sys.argv[2]} {i}" * 100)
"""


def test_writers_of_the_same_output_do_not_mix(tmp_path: Path) -> None:
    """Four processes write one folder sixty times each, while another reads it."""
    path = tmp_path / "out"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(i)], cwd=TESTS.parent)
        for i in range(4)
    ]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        # A writer may put another output in place between two of a reader's files, so one at a time.
        descriptor = _open_folder(path)
        if descriptor is not None:
            reads += _same_texts(descriptor)
            os.close(descriptor)
    assert [writer.wait() for writer in writers] == [0] * 4
    assert _read(path) is not None
    assert reads
    assert leftovers(tmp_path) == []


def _open_folder(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None


def _same_texts(folder: int) -> bool:
    """Whether a folder that stayed in place holds three equal files; half of one fails."""
    texts = []
    for name in ("0", "1", "2"):
        try:
            descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
        except FileNotFoundError:
            return False  # replaced meanwhile, and this one is being removed
        with os.fdopen(descriptor) as file:
            texts.append(file.read())
    assert len(set(texts)) == 1
    assert len(texts[0]) % 100 == 0
    return True


def test_what_killed_writers_left_anywhere_in_a_run_is_swept(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    host = os.uname().nodename
    dead = tmp_path / "a" / f".x.zarr.{killed.pid}@{host}.0123abcd.tmp"
    alive = tmp_path / "b" / f".y.{os.getpid()}@{host}.0123abcd.tmp"
    reused = tmp_path / f".z.{os.getpid()}@{host}.0123abcd.old.tmp"
    elsewhere = tmp_path / ".z.1@another.0123abcd.tmp"
    long_ago = tmp_path / ".w.1@another.0123abcd.tmp"
    own = tmp_path / ".mine.tmp"
    for path in (dead, alive, reused, elsewhere, long_ago, own):
        path.mkdir(parents=True)
    for path in (reused, long_ago):
        os.utime(path, (1e9, 1e9))
    assert set(sweep(tmp_path)) == {reused, long_ago, dead}
    assert [path.exists() for path in (dead, alive, reused, elsewhere, long_ago, own)] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A lock that another process holds."""
    path = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from trak_steps.store.lock import try_lock; "
        "try_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()


def test_a_lock_is_freed_by_kill(held: tuple[Path, "subprocess.Popen[str]"]) -> None:
    path, process = held
    assert try_lock(path) is None
    assert holder(path).startswith(f"{process.pid} on ")
    process.kill()
    process.wait()
    descriptor = try_lock(path)
    assert descriptor is not None
    os.close(descriptor)


def test_one_waits_for_the_other(held: tuple[Path, "subprocess.Popen[str]"]) -> None:
    path, process = held
    told: list[str] = []

    def tell(who: str) -> None:
        told.append(who)
        threading.Timer(0.2, process.kill).start()

    with one_at_a_time(path, tell):
        assert holder(path).startswith(str(os.getpid()))
        assert try_lock(path) is None
    (first,) = told
    assert first.startswith(str(process.pid))
    with one_at_a_time(path, told.append):
        assert told == [first]
