"""Run the claims whose evidence no longer fits the code, as many as fit into the time.

`python -m tools.claims --minutes 8` exits 1 if a claim whose evidence says that it holds does not hold any more.
"""

from __future__ import annotations

import argparse
import sys
import time

from limbeck.claim import verify
from limbeck.index import evidence, records


def main() -> int:
    """Run lapsed claims, those with evidence first; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    until = time.monotonic() + 60 * parser.parse_args().minutes
    lapsed = [r["key"] for r in records() if r["claim"] and r["status"] == "unproved"]
    broken = []
    for key in sorted(lapsed, key=lambda k: evidence(k) is None):
        before = evidence(key)
        if time.monotonic() + (before["seconds"] if before else 60) > until:
            print(f"{key}: left for another run, the time is up")
            continue
        status = verify(key)["status"]
        print(f"{key}: {status}" + (f" (recorded: {before['status']})" if before else ""))
        if before is not None and before["status"] == "holds" and status == "fails":
            broken.append(key)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
