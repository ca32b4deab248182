"""What an agent costs whose hosts get nothing to do, beside a pool that is busy: what each of many compute nodes pays for sharing topics.

    python -m bench.bystander [--agents 8] [--hosts 2000] [--rate 100] [--seconds 30] [--wait-ms 20]

Starts Apache Kafka, a fleet, one replica and so many agents more with one host each, which is disabled before the load begins; with
`--wait-ms` the broker lets their fetches wait so long for more than a record or two. Requests are those that the client library counts, a
second old at most; CPU is user and system time of the processes.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from commonplace.bench.flavors import profile
from commonplace.bench.load import Load, open_loop
from commonplace.bench.loop import answers
from commonplace.bench.system import Reading, Setup, read, run_on
from commonplace.core.codec import encode
from commonplace.core.records.control import HostControl
from commonplace.frontend.client import Frontend
from commonplace.kafka import control
from commonplace.ops.stack import Stack
from commonplace.settings import VARIABLE_PREFIX, Settings

INVENTORY: Final = "[hosts.{host}.inventory]\nVCPU = {{ total = 4 }}\nMEMORY_MB = {{ total = 8192 }}\n"


def measure(
    stack: Stack, setup: Setup, agents: int, rate: float, seconds: float, waiting: Mapping[str, str]
) -> dict[str, Any]:
    """The bystanders' share of requests and CPU while others are busy; `waiting` is how they fetch."""
    names = [f"bystander-{number}" for number in range(agents)]
    control.write(stack.settings, {f"host/{name}": encode(HostControl(name=name, status="disabled")) for name in names})
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            file = Path(directory, f"{name}.toml")
            file.write_text(INVENTORY.format(host=name))
            stack.start_agent(name, file, environ=waiting)
    with Frontend(stack.settings) as frontend:
        load = Load(frontend, [flavor.name for flavor in setup.made()])
        open_loop(load, rate, monotonic() + seconds)
        before = read(stack)
        load.measuring = True
        open_loop(load, rate, monotonic() + seconds)
        load.measuring = False
        sleep(1.0)
        after = read(stack)
    took = after.at_s - before.at_s
    return {
        **answers(load, took),
        "a_bystander": _share(before, after, names, took),
        "all_bystanders_requests_a_second": round(sum(_rates(before.sent, after.sent, took)[n] for n in names), 1),
        "broker_cpu_ms_a_second": round(1000 * _rates(before.cpu_s, after.cpu_s, took)["broker"], 1),
    }


def _share(before: Reading, after: Reading, names: list[str], took: float) -> dict[str, float]:
    """Of one bystander, the mean of all."""
    sent, cpu = _rates(before.sent, after.sent, took), _rates(before.cpu_s, after.cpu_s, took)
    return {
        "requests_a_second": round(sum(sent[name] for name in names) / len(names), 1),
        "cpu_ms_a_second": round(1000 * sum(cpu[name] for name in names) / len(names), 2),
    }


def _rates(before: Mapping[str, float], after: Mapping[str, float], took: float) -> dict[str, float]:
    return {name: (after[name] - before.get(name, 0.0)) / took for name in after}


def main() -> None:
    """Measure and print one object."""
    parser = argparse.ArgumentParser(prog="python -m bench.bystander", description=__doc__)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--hosts", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--wait-ms", type=int, default=0)
    args = parser.parse_args()
    kafka = f"{VARIABLE_PREFIX}KAFKA__FETCH_"
    waits = {f"{kafka}MIN_BYTES": "65536", f"{kafka}WAIT_MAX_MS": str(args.wait_ms)} if args.wait_ms else {}
    setup = Setup(settings=Settings(), hosts=args.hosts)
    told = run_on(
        setup,
        profile("spread"),
        print,
        lambda stack: measure(stack, setup, args.agents, args.rate, args.seconds, waits),
    )
    print(json.dumps({"benchmark": "bystander", **vars(args), **told, "audit": told["audit"]["audit"]}, indent=2))


if __name__ == "__main__":
    main()
