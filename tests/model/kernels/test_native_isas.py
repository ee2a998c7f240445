"""Every instruction set of this machine gives the same bits, for any numbers and in any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from model.kernels.library import Library, Pool
from model.kernels.native import Native
from tests.model.kernels.cases import (
    Attention,
    Bits,
    Case,
    ContextAttention,
    LayerNorm,
    Linear,
    Numbers,
    RopeKV,
    attentions,
    contexts,
    linears,
    matrix,
    norms,
    plain,
    ropes,
    same_bits,
)

Everywhere = Callable[[Case], None]
relaxed = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def everywhere(library: Library) -> Iterator[Everywhere]:
    """Checks that a case has the same result on every instruction set, with 1 to 3 threads and once more."""
    pools = [Pool(library, threads, spin_us=1) for threads in (1, 2, 3, 3)]

    def check(case: Case) -> None:
        library.use("scalar")
        expected = case(lambda exact: Native(library, pools[0], exact=exact))
        for isa in library.isas:
            library.use(isa)
            for pool in pools:
                results = case(lambda exact, pool=pool: Native(library, pool, exact=exact))
                assert same_bits(results, expected), (isa, pool.threads)

    yield check
    for pool in pools:
        pool.close()


@relaxed
@given(case=linears)
def test_linear_layers(everywhere: Everywhere, case: Linear) -> None:
    everywhere(case)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 64)])
@pytest.mark.parametrize("zeros", [False, True])
def test_linear_layers_of_every_number_of_rows(
    everywhere: Everywhere, bits: Bits, group: int, zeros: bool
) -> None:
    weight = matrix(bits, group, 33, 200, zeros=zeros)
    for rows in range(1, 41):
        for numbers in (plain(), Numbers(0, halves_to=127)):
            everywhere(Linear(numbers(rows, 200), weight, None, gelu=False, exact=False))


@pytest.mark.parametrize("out", [2_048, 2_056])
@pytest.mark.parametrize("exact", [False, True])
def test_results_that_are_more_than_caches_hold(
    library: Library, everywhere: Everywhere, out: int, exact: bool
) -> None:
    """They are those of a few rows at a time."""
    x, weight, bias = plain()(132, 32), matrix(4, 32, out, 32), plain(1)(out)
    everywhere(Linear(x, weight, bias, gelu=True, exact=exact))
    operations = Native(library, Pool(library, 2, spin_us=1), exact=exact)
    together = operations.linear(x, weight, bias, gelu=True)
    apart = [operations.linear(part, weight, bias, gelu=True) for part in x.split(12)]
    assert same_bits(together.split(12), apart)


@relaxed
@given(case=linears)
def test_a_row_alone(library: Library, case: Linear) -> None:
    """It has the bits that it has among others, on every instruction set."""
    pool = Pool(library, 1)
    for isa in library.isas:
        library.use(isa)
        operations = Native(library, pool, exact=case.exact)
        together = operations.linear(case.x, case.weight, case.bias, gelu=case.gelu)
        alone = operations.linear(case.x[-1:], case.weight, case.bias, gelu=case.gelu)
        assert same_bits([alone], [together[-1:]]), isa


@relaxed
@given(case=norms)
def test_layer_norm(everywhere: Everywhere, case: LayerNorm) -> None:
    everywhere(case)


@relaxed
@given(case=ropes)
def test_rotation_and_what_is_kept_in_pages(everywhere: Everywhere, case: RopeKV) -> None:
    everywhere(case)


@settings(relaxed, max_examples=50)
@given(case=attentions)
def test_attention_to_pages(everywhere: Everywhere, case: Attention) -> None:
    everywhere(case)


@relaxed
@given(case=contexts)
def test_attention_within_a_prompt(everywhere: Everywhere, case: ContextAttention) -> None:
    everywhere(case)
