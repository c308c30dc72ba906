"""How arrays are compressed in a store."""

from typing import Any

from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import BitRound


def codec_arguments(codec: str, keep_bits: int, dtype: str) -> dict[str, Any]:
    """What ``create_array`` needs to know of a codec setting.

    Every chunk ends with its CRC-32C, so that a damaged one is an error when it is read.

    Args:
        codec: ``none``, ``zstd``, ``blosc`` (zstd with bit shuffling) or ``bitround`` (drops
            mantissa bits, then blosc).
        keep_bits: mantissa bits that ``bitround`` keeps.
        dtype: of the array; float16 has only 10 mantissa bits.
    """
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
    bits = min(keep_bits, 10 if dtype == "float16" else 23)
    choices: dict[str, dict[str, Any]] = {
        "none": {"compressors": (Crc32cCodec(),), "filters": ()},
        "zstd": {"compressors": (ZstdCodec(level=1), Crc32cCodec()), "filters": ()},
        "blosc": {"compressors": (blosc, Crc32cCodec()), "filters": ()},
        "bitround": {
            "compressors": (blosc, Crc32cCodec()),
            "filters": (BitRound(keepbits=bits),),
        },
    }
    return choices[codec]
