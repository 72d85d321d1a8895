"""An issuer of JSON Web Tokens, with the JWKS of its keys."""

import json
import time
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example.com", "fraudops"
PUBLIC_EXPONENT = 65537


@dataclass(frozen=True)
class SigningKey:
    """A private key of the issuer; `public` is its JWK."""

    algorithm: str
    private: Any
    public: dict[str, Any]

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> bytes:
        """Return a token of the client `shop` with the scope `predict`, valid for a day.

        A claim or a member of the header that is None is left out.
        """
        now = int(time.time())
        defaults = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "shop",
            "exp": now + 86_400,
            "scope": "predict",
        }
        payload = {name: value for name, value in (defaults | claims).items() if value is not None}
        extra = {"kid": self.public["kid"]} | (header or {})
        headers = {name: value for name, value in extra.items() if value is not None}
        return jwt.encode(payload, self.private, self.algorithm, headers).encode()


def signing_key(algorithm: str, kid: str, **parameters: Any) -> SigningKey:
    """Make a key; `bits` or `curve` differ from the usual ones only for a test of refusals."""
    kind: Any
    if algorithm.startswith("RS"):
        kind, private = (
            RSAAlgorithm,
            rsa.generate_private_key(PUBLIC_EXPONENT, parameters.get("bits", 2048)),
        )
    elif algorithm.startswith("ES"):
        kind = ECAlgorithm
        private = ec.generate_private_key(parameters.get("curve", ec.SECP256R1()))  # type: ignore[assignment]
    else:
        kind, private = OKPAlgorithm, ed25519.Ed25519PrivateKey.generate()  # type: ignore[assignment]
    public = kind.to_jwk(private.public_key(), as_dict=True)
    return SigningKey(algorithm, private, {**public, "kid": kid, "use": "sig"})


def jwks(*keys: SigningKey | dict[str, Any]) -> bytes:
    """Return the JWKS of the keys, or of JWKs as they are."""
    public = [key.public if isinstance(key, SigningKey) else key for key in keys]
    return json.dumps({"keys": public}).encode()
