"""Disks that are full, broken, read-only or slow: injected for real, by the kernel or by strace.

Each fault is given to a process of its own; what counts is what it reports and what is on disk afterwards.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from project import variables_without

from audio_api.audio.durable import check_target
from audio_api.audio.wav import encode_wav
from audio_api.audio.wav_file import write_wav
from audio_api.errors import TTSOutputError

pytestmark = pytest.mark.measured

OLD = encode_wav(b"\1\0" * 2_000)
PIECE_BYTES = 20_000

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and changing the user take root")


def strace_works() -> bool:
    """Whether strace is installed, and may trace a process here; containers often forbid it."""
    return (
        shutil.which("strace") is not None
        and subprocess.run(["strace", "-qq", "-o", os.devnull, "true"]).returncode == 0
    )


with_strace = pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace")

# Writes five pieces into a.wav, and says as JSON what came of it. Its draft has a known name, for strace to find.
CHILD = """
import asyncio, json, os, resource, secrets, sys
from pathlib import Path
from audio_api.audio.durable import check_target
from audio_api.audio.wav_file import WavWriter, write_wav
from audio_api.errors import TTSError

folder, mode, overwrite, *limit = sys.argv[1:]
secrets.token_hex = lambda size: "0" * 2 * size
os.getpid = lambda: 4194304
if limit == ["nobody"]:
    asyncio.run(asyncio.to_thread(int))  # what is imported late may be unreadable for that user
    os.seteuid(65534)
elif limit:
    kind = getattr(resource, limit[0])
    resource.setrlimit(kind, (int(limit[1]), resource.getrlimit(kind)[1]))

async def stream():
    async with WavWriter(Path(folder), "a", overwrite=bool(int(overwrite))) as writer:
        for _ in range(5):
            await writer.write(bytes(20_000))
        return await writer.commit()

async def main():
    if mode == "check":
        return await check_target(Path(folder), "a.wav", overwrite=bool(int(overwrite)))
    if mode == "once":
        return await write_wav(Path(folder), "a", bytes(100_000), overwrite=bool(int(overwrite)))
    return await stream()

try:
    answer = {"path": str(asyncio.run(main()))}
except TTSError as error:
    answer = {"class": type(error).__name__, "code": error.code, "text": str(error), "retryable": error.retryable}
print(json.dumps(answer))
"""
DRAFT = ".a.wav.4194304.0000000000000000.tmp"


def run(
    folder: Path, mode: str = "stream", *limit: str, overwrite: bool = True, wrapper: tuple[str, ...] = ()
) -> dict[str, object]:
    """What a process says that wrote, or checked, under the fault."""
    # A limit holds for the file of the coverage measurement, too, which would be damaged by it.
    environment = variables_without("COVERAGE_") if limit else None
    done = subprocess.run(
        [*wrapper, sys.executable, "-B", "-c", CHILD, str(folder), mode, str(int(overwrite)), *limit],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def refused(answer: dict[str, object], reason: str) -> None:
    """It is an output error that names the file and the reason, and does not ask for another paid call."""
    assert answer["class"] == "TTSOutputError", answer
    assert answer["code"] == "output_failed"
    assert answer["retryable"] is False
    assert re.search(rf"cannot write '.*a\.wav': .* \({reason}\)", str(answer["text"])), answer


def intact(folder: Path) -> None:
    """The older file is as it was, and nothing is beside it."""
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
    assert (folder / "a.wav").read_bytes() == OLD


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with an older file of the same name."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.wav").write_bytes(OLD)
    return folder


# --- D1, D2: no room


@as_root
@pytest.mark.parametrize("mode", ["stream", "once"])
def test_a_full_disk_costs_nothing_old(mount: Callable[[str], Path], mode: str) -> None:
    """ENOSPC removes the draft, so that the disk has room again, and leaves the older file."""
    folder = mount("size=64k")
    (folder / "a.wav").write_bytes(OLD)
    refused(run(folder, mode), "ENOSPC")
    intact(folder)


@as_root
def test_a_full_disk_without_an_older_file_stays_empty(mount: Callable[[str], Path]) -> None:
    """Nothing at all is left behind."""
    folder = mount("size=64k")
    refused(run(folder, overwrite=False), "ENOSPC")
    assert list(folder.iterdir()) == []


@as_root
def test_no_inode_left_is_found_before_the_call(mount: Callable[[str], Path]) -> None:
    """A disk that takes no further file is found by the check already."""
    folder = mount("size=1m,nr_inodes=2")
    (folder / "a.wav").write_bytes(OLD)
    refused(run(folder, "check"), "ENOSPC")
    refused(run(folder), "ENOSPC")
    intact(folder)


@pytest.mark.parametrize("mode", ["stream", "once"])
@pytest.mark.parametrize("limit_bytes", [20, 44, 50_000])
def test_a_file_size_limit_is_like_a_full_disk(out: Path, mode: str, limit_bytes: int) -> None:
    """EFBIG, even in the middle of a piece or of the header."""
    refused(run(out, mode, "RLIMIT_FSIZE", str(limit_bytes)), "EFBIG")
    intact(out)


# --- D3: broken


def strace(folder: Path, *inject: str) -> tuple[str, ...]:
    """The tracer, told to answer system calls on the draft, the folder or the name with an error."""
    paths = [argument for path in (folder / DRAFT, folder, folder / "a.wav") for argument in ("-P", str(path))]
    return (
        "strace",
        "-f",
        "-qq",
        "-o",
        str(folder.parent / "trace"),
        *paths,
        *(part for rule in inject for part in ("-e", f"inject={rule}")),
    )


@with_strace
@pytest.mark.parametrize("mode", ["stream", "once"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("openat:error=EIO:when=1", "EIO"),
        ("openat:error=EMFILE:when=2", "EMFILE"),
        ("lseek:error=EIO", "EIO"),
        ("write:error=EIO:when=1", "EIO"),
        ("write:error=EIO:when=2", "EIO"),
        ("write:error=EDQUOT:when=1", "EDQUOT"),
        ("fsync:error=EIO:when=1", "EIO"),
        ("fsync:error=ENOSPC:when=1", "ENOSPC"),
        ("rename,renameat,renameat2:error=EACCES:when=1", "EACCES"),
        ("rename,renameat,renameat2:error=EXDEV:when=1", "EXDEV"),
    ],
)
def test_a_broken_disk_is_a_failure_at_every_step(out: Path, mode: str, fault: str, reason: str) -> None:
    """Whichever step fails, sync included: an error, no draft, and the older file."""
    refused(run(out, mode, wrapper=strace(out, fault)), reason)
    intact(out)


@with_strace
def test_an_error_on_close_is_a_failure(out: Path) -> None:
    """Network file systems report a failed write when the file is closed."""
    closing_the_draft = (
        "strace",
        "-f",
        "-qq",
        "-o",
        str(out.parent / "trace"),
        "-P",
        str(out / DRAFT),
        "-e",
        "inject=close:error=EIO:when=1",
    )
    refused(run(out, wrapper=closing_the_draft), "EIO")
    intact(out)


@with_strace
def test_a_new_name_that_cannot_be_made_durable_is_given_back(out: Path) -> None:
    """When the folder cannot be synced, a name that was free is free again, and another try is not told it is taken."""
    (out / "a.wav").unlink()
    refused(run(out, overwrite=False, wrapper=strace(out, "fsync:error=EIO:when=2")), "EIO")
    assert list(out.iterdir()) == []


@with_strace
def test_a_replaced_file_is_whole_though_its_folder_cannot_be_synced(out: Path) -> None:
    """The replacement is done then: the error says that it is not durable, the file is the complete new one."""
    refused(run(out, wrapper=strace(out, "fsync:error=EIO:when=2")), "EIO")
    assert [path.name for path in out.iterdir()] == ["a.wav"]
    assert (out / "a.wav").read_bytes() == encode_wav(bytes(5 * PIECE_BYTES))


@with_strace
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_system_that_syncs_no_folders_is_good_enough(out: Path, overwrite: bool) -> None:
    """Some network file systems answer EINVAL to that; it is no failure."""
    if not overwrite:
        (out / "a.wav").unlink()
    answer = run(out, overwrite=overwrite, wrapper=strace(out, "fsync:error=EINVAL:when=2"))
    assert answer == {"path": str(out / "a.wav")}
    assert (out / "a.wav").read_bytes() == encode_wav(bytes(5 * PIECE_BYTES))


# --- no hard links


@with_strace
@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP"])
def test_without_hard_links_a_free_name_is_taken_all_the_same(out: Path, error: str) -> None:
    """Where links do not exist, the name is reserved by an empty file and then replaced."""
    (out / "a.wav").unlink()
    answer = run(out, overwrite=False, wrapper=strace(out, f"linkat:error={error}"))
    assert answer == {"path": str(out / "a.wav")}
    assert [path.name for path in out.iterdir()] == ["a.wav"]
    assert (out / "a.wav").read_bytes() == encode_wav(bytes(5 * PIECE_BYTES))


@with_strace
def test_without_hard_links_a_taken_name_is_still_taken(out: Path) -> None:
    """The reservation is exclusive, too."""
    answer = run(out, overwrite=False, wrapper=strace(out, "linkat:error=EPERM"))
    assert answer["code"] == "output_exists"
    intact(out)


@with_strace
def test_without_hard_links_a_failed_reservation_is_given_back(out: Path) -> None:
    """No empty file stays behind when the last step fails."""
    (out / "a.wav").unlink()
    faults = ("linkat:error=EPERM", "rename,renameat,renameat2:error=EIO")
    refused(run(out, overwrite=False, wrapper=strace(out, *faults)), "EIO")
    assert list(out.iterdir()) == []


@with_strace
def test_a_link_that_fails_otherwise_is_a_failure(out: Path) -> None:
    """Only the answers that mean "no links here" lead to the other way."""
    (out / "a.wav").unlink()
    refused(run(out, overwrite=False, wrapper=strace(out, "linkat:error=EIO")), "EIO")
    assert list(out.iterdir()) == []


# --- D4, D5: no permission


@as_root
@pytest.mark.parametrize("mode", ["check", "stream", "once"])
@pytest.mark.parametrize("below", ["", "new/deep"])
def test_a_folder_of_another_user_is_found_before_the_call(tmp_path: Path, mode: str, below: str) -> None:
    """EACCES, whether the folder exists or would have to be made."""
    # pytest's folders are private to their owner: the fault is meant to be in this folder, not above it.
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o555)
    try:
        refused(run(tmp_path / below, mode, "nobody"), "EACCES")
    finally:
        tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


@as_root
@pytest.mark.parametrize("mode", ["check", "stream", "once"])
def test_a_read_only_disk_is_found_before_the_call(mount: Callable[[str], Path], mode: str) -> None:
    """EROFS, which stops even root."""
    folder = mount("size=64k")
    (folder / "a.wav").write_bytes(OLD)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    refused(run(folder, mode), "EROFS")
    intact(folder)


@as_root
async def test_the_check_does_not_fail_because_of_root(tmp_path: Path) -> None:
    """Root may write into any folder, so the check lets it."""
    tmp_path.chmod(0o555)
    await check_target(tmp_path, "a.wav", overwrite=False)
    assert (await write_wav(tmp_path, "a", b"\0\0")).exists()


# --- D9: the order of things


def steps(trace: str) -> list[str]:
    """The system calls that make a file durable, in order, repetitions folded."""
    patterns = {
        "write": r"write\(",
        "fsync": r"fsync\(",
        "link": r"linkat\(",
        "rename": r"rename(at2?)?\(",
        "unlink": r"unlink(at)?\(",
    }
    # "-y" shows the path of every descriptor: only what concerns the draft, its name or its folder counts.
    found = []
    for line in trace.splitlines():
        for name, pattern in patterns.items():
            if re.search(rf"\b{pattern}", line) and "= -1" not in line:
                what = "folder" if name == "fsync" and DRAFT not in line else ""
                found.append(f"{name} {what}".strip())
    return [step for number, step in enumerate(found) if number == 0 or found[number - 1] != step]


@with_strace
@pytest.mark.parametrize("mode", ["stream", "once"])
@pytest.mark.parametrize(
    ("overwrite", "expected"),
    [
        (True, ["write", "fsync", "rename", "fsync folder"]),
        (False, ["write", "fsync", "link", "unlink", "fsync folder"]),
    ],
)
def test_the_order_survives_a_power_failure(out: Path, mode: str, overwrite: bool, expected: list[str]) -> None:
    """All bytes are on disk before the name appears, and the name is before the call returns."""
    if not overwrite:
        (out / "a.wav").unlink()
    answer = run(out, mode, overwrite=overwrite, wrapper=("strace", "-y", *strace(out)[1:]))
    assert answer == {"path": str(out / "a.wav")}
    assert steps((out.parent / "trace").read_text()) == expected


# --- D10: no descriptors


@pytest.mark.parametrize("spare", [0, 1])
async def test_no_descriptor_left_is_an_output_error(out: Path, spare: int) -> None:
    """EMFILE is reported as any other refusal, and no descriptor leaks on the way."""
    descriptors = Path("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = sorted(descriptors.iterdir())
    with ExitStack() as undo:
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 20, hard))
        hoard: list[int] = []
        with suppress(OSError):
            while True:
                hoard.append(os.dup(0))
                undo.callback(os.close, hoard[-1])
        for fd in hoard[:spare]:
            os.close(fd)
        with pytest.raises(TTSOutputError, match="EMFILE"):
            await write_wav(out, "a", b"\0\0", overwrite=True)
        for _ in hoard[:spare]:
            os.dup(0)
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
    intact(out)
    assert sorted(descriptors.iterdir()) == before
