"""Files as disks, networks and editors damage them, for fuzz tests."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from accupoison.errors import InputError


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _zero(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    content[start:end] = bytes(end - start)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _remove(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    del content[start:end]


def _repeat(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    content[end:end] = content[start:end]


def _swap(content: bytearray, rng: random.Random) -> None:
    middle = rng.randrange(len(content))
    start, end = rng.randrange(middle + 1), rng.randrange(middle, len(content) + 1)
    content[start:end] = content[middle:end] + content[start:middle]


def _insert(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.choice((1, 4, 100)))


def _noise(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    content[start:end] = rng.randbytes(end - start)


WAYS = (_flip, _flip, _flip, _zero, _cut, _remove, _repeat, _swap, _insert, _noise)


def _block(content: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, min(len(content), start + rng.choice((1, 4, 16, 100, 512)))


def damages(content: bytes, rounds: int, seed: int) -> Iterator[bytes]:
    """Yield ``rounds`` damaged versions of a file, the first an empty one, each different from it."""
    rng = random.Random(seed)
    yield b""
    made = 1
    while made < rounds:
        damaged = bytearray(content)
        rng.choice(WAYS)(damaged, rng)
        if damaged != content:
            made += 1
            yield bytes(damaged)


def outcomes(path: Path, rounds: int, seed: int, read: Callable[[], object]) -> Counter[str]:
    """Count what ``read`` makes of damaged versions of ``path``: ``refused`` by an InputError of one line, ``read`` as
    it was, or ``other`` than it was; any other exception is passed on."""
    content, whole = path.read_bytes(), read()
    found: Counter[str] = Counter()
    for number, damaged in enumerate(damages(content, rounds, seed)):
        path.write_bytes(damaged)
        try:
            found["read" if read() == whole else "other"] += 1
        except InputError as error:
            found["refused" if "\n" not in str(error) else "refused in several lines"] += 1
        except Exception as error:
            raise AssertionError(f"damage {number} of {path.name} under seed {seed}: {error!r}") from error
    assert not found["refused in several lines"]
    path.write_bytes(content)
    assert read() == whole
    return found
