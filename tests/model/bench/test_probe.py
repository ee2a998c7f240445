"""The probes of the native library, where it is built."""

from __future__ import annotations

import pytest

from model.bench.probe import Limits, Probe, cpu_name
from model.kernels.library import NoLibrary, open_library


def test_what_the_machine_can_do_is_above_nothing() -> None:
    try:
        probe = Probe(open_library(), threads=2, buffer=1 << 22, rounds=1_000)
    except NoLibrary as error:
        pytest.skip(str(error))
    limits = probe.limits()
    assert min(limits.bandwidth, limits.macs, probe.bandwidth(1), probe.dot(1)) > 1e6


def test_the_mean_of_two_probes() -> None:
    assert Limits(1, 10).mean(Limits(3, 30)) == Limits(2, 20)


def test_the_cpu_has_a_name() -> None:
    assert cpu_name()
