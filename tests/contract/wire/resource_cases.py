"""Clients that are slow, large or gone: one row each, as in `parsing_cases.py`.

HEAD_SECONDS, BODY_SECONDS, IDLE_SECONDS and MOST_CONNECTIONS are limits of the service that they
call.
"""

import json

from tests.support.bodies import malformed
from tests.support.figures import PROOF
from tests.support.wire_cases import (
    BODY,
    CARD,
    LABEL,
    Case,
    batch,
    chunked,
    closed,
    cut_off,
    get,
    head,
    in_turns,
    kept,
    post,
    survived,
    token,
)
from tests.support.wire_steps import (
    after_answers,
    drip,
    flood,
    half_close,
    pause,
    read_again,
    reset,
    sip,
    stop_reading,
    wait_for_end,
)

# A body of 16 MiB takes seconds on a busy machine.
HEAD_SECONDS, BODY_SECONDS, IDLE_SECONDS = (5.0, 15.0, 20.0) if PROOF else (2.0, 3.0, 4.0)
# Of each worker; the lowest that the settings allow.
MOST_CONNECTIONS = 64
MIB = 1 << 20
# A malformed batch, and a flood, as far as the service takes it.
MALFORMED_BYTES, FLOOD_BYTES = (16 * MIB, 190 * MIB) if PROOF else (MIB // 2, 40 * MIB)
GUESSES = 10_000 if PROOF else 100
# A connection is reset at each of these bytes of a request.
RESET_STEP = 1 if PROOF else 7
CUT = (200, 200, 400)
OURS, EXPECTS, CLOSING = "docs/http-api.md", "RFC 9110, 10.1.1", "RFC 9112, 9.6"
TOO_LARGE, JSON = "RFC 6585, 5", "RFC 8259, 9"
LARGE, CHUNKED = "Content-Length: 1000000", "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"
TO_BATCH, TO_LABELS = "POST /predict/batch HTTP/1.1", "POST /feedback HTTP/1.1"
LABELS = post(path="/feedback", body=json.dumps({"labels": [LABEL]}).encode())
BATCH = post(path="/predict/batch", body=batch(300))
# The answer has 1.6 MB. Three of them are more than Linux keeps for a sender by default.
LARGE_BATCH = post(path="/predict/batch", body=batch(10_000))
UNREAD, THREE_UNREAD = (stop_reading, LARGE_BATCH), (stop_reading, LARGE_BATCH * 3)
WRONG_KEYS = [post(f"X-API-Key: fo_{each:043}") for each in range(GUESSES)]
UNKNOWN_KIDS = [post(f"Authorization: Bearer {token(str(each))}") for each in range(GUESSES)]


def batch_of(body: bytes) -> bytes:
    return post(path="/predict/batch", body=body)


SLOW: tuple[Case, ...] = (
    closed("no byte", [wait_for_end], (), OURS),
    closed("half a line", [b"POST /pre", wait_for_end], 408, OURS),
    closed("a header now and then", [drip(head(*["A: b"] * 60), 0.3, 6)], 408, OURS),
    closed("half a second request", [post() + b"POST /pre", wait_for_end], (200, 408), OURS),
    closed("kept and silent", [get(), wait_for_end], 200, OURS),
    *(
        closed(f"headers, no body, {each} of 12", [head(LARGE, line=line)], 408, OURS)
        for each, line in enumerate([TO_BATCH, TO_LABELS] * 6, 1)
    ),
    closed("half a body", [head(LARGE, line=TO_LABELS) + b"{" * 500_000], 408, OURS),
    closed("a byte now and then", [head(LARGE, line=TO_BATCH), drip(b" " * 99, 0.3)], 408, OURS),
    closed("a chunk line for ever", [head(CHUNKED), drip(b"0" * 99, 0.3)], 408, OURS),
    closed("a chunk now and then", [head(CHUNKED), drip(b"1\r\n \r\n" * 99, 0.3, 6)], 408, OURS),
    closed("nothing after 100", [head(EXPECT, LARGE, line=TO_LABELS)], (100, 408), EXPECTS),
    survived("reads no answer", [*UNREAD, pause(BODY_SECONDS)], OURS),
    cut_off(
        "reads no answer, 45 s", [*THREE_UNREAD, pause(45), read_again, wait_for_end], OURS, True
    ),
    cut_off("reads a byte a second", [*THREE_UNREAD, sip(1.0, 45)], OURS, True),
)
FLOODS: tuple[Case, ...] = (
    closed("headers", [head()[:-2], flood(b"A: b\r\n", FLOOD_BYTES)], 431, TOO_LARGE),
    closed("headers, not reading", [head()[:-2], flood(b"A: b\r\n", FLOOD_BYTES, True)], 431, OURS),
    closed("one header", [head()[:-2] + b"A: ", flood(b"b", FLOOD_BYTES)], 431, TOO_LARGE),
    closed("10,000 headers", head(*["A: b"] * 10_000), 431, TOO_LARGE),
    closed("101 headers", head(*["A: b"] * 98), 431, TOO_LARGE),
    kept("100 headers", post(*["A: b"] * 96), 200, OURS),
    closed("URL", [b"GET /", flood(b"u", FLOOD_BYTES)], 414, "RFC 9110, 15.5.15"),
    closed("URL of 9 KiB", get("/" + "u" * 9216), 414, "RFC 9110, 15.5.15"),
    closed("chunk extensions", [head(CHUNKED), b"1;", flood(b"a", FLOOD_BYTES)], 400, OURS),
    closed("trailers", [head(CHUNKED), b"0\r\n", flood(b"A: b\r\n", FLOOD_BYTES)], 431, OURS),
    closed("chunks of a byte", [head(CHUNKED), flood(b"1\r\n \r\n", FLOOD_BYTES)], 400, OURS),
    kept("BODY in chunks of a byte", chunked(size=1), 200, OURS),
    closed(
        "1 GB in chunks",
        [head(CHUNKED, line=TO_BATCH), flood(b"10000\r\n%b\r\n" % (b" " * 65_536), 1 << 30)],
        413,
        OURS,
    ),
    closed("1 GB announced", head("Content-Length: 1000000000", line=TO_LABELS), 413, OURS),
    kept("JSON of 64 levels", batch_of(b"[" * 64 + b"]" * 64), 422, JSON),
    kept("JSON of a million levels", batch_of(b"[" * MIB), 422, JSON),
    kept("a million keys", batch_of(b"{" + b'"a":1,' * (MIB // 6) + b'"b":2}'), 422, JSON),
    kept("a key twice", post(body=BODY[:-1] + b',"V1":0}'), 422, JSON),
    kept("a card number as key", post(body=b'{"%b":1}' % CARD.encode()), 422, OURS),
    kept("wrong keys", in_turns(WRONG_KEYS), (401,) * GUESSES, OURS),
    kept("unknown kids", in_turns(UNKNOWN_KIDS), (401,) * GUESSES, OURS),
    kept("admin token for a prediction", post("Authorization: Bearer a-token"), 401, OURS),
    survived("answers of a pipeline unread", [stop_reading, get("/openapi.json") * 500], OURS),
    *(
        kept(f"malformed: {name}", batch_of(make()), 422, JSON)
        for name, make in malformed(BODY, MALFORMED_BYTES).items()
    ),
)
ENDS: tuple[Case, ...] = (
    closed("half closed before", [half_close], (), CLOSING),
    closed("half closed within the head", [head()[:-9], half_close], (), CLOSING),
    closed("half closed within the body", [post()[:-9], half_close], 400, CLOSING),
    closed("half closed within a chunk", [chunked()[:-9], half_close], 400, CLOSING),
    closed("half closed after", [post(), half_close], 200, CLOSING),
    closed("half closed after a batch", [BATCH, half_close], 200, CLOSING),
    closed("half closed after labels", [LABELS, half_close], 202, CLOSING),
    closed("half closed after several", [post() + BATCH + post(), half_close], (200,) * 3, CLOSING),
    closed("half closed within 3rd", [post() * 2 + post()[:-9], half_close], CUT, CLOSING),
    survived("dead between two requests", [post(), after_answers(1), post()[:-9], reset], CLOSING),
    survived("dead within a pipeline", [post() * 2 + BATCH + post()[:-9], reset], CLOSING),
    *(survived(f"dead batch {each} of 8", [BATCH, reset], OURS) for each in range(1, 9)),
    *(survived(f"dead labels {each} of 8", [LABELS, reset], OURS) for each in range(1, 9)),
    *(survived(f"dead large {each} of 3", [*UNREAD, reset], OURS) for each in range(1, 4)),
    *(
        survived(f"dead at byte {each}", [post()[:each], reset], CLOSING)
        for each in range(1, len(post()) + 1, RESET_STEP)
    ),
)
