"""Map shared memory files in huge pages.

With small pages a decode takes a third longer, because of TLB misses. Memory files get small pages
by default (shmem_enabled is "never" on most systems), but Linux 6.1 and later collapse them into
huge pages on demand.
"""

import ctypes
import errno
import mmap
import os
import time

HUGE_PAGE = 2 * 1024 * 1024

_COLLAPSE = 25  # MADV_COLLAPSE
_FIXED = 0x10  # MAP_FIXED
_FAILED = ctypes.c_void_p(-1).value
# Pages that another thread or process is using can be collapsed a moment later.
_BUSY = (errno.EAGAIN, errno.EBUSY)
_ATTEMPTS = 5
_PAUSE_S = 0.01

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_libc.mmap.restype = ctypes.c_void_p
for _name, _extra_types in (
    ("munmap", ()),
    ("mprotect", (ctypes.c_int,)),
    ("madvise", (ctypes.c_int,)),
):
    getattr(_libc, _name).argtypes = (ctypes.c_void_p, ctypes.c_size_t, *_extra_types)


def round_up_to_pages(num_bytes: int) -> int:
    """Round a number of bytes up to whole huge pages."""
    return -(-num_bytes // HUGE_PAGE) * HUGE_PAGE


def allocate_pages(fd: int, num_bytes: int) -> None:
    """Set the size of an empty memory file and allocate each of its huge pages.

    An unallocated huge page would not be collapsed. Raises OSError if there is no memory.
    """
    os.ftruncate(fd, num_bytes)
    for offset in range(0, num_bytes, HUGE_PAGE):
        os.pwrite(fd, b"\0", offset)


def map_file(fd: int, num_bytes: int, writable: bool) -> int:
    """Map the first bytes of a file, a whole number of huge pages; return the aligned address.

    Raises OSError if the system does not give huge pages for all of them; nothing is mapped then.
    """
    address = _reserve(num_bytes)
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        if _libc.mmap(address, num_bytes, access, mmap.MAP_SHARED | _FIXED, fd, 0) == _FAILED:
            _raise_errno()
        _collapse(address, num_bytes)
    except BaseException:
        unmap(address, num_bytes)
        raise
    return address


def make_read_only(address: int, num_bytes: int) -> None:
    """Make a mapping read-only. Raises OSError if the system refuses."""
    if _libc.mprotect(address, num_bytes, mmap.PROT_READ):
        _raise_errno()


def unmap(address: int, num_bytes: int) -> None:
    """Remove a mapping; reading there afterwards ends the process."""
    _libc.munmap(address, num_bytes)


def _reserve(num_bytes: int) -> int:
    """Reserve an address range aligned to huge pages: mmap itself aligns to small pages only."""
    size = num_bytes + HUGE_PAGE
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _libc.mmap(None, size, 0, kind, -1, 0)
    if start == _FAILED:
        _raise_errno()
    address = round_up_to_pages(start)
    if address > start:
        unmap(start, address - start)
    unmap(address + num_bytes, start + size - address - num_bytes)
    return address


def _collapse(address: int, num_bytes: int) -> None:
    for attempts_left in reversed(range(_ATTEMPTS)):
        if not _advise(address, num_bytes, _COLLAPSE):
            return
        if ctypes.get_errno() not in _BUSY or not attempts_left:
            _raise_errno()
        time.sleep(_PAUSE_S)


def _advise(address: int, num_bytes: int, advice: int) -> int:
    result: int = _libc.madvise(address, num_bytes, advice)
    return result


def _raise_errno() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
