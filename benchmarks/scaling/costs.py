"""Formulas and figures of the model of many ranks: links, stores, jobs, and the costs of a job.

Seconds are of one update, sizes in bytes. Every cost is counted in full, as if nothing overlapped.

Sources of the formulas:

- Ring: P. Patarasuk and X. Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009. The
  latencies of hops inside of a node and between nodes add up as in the tuning model of NCCL, `src/graph/tuning.cc`.
- Trees: P. Sanders, J. Speck and J. L. Träff, Two-tree algorithms for full bandwidth broadcast, reduction and scan,
  2009; with a chain inside of each node as in NCCL.
- Sharded weights: S. Rajbhandari, J. Rasley, O. Ruwase and Y. He, ZeRO: Memory optimizations toward training trillion
  parameter models, 2020.
- Barrier: D. Hensgen, R. Finkel and U. Manber, Two algorithms for barrier synchronization, 1988 (dissemination).
- Checkpoints: J. W. Young, A first order approximation to the optimum checkpoint interval, 1974; J. T. Daly, A higher
  order estimate of the optimum checkpoint interval for restart dumps, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DAY_S, HOUR_S = 86_400.0, 3_600.0
BUCKET = 25 * 2**20  # bytes of a bucket of DistributedDataParallel, torch's default
NODES_OF_LLAMA_3, FAILURES, DAYS = 2048, 419, 54
NODE_MTBF_DAYS = NODES_OF_LLAMA_3 * DAYS / FAILURES
"""264 days: Meta, The Llama 3 Herd of Models, 2024: 419 unexpected interruptions of 16,384 GPUs in 54 days."""

Timings = Mapping[str, Any]
"""The content of measured.json, as `loopback.measured` returns it."""


@dataclass(frozen=True)
class Link:
    """The way between two ranks.

    Attributes:
        latency_s: Seconds of one hop of a small message.
        rate: Bytes a second in one direction.
        source: Origin of both figures.
    """

    latency_s: float
    rate: float
    source: str


@dataclass(frozen=True)
class Store:
    """The place of checkpoints.

    Attributes:
        node_rate: Bytes a second that one node writes or reads.
        rate: Bytes a second of all nodes together.
        source: Origin of the figures.
    """

    node_rate: float
    rate: float
    source: str


@dataclass(frozen=True)
class Job:
    """Inputs of the model.

    Attributes:
        parameters: Parameters of the model.
        update_s: Seconds that a rank computes in an update.
        parallel: `exact` (one all-reduce of all gradients), `ddp` (one for each bucket), or `fsdp2`.
        library: `nccl` (ring or tree, the faster one), or `gloo` (ring).
        inside: Name of the link between ranks of a node.
        between: Name of a link between nodes.
        store: Name of the place of checkpoints.
        ranks_per_node: Ranks of a node.
        links_per_node: Links of a node to other nodes.
        groups: Modules that `fsdp2` gathers one after another.
        gradient_bytes: Bytes a parameter that are exchanged.
        state_bytes: Bytes a parameter of a checkpoint: 12 for float32 weights and both averages of AdamW.
        mtbf_days: Mean time between failures of one node.
        start_s: Seconds from a failure until all processes run again, before the checkpoint is read.
    """

    parameters: float
    update_s: float
    parallel: str = "exact"
    library: str = "nccl"
    inside: str = "nvlink"
    between: str = "ndr"
    store: str = "nvme"
    ranks_per_node: int = 8
    links_per_node: int = 8
    groups: int = 1
    gradient_bytes: float = 4.0
    state_bytes: float = 12.0
    mtbf_days: float = NODE_MTBF_DAYS
    start_s: float = 120.0


JOBS = {
    "small": Job(
        10e6, 0.5, library="gloo", inside="loopback", between="10gbe", store="disk", ranks_per_node=4, links_per_node=1
    ),
    "middle": Job(1e9, 0.5, "ddp", between="100gbe", links_per_node=1),
    "large": Job(30e9, 10.0, "fsdp2", store="shared", groups=60, gradient_bytes=2.0),
}


def links(timings: Timings) -> dict[str, Link]:
    """Return the links by name; latency and rate of the loopback are fitted to two processes."""
    here = timings["ranks"]["2"]
    small, *_, large = sorted((size for size in here if size.isdecimal()), key=int)
    hop = here["vote"]["best"] / 2
    rate = int(large) / (here[large]["best"] - here[small]["best"])  # 2 (p - 1) / p is 1 for two
    line = "line rate of IEEE 802.3{}; latency of the loopback here, without wire and switch"
    nccl = "latency of a hop in the tables of NVIDIA, NCCL 2.18, 2023"
    return {
        "loopback": Link(hop, rate, f"gloo between two processes, measured here, {timings['date']}"),
        "10gbe": Link(hop, 1.25e9, line.format("ae, 2002")),
        "100gbe": Link(hop, 12.5e9, line.format("ba, 2010")),
        "ndr": Link(14e-6, 50e9, f"NVIDIA, ConnectX-7 (InfiniBand NDR, 400 Gb/s a port), 2021; {nccl}"),
        "nvlink": Link(3.4e-6, 450e9, f"NVIDIA, H100 SXM (NVLink, 900 GB/s in both directions), 2022; {nccl}"),
    }


def stores(timings: Timings) -> dict[str, Store]:
    """Return the places of checkpoints by name; a disk in each node has no common limit."""
    disk = timings["disk"]
    shared = "Meta, The Llama 3 Herd of Models, 2024 (Tectonic, sustained); one port of 100 Gb/s a node is assumed"
    requests = "Amazon, S3 performance design patterns (85 MB/s a request); 64 requests at once are assumed"
    written = f"file of {disk['bytes'] / 2**20:.0f} MiB with fsync, measured here, {timings['date']}"
    return {
        "disk": Store(disk["bytes"] / disk["write"]["best"], math.inf, written),
        "nvme": Store(3.5e9, math.inf, "Samsung, PM9A3 (U.2, sequential write), 2020"),
        "shared": Store(12.5e9, 2e12, shared),
        "object": Store(64 * 85e6, math.inf, requests),
    }


@dataclass(frozen=True)
class Way:
    """The way of a collective operation through all ranks.

    Attributes:
        ranks: Number of ranks.
        nodes: Number of nodes.
        node: Ranks of the fullest node.
        inside: Link between ranks of a node.
        between: Link between nodes.
        rate: Bytes a second into a node.
    """

    ranks: int
    nodes: int
    node: int
    inside: Link
    between: Link
    rate: float


def way_of(job: Job, ranks: int, links: Mapping[str, Link]) -> Way:
    """Return the way through the ranks of a job; nodes are filled one after another."""
    nodes, inside, between = nodes_of(job, ranks), links[job.inside], links[job.between]
    rate = inside.rate if nodes == 1 else min(inside.rate, job.links_per_node * between.rate)
    return Way(ranks, nodes, min(ranks, job.ranks_per_node), inside, between, rate)


def nodes_of(job: Job, ranks: int) -> int:
    return math.ceil(ranks / job.ranks_per_node)


def gather(size: float, way: Way) -> float:
    """Return the seconds of an all-gather or a reduce-scatter in a ring: p - 1 hops, each with a p-th of the bytes."""
    hops = (way.ranks - way.nodes) * way.inside.latency_s + (way.nodes - 1) * way.between.latency_s
    return hops + (way.ranks - 1) / way.ranks * size / way.rate


def ring(size: float, way: Way) -> float:
    """Return the seconds of an all-reduce in a ring: a reduce-scatter, then an all-gather."""
    return 2 * gather(size, way)


def tree(size: float, way: Way) -> float:
    """Return the seconds of an all-reduce in two binary trees between nodes, with a chain inside of each node."""
    hops = (way.node - 1) * way.inside.latency_s + math.ceil(math.log2(way.nodes)) * way.between.latency_s
    return 2 * hops + (2 * size / way.rate if way.ranks > 1 else 0.0)


def communication(job: Job, ranks: int, links: Mapping[str, Link]) -> float:
    """Return the seconds that an update exchanges gradients, and weights if these are sharded.

    `fsdp2` gathers the weights of each group before its forward and its backward pass, then scatters its gradients.
    """
    way, size = way_of(job, ranks, links), job.parameters * job.gradient_bytes
    if job.parallel == "fsdp2":
        return 3 * job.groups * gather(size / job.groups, way)
    calls = math.ceil(size / BUCKET) if job.parallel == "ddp" else 1
    once = ring(size / calls, way)
    return calls * (once if job.library == "gloo" else min(once, tree(size / calls, way)))


def young(save_s: float, mtbf_s: float) -> float:
    """Return the interval between checkpoints after Young (1974): the first-order optimum."""
    return math.sqrt(2 * save_s * mtbf_s)


def daly(save_s: float, mtbf_s: float) -> float:
    """Return the seconds of training between two checkpoints after Daly (2006): the optimum to a higher order."""
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    share = save_s / (2 * mtbf_s)
    return young(save_s, mtbf_s) * (1 + math.sqrt(share) / 3 + share / 9) - save_s


def kept(interval_s: float, save_s: float, restart_s: float, mtbf_s: float) -> float:
    """Return the share of time that failures leave; the rest is computed again, or spent on restarts.

    Daly (2006): work of T_s seconds, saved every τ seconds in δ seconds each, takes M exp(R/M) (exp((τ + δ)/M) - 1)
    T_s/τ seconds with failures, and (τ + δ) T_s/τ without. This is the ratio of the second to the first.
    """
    span = (interval_s + save_s) / mtbf_s
    return span * math.exp(-restart_s / mtbf_s - span) / -math.expm1(-span)


@dataclass(frozen=True)
class Estimate:
    """Costs of a job on a number of ranks; see the functions of the same names.

    Attributes:
        ranks: Number of ranks.
        update_s: Seconds that a rank computes in an update.
        communication_s: Seconds of an update.
        control_s: Seconds of the vote of an update.
        save_s: Seconds of a checkpoint.
        restart_s: Seconds from a failure until training goes on.
        mtbf_s: Mean time between failures of all nodes.
    """

    ranks: int
    update_s: float
    communication_s: float
    control_s: float
    save_s: float
    restart_s: float
    mtbf_s: float

    @property
    def busy_s(self) -> float:
        """Return the seconds of an update without checkpoints."""
        return self.update_s + self.communication_s + self.control_s

    @property
    def interval_s(self) -> float:
        """Return the seconds of training between two checkpoints: whole updates, about Daly's optimum."""
        return self.interval * self.busy_s

    @property
    def interval(self) -> int:
        """Return the interval in updates, as `every_n_updates` takes it."""
        return max(1, round(daly(self.save_s, self.mtbf_s) / self.busy_s))

    @property
    def checkpoint_s(self) -> float:
        """Return the seconds of checkpoints for each update."""
        return self.save_s / self.interval

    @property
    def loss(self) -> float:
        """Return the share of time that failures are expected to cost."""
        return 1 - kept(self.interval_s, self.save_s, self.restart_s, self.mtbf_s)

    @property
    def efficiency(self) -> float:
        """Return the share of time in which the ranks compute updates that count."""
        return self.update_s / (self.busy_s + self.checkpoint_s) * (1 - self.loss)


def estimate(job: Job, ranks: int, timings: Timings) -> Estimate:
    """Return the costs of a job.

    Args:
        job: The inputs.
        ranks: Number of ranks.
        timings: Timings of this machine.
    """
    known, store, nodes = links(timings), stores(timings)[job.store], nodes_of(job, ranks)
    here, size = timings["ranks"]["2"], job.parameters * job.state_bytes
    control = 2 * (ranks - 1) * known["loopback"].latency_s
    together = min(nodes * store.node_rate, store.rate)
    if job.parallel == "fsdp2":  # each node writes and reads its part
        write_s = read_s = size / together
    else:  # rank 0 writes everything, each node reads it
        write_s, read_s = size / store.node_rate, nodes * size / together
    barrier = math.ceil(math.log2(ranks)) * here["barrier"]["best"]
    save_s = write_s + timings["disk"]["commit"]["best"] + barrier
    mtbf_s = job.mtbf_days * DAY_S / nodes
    exchanged = communication(job, ranks, known)
    return Estimate(ranks, job.update_s, exchanged, control, save_s, job.start_s + read_s, mtbf_s)
