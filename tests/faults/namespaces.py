"""Hosts on one machine: network namespaces of Linux, joined by a switch whose cables can be pulled.

One namespace holds the switch, one is each host's. The test's own network has a cable to the host
`a` alone, as a client has. Names carry the pid of the test run, so that several can go side by side
and what a killed one left is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Switch", "missing_rights"]

PREFIX = "cst"


def _ip(*words: str) -> str:
    command = ["ip", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing_rights() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if shutil.which("ip") is None:
        return "network namespaces take Linux and iproute2"
    name = f"{PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "probe", "type", "bridge")
    except subprocess.CalledProcessError as error:
        return f"network namespaces take the rights of root: {error.stderr.strip()}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", name)
    return None


class Switch:
    """hosts: their names. Between `with`, each has a namespace and an address on a network of
    their own; `outside` is the address of the first one for the test."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = list(hosts)
        self._run = f"{PREFIX}{os.getpid()}"
        self._switch = f"{self._run}-switch"
        number = os.getpid() % 250 + 1
        self._inner = f"10.213.{number}"
        self._outer = f"10.214.{number}"
        self.outside = f"{self._outer}.1"

    def address(self, host: str) -> str:
        return f"{self._inner}.{self._hosts.index(host) + 1}"

    def wrap(self, host: str) -> tuple[str, ...]:
        """What runs a command on that host."""
        return ("ip", "netns", "exec", self._namespace(host))

    @contextmanager
    def unplugged(self, host: str) -> Iterator[None]:
        """Its cable is out: no packet comes or goes, and no end of a connection is told."""
        _ip("-n", self._switch, "link", "set", "dev", host, "down")
        try:
            yield
        finally:
            _ip("-n", self._switch, "link", "set", "dev", host, "up")

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _remove(self._run)

    def _namespace(self, host: str) -> str:
        return f"{self._run}-{host}"

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for host in self._hosts:
            space = self._namespace(host)
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            ends = ("eth0", "type", "veth", "peer", "name", host, "netns", self._switch)
            _ip("-n", space, "link", "add", *ends)
            _ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", self._switch, "link", "set", "dev", host, "master", "bridge", "up")
        space = self._namespace(self._hosts[0])
        cable = f"{self._run}v"
        _ip("-n", space, "link", "add", "eth1", "type", "veth", "peer", "name", cable)
        _ip("-n", space, "address", "add", f"{self.outside}/24", "dev", "eth1")
        _ip("-n", space, "link", "set", "eth1", "up")
        _ip("-n", space, "link", "set", "dev", cable, "netns", f"{os.getpid()}")
        _ip("address", "add", f"{self._outer}.2/24", "dev", cable)
        _ip("link", "set", "dev", cable, "up")


def _remove(run: str) -> None:
    """All namespaces of a test run; their cables go with them."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{run}-"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


def _remove_leftovers() -> None:
    for pid in set(re.findall(rf"^{PREFIX}(\d+)-", _ip("netns", "list"), re.MULTILINE)):
        if not psutil.pid_exists(int(pid)):
            _remove(f"{PREFIX}{pid}")
