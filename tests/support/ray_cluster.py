"""A Ray cluster whose nodes are processes of this machine, for tests that kill some of them."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RESOURCES = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}


def patiently(start: Callable[[], Any]) -> Any:
    """Return a started node: Ray gives it 30 s, of which a busy machine may need more."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start()
    return start()


@contextmanager
def running_cluster() -> Iterator[Any]:
    """Give a cluster of one node with one core, which ends with the context."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=RESOURCES))
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any, **resources: int) -> Any:
    """Add a node to a cluster, with one core unless `resources` say otherwise."""
    node = patiently(lambda: cluster.add_node(**(RESOURCES | resources)))
    cluster.wait_for_nodes(60)
    return node
