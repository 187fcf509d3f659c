"""`python -m benchmarks [--quick] [--only SECTION] [--rounds N]`: measure, print, keep as JSON.

Exit code 0 when everything ran: targets are reported, not asserted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Final

from benchmarks import fanout, fleet, report, resident, roundtrip, startup
from benchmarks.report import Plan, Run, Section

SECTIONS: Final[dict[str, Run]] = {
    "roundtrip": roundtrip.run, "fanout": fanout.run, "fleet": fleet.run, "startup": startup.run,
    "resident": resident.run,
}  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: shows that everything runs, in a minute"
    )
    parser.add_argument(
        "--only", action="append", choices=sorted(SECTIONS), help="one section; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="how often each thing is measured")
    asked = parser.parse_args()
    rounds = asked.rounds or (2 if asked.quick else 9)
    plan = Plan(rounds=rounds, seconds=0.2 if asked.quick else 0.8, quick=asked.quick)
    facts = report.machine()
    print("# Manor beside others\n")
    print(report.table(("machine", ""), list(facts.items())), flush=True)
    sections: list[Section] = []
    # What is installed has its bytecode beside it; ours goes where it is gone afterwards.
    bytecode = tempfile.TemporaryDirectory(prefix="manor-bench-")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = bytecode.name
    for name in asked.only or SECTIONS:
        print(f"\nmeasuring {name} ...", file=sys.stderr, flush=True)
        section = SECTIONS[name](plan)
        sections.append(section)
        print("\n" + report.show(section), flush=True)
    bytecode.cleanup()
    print("\n" + report.summary(sections))
    print(f"\nkept in {report.save(plan, facts, sections)}")


if __name__ == "__main__":
    main()
