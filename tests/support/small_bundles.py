"""A program that takes only bundles of at most a mebibyte.

Run `python -m tests.support.small_bundles MODULE`. A file over the real limit costs seconds.
"""

import runpy
import sys

from fraudops.model import bundle_download

MAX_BUNDLE_BYTES = 1 << 20

if __name__ == "__main__":
    assert bundle_download.MAX_BUNDLE_BYTES > MAX_BUNDLE_BYTES
    bundle_download.MAX_BUNDLE_BYTES = MAX_BUNDLE_BYTES
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
