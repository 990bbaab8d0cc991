"""An independent second opinion on derived keys: hashlib, hmac and struct, the texts of docs/protocol.md#derive-mode and
docs/reference/json.md, and no code of this project.

stdin: one JSON object per line, {"now": unix seconds, "entries": [{"algorithm", "secret": hex, "interval", "lead",
"not_before": unix seconds or null}, ...]}.  stdout: for each a line `staged|steady PRIMARY,BACKUP`, kernel text.
"""

import hashlib
import hmac
import json
import struct
import sys


def hkdf_sha256(secret, interval, counter):
    """RFC 5869, one block; the 16 bytes are the kernel's own, so each group of the text is little endian."""
    prk = hmac.new(bytes(32), secret, "sha256").digest()
    info = b"tfo-fleet/v1/key" + struct.pack(">QQ", interval, counter)
    raw = hmac.new(prk, info + b"\x01", "sha256").digest()[:16]
    return "-".join("%08x" % group for group in struct.unpack("<4I", raw))


def tofurkey(secret, _interval, counter):
    """tofurkey's text is the digest in order, four bytes to a group."""
    salt = struct.pack("<Q", counter)
    digest = hashlib.blake2b(key=secret[:32], digest_size=16, salt=salt, person=b"tofurkey").hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 32, 8))


ALGORITHMS = {"hkdf-sha256": hkdf_sha256, "tofurkey": tofurkey}


def segments(entries, now):
    """(start, lead, key) of every segment that matters around `now`, in order."""
    reach = 4 * max(entry["interval"] for entry in entries)
    found = []
    for index, entry in enumerate(entries):
        interval = entry["interval"]
        begin = entry["not_before"]
        end = entries[index + 1]["not_before"] if index + 1 < len(entries) else None
        low = max(now - reach, begin or 0)
        high = min(now + reach, end if end is not None else now + reach)
        # The multiples inside the validity, less those that are nearer than the interval to either end of it.
        boundaries = [
            at
            for at in range(-(-low // interval) * interval, high + 1, interval)
            if (begin is None or at >= begin + interval) and (end is None or at <= end - interval)
        ]
        key = ALGORITHMS[entry["algorithm"]]
        secret = bytes.fromhex(entry["secret"])
        if begin is not None and begin >= now - reach:
            first = boundaries[0] // interval
            found.append((begin, entry["lead"], key(secret, interval, first - 1)))
        found += [(at, entry["lead"], key(secret, interval, at // interval)) for at in boundaries]
    return found


def slots(entries, now):
    line = segments(entries, now)
    here = max(index for index, segment in enumerate(line) if segment[0] <= now)
    lead = line[here][1]
    if now >= line[here + 1][0] - lead:
        return "staged", line[here][2], line[here + 1][2]
    return "steady", line[here][2], line[here - 1][2]


for text in sys.stdin:
    case = json.loads(text)
    phase, primary, backup = slots(case["entries"], case["now"])
    print(f"{phase} {primary},{backup}")
