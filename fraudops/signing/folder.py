"""The signing keys of one machine: two private files, and a folder of public ones."""

from dataclasses import dataclass
from pathlib import Path

from fraudops.signing.key_files import rotate_key
from fraudops.signing.key_list import KeyEntry, entries, public_keys
from fraudops.signing.keys import (
    PublicKey,
    PublicKeys,
    Purpose,
    read_private_key,
    read_public_key,
)


@dataclass(frozen=True)
class FolderKeys:
    """The files of the private keys by purpose, and the folder of the public ones."""

    private: dict[Purpose, Path]
    public: Path

    async def list(self) -> list[KeyEntry]:
        """Return the keys; none if no key was made yet. Raises SettingsError for a bad file."""
        signing = {
            purpose: read_private_key(path).public
            for purpose, path in self.private.items()
            if path.exists()
        }
        return entries(self._public(), signing)

    async def trusted(self) -> PublicKeys:
        """Return the public keys that are valid now. Raises SettingsError for a bad file.

        `PublicKeys.read` refuses a folder without a verdict key. This method accepts such a folder,
        so that `rotate` can add the key.
        """
        return public_keys(self._public())

    async def rotate(self, purpose: Purpose) -> PublicKey:
        """Replace the private key. The old public key stays valid. Raises OSError."""
        return rotate_key(self.private[purpose], self.public, purpose).public

    async def retire(self, entry: KeyEntry) -> None:
        """Remove a public key. What it has signed is refused from then on."""
        (self.public / entry.file).unlink(missing_ok=True)

    def _public(self) -> dict[str, PublicKey]:
        return {path.name: read_public_key(path) for path in sorted(self.public.glob("*.pem"))}
