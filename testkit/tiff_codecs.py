"""Compression of TIFF files that Pillow does not write: LZW and PackBits."""

from __future__ import annotations


def lzw(data: bytes) -> bytes:
    """Compress as TIFF 6.0, section 13, describes it."""
    bits: list[tuple[int, int]] = [(256, 9)]
    table = {bytes((n,)): n for n in range(256)}
    width, found = 9, b""
    for byte in data:
        longer = found + bytes((byte,))
        if longer in table:
            found = longer
            continue
        bits.append((table[found], width))
        table[longer] = len(table) + 2
        if len(table) + 1 in {511, 1023, 2047}:
            width += 1
        elif len(table) + 1 == 4094:
            bits.append((256, width))
            table, width = {bytes((n,)): n for n in range(256)}, 9
        found = bytes((byte,))
    if found:
        bits.append((table[found], width))
        if len(table) + 2 in {511, 1023, 2047}:
            width += 1
    bits.append((257, width))
    text = "".join(f"{code:0{size}b}" for code, size in bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def packbits(data: bytes, row_bytes: int) -> bytes:
    made = b""
    for start in range(0, len(data), row_bytes):
        row, at = data[start : start + row_bytes], 0
        while at < len(row):
            run = 1
            while at + run < len(row) and row[at + run] == row[at] and run < 128:
                run += 1
            if run > 1:
                made += bytes((257 - run, row[at]))
                at += run
                continue
            end = at + 1
            while end < len(row) and end - at < 128 and row[end] != row[end - 1]:
                end += 1
            made += bytes((end - at - 1,)) + row[at:end]
            at = end
    return made
