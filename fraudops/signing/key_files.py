"""Key files on one machine: `fraudops up` makes them, and `fraudops keys rotate` replaces them."""

from pathlib import Path

from fraudops.files import write_atomically
from fraudops.signing.keys import PrivateKey, Purpose, new_key, public_file, read_private_key


def ensure_key(private: Path, public_keys: Path, purpose: Purpose) -> PrivateKey:
    """Return the private key of a file. Make the file, and that of its public half, if missing.

    An existing key is never replaced. One process at a time may call this for a file.
    Raises SettingsError for a key that cannot be read, and OSError.
    """
    if private.exists():
        key = read_private_key(private)
        _publish(key, public_keys, purpose)
        return key
    return rotate_key(private, public_keys, purpose)


def rotate_key(private: Path, public_keys: Path, purpose: Purpose) -> PrivateKey:
    """Write a new private key over the old one. The old public key stays valid.

    Raises OSError.
    """
    key = new_key()
    # Made here, because `_publish` may make it as a parent, and parents do not get the mode.
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The public half first: after a crash between the two, every signature can be verified.
    _publish(key, public_keys, purpose)
    write_atomically(private, key.pem(), durable=True, private=True)
    return key


def _publish(key: PrivateKey, public_keys: Path, purpose: Purpose) -> None:
    public_keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = public_keys / public_file(purpose, key.public)
    if not path.exists():
        write_atomically(path, key.public.pem, durable=True)
