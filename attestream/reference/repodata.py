"""Reads the metadata of RPM repositories: ``repomd.xml``, and the list of packages that it names.

Source: the files that createrepo_c writes. They are read as they come by, so that only what is asked for takes memory, and
within bounds of depth and names: an XML parser keeps a table of the names that it has met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final, NamedTuple
from xml.parsers import expat

from attestream.errors import MalformedError, TooLargeError
from attestream.reference.compression import BUFFER
from attestream.reference.paths import NameSpace

MAX_BYTES: Final = 512 << 20
MAX_DEPTH: Final = 16
MAX_NAMES: Final = 1000
"""Names of elements and attributes that are different."""
MAX_TEXT: Final = 4096
"""Characters of a place or a digest."""

_REPO: Final = "http://linux.duke.edu/metadata/repo "
_COMMON: Final = "http://linux.duke.edu/metadata/common "


class _Item(NamedTuple):
    """A file that a repository has."""

    kind: str
    place: str
    """From the root of the repository; empty when none is given."""
    algorithm: str
    digest: str


def read_repomd(source: BinaryIO) -> tuple[str, str, str]:
    """Return where a repository's list of packages is: its place from the root, and algorithm and hex of its digest.

    :raises MalformedError: when ``source`` is not a ``repomd.xml`` that names one.
    :raises TooLargeError: when it is over its bounds.
    """
    for item in _items(source, _REPO, "data"):
        if item.kind == "primary" and item.place and item.digest:
            return item.place, item.algorithm, item.digest
    raise MalformedError("the repository's repomd.xml names no list of packages")


def read_primary(source: BinaryIO) -> dict[str, tuple[str, str]]:
    """Return the packages of a repository: place from the root -> algorithm and hex of the package's digest.

    :raises MalformedError: when ``source`` is not a list of packages.
    :raises TooLargeError: when it is over its bounds.
    """
    found: dict[str, tuple[str, str]] = {}
    space = NameSpace()
    for item in _items(source, _COMMON, "package"):
        if not item.place or not item.digest:
            raise MalformedError("the repository lists a package without place or digest")
        space.take(item.place + item.algorithm)
        found[item.place] = (item.algorithm, item.digest)
    return found


def _items(source: BinaryIO, space: str, element: str) -> Iterator[_Item]:
    reader = _Reader(space, element)
    left = MAX_BYTES
    try:
        while data := source.read(BUFFER):
            left -= len(data)
            if left < 0:
                raise TooLargeError(f"a repository's metadata has at most {MAX_BYTES} bytes")
            reader.parser.Parse(data, False)
            yield from reader.taken()
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MalformedError(f"the repository's metadata is not XML: {error}") from error
    yield from reader.taken()


class _Reader:
    """Picks elements of one name out of a document, each with its place and its checksum."""

    def __init__(self, space: str, element: str) -> None:
        self._element, self._location, self._checksum = space + element, space + "location", space + "checksum"
        self._names: dict[str, str] = {}
        self.parser = expat.ParserCreate(namespace_separator=" ", intern=self._names)
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self._depth = 0
        self._item: _Item | None = None
        self._text = ""
        self._found: list[_Item] = []

    def taken(self) -> list[_Item]:
        """Return the elements that have ended since the last call."""
        found, self._found = self._found, []
        return found

    def _refuse(self, *_: object) -> None:
        # Without a document type there are no entities: nothing can expand.
        raise MalformedError("the repository's metadata declares a document type")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH or len(self._names) > MAX_NAMES:
            raise MalformedError(f"the repository's metadata nests over {MAX_DEPTH} deep, or has over {MAX_NAMES} names")
        if name == self._element:
            self._item = _Item(attributes.get("type", ""), "", "", "")
        elif self._item is not None and name == self._location and not self._item.place:
            self._item = self._item._replace(place=_short(attributes.get("href", "")))
        elif self._item is not None and name == self._checksum and not self._item.digest:
            self._item = self._item._replace(algorithm=_short(attributes.get("type", "")))
            self._text = ""
            self.parser.CharacterDataHandler = self._hear

    def _hear(self, text: str) -> None:
        self._text += text
        if len(self._text) > MAX_TEXT:
            raise TooLargeError(f"a digest in the repository's metadata has more than {MAX_TEXT} characters")

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._item is None:
            return
        if name == self._checksum:
            self.parser.CharacterDataHandler = None
            if not self._item.digest:
                self._item = self._item._replace(digest=self._text.strip().lower())
        elif name == self._element:
            self._found.append(self._item)
            self._item = None


def _short(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise TooLargeError(f"an attribute in the repository's metadata has more than {MAX_TEXT} characters")
    return text
