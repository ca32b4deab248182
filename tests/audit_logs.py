"""Logs made by hand for the audit's tests: a small pool whose records are written one by one, rightly unless told otherwise."""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from commonplace.core.hashing import MASK, allocation_hash, host_part, to_hex
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.resources import Inventory
from commonplace.ops.audit import AuditReport, Entry, Log, Options, check
from commonplace.ops.audit.hashes import request_digest
from commonplace.ops.audit.wire_requests import Build

TOPICS = ("hosts", "claims", "requests", "decisions", "quarantine", "control")
PREFIX = "commonplace.default."
CLAIMS_ID = "claims-id"
LEASE_MS = 300_000
HEARTBEAT_MS = 20_000
WINDOW_MS = 900_000


def name_of(topic: str) -> str:
    return "commonplace.control" if topic == "control" else PREFIX + topic


class Host:
    """What the log's author believes of a host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = -1
        self.generation = 0
        self.base_generation = 0
        self.base: dict[str, dict[str, Any]] = {}
        self.held: dict[str, dict[str, Any]] = {}
        self.inventory: dict[str, dict[str, int]] = {"VCPU": {"total": 8}}
        self.traits: list[str] = []
        self.cells: dict[str, dict[str, Any]] = {}
        self.status = "enabled"
        self.through = -1

    @property
    def hash(self) -> str:
        cells = msgspec.convert(self.cells, dict[str, HostCell], str_keys=True)
        part = host_part({n: Inventory(**i) for n, i in self.inventory.items()}, self.traits, {}, self.status, cells)
        return to_hex((part + sum(map(hash_of, self.held.values()))) & MASK)


def hash_of(allocation: dict[str, Any]) -> int:
    return allocation_hash(
        Allocation(
            id=allocation["id"],
            resources=allocation["resources"],
            group=allocation.get("group", ""),
            cells=allocation.get("cells", {}),
        )
    )


class Pool:
    """A pool with one partition per topic, and a clock."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Entry]] = {topic: [] for topic in TOPICS}
        self.low = dict.fromkeys(TOPICS, 0)
        self.now_ms = 1_000_000
        self.hosts: dict[str, Host] = {}

    def host(self, name: str = "h1") -> Host:
        return self.hosts.setdefault(name, Host(name))

    def tick(self, ms: int) -> None:
        self.now_ms += ms

    def put(self, topic: str, key: str | None, value: Any) -> int:
        """Append a record and return its offset; bytes go as they are, None is a tombstone."""
        log = self.logs[topic]
        offset = log[-1].offset + 1 if log else self.low[topic]
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        log.append(Entry(0, offset, self.now_ms, None if key is None else key.encode(), raw))
        self.now_ms += 1
        return offset

    # -- records ------------------------------------------------------------------------------------------------------------------------

    def start(self, host: str = "h1", **change: Any) -> int:
        h = self.host(host)
        h.epoch, h.generation, h.base_generation = (
            self.put("hosts", f"{host}/start", {"type": "start", "v": 1, "host": host} | change),
            0,
            -1,
        )
        return h.epoch

    def snapshot(self, host: str = "h1", settled: Any = (), **change: Any) -> int:
        h = self.host(host)
        h.generation += 1
        h.base, h.base_generation = dict(h.held), h.generation
        record = self._report(h, "snapshot", settled) | {
            "inventory": h.inventory,
            "traits": h.traits,
            "status": h.status,
            "cells": h.cells,
            "allocations": list(h.held.values()),
        }
        return self.put("hosts", f"{host}/{h.epoch}", record | change)

    def delta(self, host: str = "h1", settled: Any = (), **change: Any) -> int:
        h = self.host(host)
        h.generation += 1
        record = self._report(h, "delta", settled) | {
            "base_generation": h.base_generation,
            "upserts": [a for i, a in h.held.items() if h.base.get(i) != a],
            "removed": [i for i in h.base if i not in h.held],
        }
        return self.put("hosts", f"{host}/{h.epoch}/delta", record | change)

    def _report(self, h: Host, kind: str, settled: Any) -> dict[str, Any]:
        return {
            "type": kind, "v": 1, "host": h.name, "epoch": h.epoch, "generation": h.generation, "claims_topic": CLAIMS_ID,
            "claims_through": h.through, "hash": h.hash, "settled": list(settled),
        }  # fmt: skip

    def request(self, request: str, **change: Any) -> int:
        record = {"type": "build", "v": 1, "id": request, "flavor": "m1.small"} | change
        together = record.get("group_policy") == "affinity"
        return self.put("requests", f"group/{record['group']}" if together else str(record["flavor"]), record)

    def claim(self, request: str, *ids: str, host: str = "h1", vcpu: int = 2, **change: Any) -> int:
        allocations = [
            {"id": i, "request": request, "index": n, "resources": {"VCPU": vcpu}} for n, i in enumerate(ids)
        ]
        record = {
            "type": "claim", "v": 1, "host": host, "request": request, "lease_ms": LEASE_MS, "expected": self.host(host).hash,
            "allocations": allocations,
        }  # fmt: skip
        return self.put("claims", host, record | change)

    def ask(self, kind: str, request: str, allocation: str, host: str = "h1") -> int:
        """A confirm or a release."""
        record = {"type": kind, "v": 1, "host": host, "request": request, "allocation": allocation}
        return self.put("claims", host, record)

    def decide(self, request: str, *placed: tuple[str, int], host: str = "h1", **change: Any) -> int:
        """A decision; `placed` are allocations with the offset of their grant on hosts."""
        record = {
            "type": "decision", "v": 1, "request": request, "result": "placed" if placed else "no_valid_host",
            "position": {"partition": 0, "offset": 0}, "content": digest(request), "count": max(1, len(placed)),
            "placed": [
                {"index": n, "instance": f"{request}.{n}", "host": host, "allocation": i, "grant": {"partition": 0, "offset": at}}
                for n, (i, at) in enumerate(placed)
            ],
        }  # fmt: skip
        return self.put("decisions", request, record | change)

    def quarantine(self, topic: str, offset: int, partition: int = 0) -> int:
        record = {
            "type": "quarantined",
            "v": 1,
            "topic": name_of(topic),
            "partition": partition,
            "offset": offset,
            "reason": "bad",
        }
        return self.put("quarantine", None, record)

    def celled(self, host: str = "h1") -> None:
        """The host reports two cells: two cpus shared and four dedicated in each, and a device of four shares in the first."""
        h = self.host(host)
        h.cells = {
            str(n): {"cpus": f"{6 * n}-{6 * n + 1}", "cpus_dedicated": f"{6 * n + 2}-{6 * n + 5}", "memory_mb": 64}
            for n in range(2)
        }
        h.cells["0"]["devices"] = [{"id": "g0", "class": "VGPU", "shares": 4}]
        h.inventory = {"VCPU": {"total": 4}, "PCPU": {"total": 8}, "VGPU": {"total": 4}, "MEMORY_MB": {"total": 128}}
        self.snapshot(host)

    def placed_in(
        self,
        request: str,
        allocation: str,
        cell: str,
        parts: dict[str, int],
        cpus: str = "",
        devices: dict[str, int] | None = None,
    ) -> int:
        """A request for parts of one cell, given these numbers; returns the offset of its grant."""
        asked = {"id": allocation, "request": request, "index": 0, "resources": parts, "cells": {cell: parts}}
        self.request(request)
        claim = self.claim(request, allocations=[asked])
        entries = self.take(claim)
        given = {"cpus": cpus} | ({"devices": devices} if devices else {})
        self.host().held[allocation]["assigned"] = {cell: given}
        at = self.delta(settled=entries)
        self.decide(request, (allocation, at))
        return at

    # -- what a ledger does -------------------------------------------------------------------------------------------------------------

    def take(self, offset: int, host: str = "h1") -> list[dict[str, Any]]:
        """Grant the claim at `offset`, and return the settled entries."""
        claim = json.loads(next(e for e in self.logs["claims"] if e.offset == offset).value or b"")
        h = self.host(host)
        h.through = max(h.through, offset)
        for asked in claim["allocations"]:
            h.held[asked["id"]] = asked | {"state": "leased", "building": True, "lease_ms": claim["lease_ms"]}
        return [settled("granted", asked["id"], offset) for asked in claim["allocations"]]

    def activate(self, allocation: str, offset: int, host: str = "h1") -> list[dict[str, Any]]:
        h = self.host(host)
        h.through = max(h.through, offset)
        h.held[allocation] = h.held[allocation] | {"state": "active", "building": False}
        return [settled("confirmed", allocation, offset)]

    def end(self, verdict: str, allocation: str, offset: int = -1, host: str = "h1") -> list[dict[str, Any]]:
        h = self.host(host)
        h.through = max(h.through, offset)
        del h.held[allocation]
        return [settled(verdict, allocation, offset)]

    def placed(self, request: str, allocation: str, host: str = "h1", vcpu: int = 2, **change: Any) -> int:
        """A request from submit to decision; returns the offset of its grant."""
        self.request(request)
        at = self.delta(host, self.take(self.claim(request, allocation, host=host, vcpu=vcpu, **change), host))
        self.decide(request, (allocation, at), host=host)
        return at

    def member(self, request: str, allocation: str, on: str = "h1", carried: Any = None, **asked: Any) -> int:
        """A request that says where its instance may be, from submit to decision; `carried` is what its claim lacks or has besides.

        Returns the offset of the decision.
        """
        self.request(request, **asked)
        named = {"group_max", "traits_required", "traits_forbidden", "traits_any_of"} & asked.keys()
        part = {"id": allocation, "request": request, "resources": {"VCPU": 1}, "group": asked.get("group", "")}
        claim = {"allocations": [part]} | {name: asked[name] for name in named} | (carried or {})
        at = self.delta(on, self.take(self.claim(request, allocation, host=on, **claim), on))
        return self.decide(request, (allocation, at), host=on, content=digest(request, **asked))

    def used_again(self, after_ms: int, request: str, *ids: str, **asked: Any) -> int:
        """An id is used for another request so much later, and each of the allocations placed for it; returns the offset of the request."""
        self.heartbeats(after_ms)
        at = self.request(request, **asked)
        for allocation in ids:
            grant = self.delta(settled=self.take(self.claim(request, allocation)))
            here = {"partition": 0, "offset": at}
            self.decide(request, (allocation, grant), position=here, content=digest(request, **asked))
        return at

    def aggregate(self, name: str, *hosts: str, **more: Any) -> int:
        """An operator's word on an aggregate."""
        record = {"type": "aggregate", "v": 1, "name": name, "hosts": hosts} | more
        return self.put("control", f"aggregate/{name}", record)

    def confirmed(self, request: str, allocation: str, host: str = "h1") -> int:
        return self.delta(
            host, self.activate(allocation, self.ask("confirm", request, allocation, host=host), host=host)
        )

    def heartbeats(self, until_ms: int, host: str = "h1") -> int:
        """Empty deltas for so long; returns the offset of the last."""
        last, end_ms = -1, self.now_ms + until_ms
        while self.now_ms < end_ms:
            self.tick(min(HEARTBEAT_MS, end_ms - self.now_ms))
            last = self.delta(host)
        return last

    # -- the audit ----------------------------------------------------------------------------------------------------------------------

    def drop(self, topic: str, gone: Callable[[Entry], bool]) -> None:
        """Compaction: take records out, leaving a gap in the offsets."""
        self.logs[topic] = [entry for entry in self.logs[topic] if not gone(entry)]

    def retain(self, topic: str, low: int) -> None:
        """Retention: the log starts at `low` now."""
        self.low[topic] = low
        self.drop(topic, lambda entry: entry.offset < low)

    def log(self, topic: str) -> Log:
        entries = self.logs[topic]
        end = entries[-1].offset + 1 if entries else self.low[topic]
        topic_id = CLAIMS_ID if topic == "claims" else topic
        return Log(name_of(topic), topic_id, {0: self.low[topic]}, {0: end}, iter(entries))

    def audit(self, elsewhere: "dict[str, Pool] | None" = None, **options: Any) -> AuditReport:
        others = {name: pool.log("hosts") for name, pool in (elsewhere or {}).items()}
        return check({topic: self.log(topic) for topic in TOPICS}, Options(**options), others)


def settled(verdict: str, allocation: str, offset: int = -1, **change: Any) -> dict[str, Any]:
    return {"offset": offset, "verdict": verdict, "allocation": allocation} | change


def digest(request: str, **change: Any) -> str:
    return request_digest(Build(id=request, flavor="m1.small", **change))


def pool() -> Pool:
    """A pool with an empty host h1 of 8 VCPU."""
    p = Pool()
    p.start()
    p.snapshot()
    return p
