"""Signed verdicts in the registry: two files of the run that registered the version.

The registry is not trusted: `fraudops.signing` verifies what it returns.
"""

from fraudops.errors import SignatureRefusedError
from fraudops.registry.model_version import ModelVersion
from fraudops.registry.versions import Registry
from fraudops.signing.verdicts import SIGNATURE_FILE, VERDICT_FILE, SignedVerdict

FOLDER = "validation"
# A verdict has about 4 kB. A huge file could end a promotion, which has little memory, by force.
MAX_BYTES = 1 << 18


def store_signed(registry: Registry, version: ModelVersion, signed: SignedVerdict) -> None:
    """Write the verdict and its signature. Raises BundleError for a version without a bundle.

    Between the two writes the pair does not fit, so that a promotion refuses it.
    """
    registry.upload(version, f"{FOLDER}/{VERDICT_FILE}", signed.verdict.encode())
    registry.upload(version, f"{FOLDER}/{SIGNATURE_FILE}", signed.signature.encode())


def read_signed(registry: Registry, version: ModelVersion) -> SignedVerdict | None:
    """Return what the registry holds as the version's signed verdict, or None.

    Raises BundleError for a version without a bundle and for a huge file, and
    SignatureRefusedError for bytes that are no text.
    """
    files = [
        registry.download(version, f"{FOLDER}/{name}", MAX_BYTES)
        for name in (VERDICT_FILE, SIGNATURE_FILE)
    ]
    try:
        texts = [file.decode() for file in files if file is not None]
    except UnicodeDecodeError:
        raise SignatureRefusedError(
            f"the verdict of version {version.version} is refused: its files are not UTF-8. "
            f"Run `fraudops validate --version {version.version}` again"
        ) from None
    # A verdict without its signature, or the reverse, proves nothing.
    if len(texts) < len(files):
        return None
    return SignedVerdict(verdict=texts[0], signature=texts[1])
