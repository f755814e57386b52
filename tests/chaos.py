#!/usr/bin/env python3
"""The whole of what test_jobs.py and test_routed.py have a sample of, on real hosts, with figures at the end.

    tests/chaos.py [chaos] [routed] [--seed TEXT] [--NAME N ...]

chaos: jobs of many clients through deployments, rollbacks, kills of instances and gateways, power losses and an upgrade of the gateway
(`tests/e2e/jobchaos.py`; its plan has the names). routed: requests of many clients to many instances (`tests/e2e/crowd.py`). Needs an agent with the
feature `fault-points`, whose gateway is also killed where a job changes hands: `make chaos` builds it. The exit status is 0 only if nothing was wrong.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# No other agent can be held where a job changes hands.
os.environ.setdefault("STILLFRAME_BINARY", str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "faults" / "bin" / "stillframe"))
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "lib")]
import jobchaos  # noqa: E402
import oracle  # noqa: E402
import owned  # noqa: E402
import routed  # noqa: E402
import service  # noqa: E402
import workers  # noqa: E402

PARTS = {"chaos": jobchaos.Plan, "routed": routed.Plan}


def say(text):
    print(text, flush=True)


def host(slots):
    place = service.Place(prepare=False)
    try:
        found = owned.Owned(place, slots)
        found.configure()
        found.alpha.sh(f"mkdir -p {oracle.FOLDER} && chmod 777 {oracle.FOLDER}")
        place.run("host", "prepare", "--yes")
        return found
    except BaseException:
        place.down()
        raise


def run(part, plan, seed):
    """Whether nothing was wrong."""
    say(f"{part}: {json.dumps(plan._asdict())}, seed {seed!r}")
    place = host(plan.slots)
    try:
        what = jobchaos.Chaos(place, plan, seed, True, say) if part == "chaos" else routed.Routed(place, plan, say)
        what.prepare()
        wrong = what.run()
    finally:
        place.place.down()
    say(f"{part}: {json.dumps(what.figures)}")
    for line in wrong:
        say(f"{part}: WRONG: {line[:600]}")
    say(f"{part}: {'nothing wrong' if not wrong else f'{len(wrong)} wrong'}")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}: all, if none is named")
    parser.add_argument("--seed", default=time.strftime("%Y-%m-%d"), help="gives the order of the events; today's date by default")
    fields = {name: kind for plan in PARTS.values() for name, kind in plan.__annotations__.items()}
    for name, kind in fields.items():
        parser.add_argument(f"--{name}", type=kind, help="of the plan")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    good = True
    for part in arguments.parts or PARTS:
        given = {name: value for name in PARTS[part]._fields if (value := getattr(arguments, name)) is not None}
        good &= run(part, PARTS[part](**given), arguments.seed)
    return 0 if good else 1


if __name__ == "__main__":
    workers.apart("STILLFRAME_CHAOS_INSIDE")
    sys.exit(main())
