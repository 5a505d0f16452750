"""OCI layers: from a compressed blob to files and back. The face of four modules.

::

    apply_layer(decompress(blob), root, Whiteouts.OVERLAY)
    b"".join(compress_gzip(overlay_diff(upper)))
"""

from __future__ import annotations

from scow.compression import compress, compress_gzip, compression_of, decompress
from scow.layer_apply import Applied, Whiteouts, apply_layer
from scow.layer_diff import overlay_diff, tree_diff

__all__ = [
    "Applied",
    "Whiteouts",
    "apply_layer",
    "compress",
    "compress_gzip",
    "compression_of",
    "decompress",
    "overlay_diff",
    "tree_diff",
]
