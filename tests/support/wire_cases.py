"""The form of a case for the boundary of HTTP, and the requests of which cases are made."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tests.support.figures import PROOF
from tests.support.serving import ULB_ROW
from tests.support.tokens import ISSUER
from tests.support.wire import End, Outcome, Step
from tests.support.wire_steps import after_answers

# It is in headers, queries and bodies of the cases. No log may ever show it.
CARD = "5500005555555559"
ROW = {**ULB_ROW, "transaction_id": "sent"}
BODY = json.dumps(ROW).encode()
SMUGGLED_ID = "smuggled"
LABEL = {"transaction_id": "sent", "label": 1, "labelled_at": "2026-01-01T00:00:00Z", "source": "s"}
Closes = Literal["kept", "closes", "any"]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `answers` are the statuses that the client reads, or None if only the others matter, and `end`
    says whether the connection can be used afterwards. A `proof` case takes long.
    """

    name: str
    steps: tuple[Step, ...]
    answers: tuple[int, ...] | None
    end: Closes
    reference: str
    proof: bool = False

    @property
    def expected(self) -> int | None:
        return None if self.answers is None else len(self.answers)

    def faults(self, outcome: Outcome) -> list[str]:
        """Return what differs from the case."""
        found = []
        if self.answers is not None and outcome.statuses != self.answers:
            seen, wanted = in_short(outcome.statuses), in_short(self.answers)
            found.append(f"answers {seen}, expected {wanted}")
        fine: tuple[End, ...] = ("open",) if self.end == "kept" else ("closed", "reset")
        if self.end != "any" and outcome.end not in fine:
            found.append(f"the connection is {outcome.end}, it should be {self.end}")
        if outcome.end == "stuck":
            found.append("the client is stuck")
        return found


def in_short(statuses: Iterable[int]) -> str:
    """Return statuses as text, such as `200, 3 x 401`."""
    runs = ((status, len(list(run))) for status, run in groupby(statuses))
    return ", ".join(f"{n} x {status}" if n > 1 else str(status) for status, n in runs) or "none"


def refused(name: str, steps: bytes | Iterable[Step], reference: str) -> Case:
    """A request that is answered with 400, and whose connection closes."""
    return closed(name, steps, 400, reference)


def kept(
    name: str, steps: bytes | Iterable[Step], answers: int | tuple[int, ...], reference: str
) -> Case:
    """Requests whose connection can be used afterwards."""
    return Case(name, _several(steps), _numbers(answers), "kept", reference)


def closed(
    name: str,
    steps: bytes | Iterable[Step],
    answers: int | tuple[int, ...],
    reference: str,
    proof: bool = False,
) -> Case:
    """Requests after whose answers the service hangs up."""
    return Case(name, _several(steps), _numbers(answers), "closes", reference, proof)


def cut_off(name: str, steps: Iterable[Step], reference: str, proof: bool = False) -> Case:
    """A client on which the service hangs up after any answer."""
    return Case(name, tuple(steps), None, "closes", reference, proof)


def survived(name: str, steps: bytes | Iterable[Step], reference: str, proof: bool = False) -> Case:
    """A client that may be answered or not; what counts is that the others are."""
    return Case(name, _several(steps), None, "any", reference, proof)


def _several(steps: bytes | Iterable[Step]) -> tuple[Step, ...]:
    return (steps,) if isinstance(steps, bytes) else tuple(steps)


def _numbers(answers: int | tuple[int, ...]) -> tuple[int, ...]:
    return (answers,) if isinstance(answers, int) else answers


def chosen(table: Iterable[Case]) -> list[Case]:
    """Return the cases of this run: the long ones with PROOF=1 only."""
    return [one for one in table if PROOF or not one.proof]


def head(*headers: str, line: str = "POST /predict HTTP/1.1") -> bytes:
    """Return the head of a request. A header may hold any bytes, as latin-1."""
    usual = ("Host: x", "Content-Type: application/json", f"X-Note: {CARD}")
    return "\r\n".join((line, *usual, *headers, "", "")).encode("latin-1")


def post(
    *headers: str, body: bytes = BODY, path: str = "/predict", version: str = "HTTP/1.1"
) -> bytes:
    """Return a request with its length."""
    length = f"Content-Length: {len(body)}"
    return head(*headers, length, line=f"POST {path} {version}") + body


def get(path: str = "/health", *headers: str, version: str = "HTTP/1.1") -> bytes:
    return head(*headers, line=f"GET {path} {version}")


def chunks(body: bytes = BODY, size: int = 1 << 20, trailers: bytes = b"") -> bytes:
    """Return a body in chunks of `size` bytes, with its end."""
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + (
        b"0\r\n" + trailers + b"\r\n"
    )


def chunked(
    *headers: str, body: bytes = BODY, path: str = "/predict", size: int = 1 << 20
) -> bytes:
    """Return a request whose body comes in chunks."""
    return head(*headers, "Transfer-Encoding: chunked", line=f"POST {path} HTTP/1.1") + chunks(
        body, size
    )


def in_turns(requests: Sequence[bytes], at_once: int = 20) -> list[Step]:
    """Return the steps that send some of the requests and wait for their answers, in turn."""
    steps: list[Step] = []
    for start in range(0, len(requests), at_once):
        some = requests[start : start + at_once]
        steps += [b"".join(some), after_answers(start + len(some))]
    return steps


def token(kid: str) -> str:
    """Return a JSON Web Token of a key that the issuer does not have."""
    parts = ({"alg": "ES256", "kid": f"unknown-{kid}"}, {"iss": ISSUER, "exp": 4_102_444_800})
    texts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return ".".join([*(text.rstrip("=") for text in texts), "A" * 86])


def batch(rows: int) -> bytes:
    return json.dumps({"transactions": [ULB_ROW] * rows}).encode()


# A request that must never be answered, because it stands in the body of another one.
SMUGGLED = post(body=json.dumps({**ULB_ROW, "transaction_id": SMUGGLED_ID}).encode())
