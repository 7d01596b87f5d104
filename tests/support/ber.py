"""The little of BER that LDAP messages are made of: definite lengths, tags of one byte."""

Item = tuple[int, bytes]

BOOLEAN, INTEGER, OCTETS, ENUMERATED, SEQUENCE, SET = 0x01, 0x02, 0x04, 0x0A, 0x30, 0x31

_LONG = 0x80
_HIGH_TAG = 0x1F


class BerError(ValueError):
    """These bytes are not the BER of an LDAP message."""


def tlv(tag: int, *parts: bytes | str) -> bytes:
    """Write one item: its tag, its length, and the parts that are its content."""
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    size = len(content)
    if size < _LONG:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """Write a SEQUENCE of these items."""
    return tlv(SEQUENCE, *parts)


def octets(value: bytes | str) -> bytes:
    """Write an OCTET STRING, text as UTF-8."""
    return tlv(OCTETS, value)


def integer(value: int, tag: int = INTEGER) -> bytes:
    """Write an INTEGER, or an ENUMERATED by its tag."""
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def boolean(*, value: bool) -> bytes:
    """Write a BOOLEAN."""
    return tlv(BOOLEAN, b"\xff" if value else b"\x00")


def number(content: bytes) -> int:
    """Read the content of an INTEGER or ENUMERATED."""
    if not content:
        raise BerError("a number without a byte")
    return int.from_bytes(content, "big", signed=True)


def items(content: bytes) -> list[Item]:
    """Read all items, which have to fill the content to its last byte."""
    found = []
    while content:
        size = size_of(content)
        if size is None or size > len(content):
            raise BerError(f"an item ends after the {len(content)} bytes that there are")
        header = 2 + (content[1] & ~_LONG if content[1] & _LONG else 0)
        found.append((content[0], content[header:size]))
        content = content[size:]
    return found


def expect(item: Item, tag: int) -> bytes:
    """Give the content of an item that has to have this tag."""
    if item[0] != tag:
        raise BerError(f"tag {item[0]:#04x} where {tag:#04x} belongs")
    return item[1]


def size_of(start: bytes | bytearray) -> int | None:
    """Tell how many bytes the item that starts here has, header included, or None where too little is here to say."""
    if len(start) < 2:
        return None
    if start[0] & _HIGH_TAG == _HIGH_TAG:
        raise BerError("a tag of more than one byte")
    if not start[1] & _LONG:
        return 2 + start[1]
    count = start[1] & ~_LONG
    if not 1 <= count <= 4:
        raise BerError("an indefinite length, or one of gigabytes")
    if len(start) < 2 + count:
        return None
    return 2 + count + int.from_bytes(start[2 : 2 + count], "big")
