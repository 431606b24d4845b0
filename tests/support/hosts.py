"""Two hosts on one machine: network namespaces that are joined by a pair of virtual devices.

Each has an address of its own, and may see folders of its own at the paths of others.  Linux lets
only root make them, and not in every container.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ADDRESSES = ("10.97.0.1", "10.97.0.2")
ENDING_S = 30.0  # that killed processes have to be gone


class NotPermitted(Exception):
    """Network namespaces cannot be made here; the text says why."""


@dataclass
class Host:
    """A network namespace.

    folders: what this host sees at the path of a folder: another folder, by that path.
    """

    name: str
    address: str
    folders: dict[Path, Path] = field(default_factory=dict)

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another one on this host."""
        # `ip netns exec` gives each command mounts of its own.
        mounts = [f"mount --bind '{own}' '{path}'" for path, own in self.folders.items()]
        script = "\n".join(["set -e", *mounts, 'exec "$@"'])
        return ["ip", "netns", "exec", self.name, "sh", "-c", script, "sh", *words]

    def kill_all(self) -> None:
        """Kill everything that runs on this host, and wait until it is gone."""
        deadline = time.monotonic() + ENDING_S
        while time.monotonic() < deadline:
            numbers = ip("netns", "pids", self.name).split()
            if not numbers:
                return
            for number in numbers:
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
            time.sleep(0.1)


def ip(*arguments: str) -> str:
    """Run `ip`, and return what it prints; raises NotPermitted where it fails or is not there."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise NotPermitted("the command `ip` of iproute2 is not installed") from None
    if done.returncode:
        raise NotPermitted(f"`ip {' '.join(arguments)}`: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Give two hosts that reach each other; all that runs on them ends with the context.

    Raises NotPermitted where they cannot be made.
    """
    name = uuid.uuid4().hex[:8]
    first, second = (Host(f"host-{name}-{i}", address) for i, address in enumerate(ADDRESSES))
    made: list[Host] = []
    try:
        for host in (first, second):
            ip("netns", "add", host.name)
            made.append(host)
        device = ("link", "add", "cable", "netns", first.name, "type", "veth")
        ip(*device, "peer", "name", "cable", "netns", second.name)
        for host in made:
            ip("-n", host.name, "link", "set", "lo", "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "cable", "up")
        yield first, second
    finally:
        for host in made:
            host.kill_all()
            ip("netns", "delete", host.name)
