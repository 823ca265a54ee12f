"""A picture to send: a real PNG of a wanted size, made of noise so that it does not compress."""

import base64
import random
import struct
import zlib


def png(size):
    """About `size` bytes of PNG."""
    width = 256
    rows = max(1, size // (width * 3 + 1))
    noise = random.Random(1)
    pixels = b"".join(b"\0" + noise.randbytes(width * 3) for _ in range(rows))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 0)) + chunk(b"IEND", b"")


def png_base64(size):
    """About `size` characters of base64."""
    return base64.b64encode(png(size * 3 // 4)).decode()
