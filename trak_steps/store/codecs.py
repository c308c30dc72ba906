"""How arrays are compressed in a store."""

import warnings
from typing import Any

from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec


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
    compressors = {
        "none": (),
        "zstd": (ZstdCodec(level=1),),
        "blosc": (blosc,),
        "bitround": (blosc,),
    }[codec]
    filters = (_bit_round(keep_bits, dtype),) if codec == "bitround" else ()
    return {"compressors": (*compressors, Crc32cCodec()), "filters": filters}


def _bit_round(keep_bits: int, dtype: str) -> Any:
    with warnings.catch_warnings():
        # The codec is outside the Zarr 3 specification, as config/README.md says.
        warnings.simplefilter("ignore")
        from zarr.codecs.numcodecs import BitRound

        return BitRound(keepbits=min(keep_bits, 10 if dtype == "float16" else 23))
