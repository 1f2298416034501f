"""The three policies, and what no policy can be."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import asdict, evolve

from matrix_e2e_keys import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Limits, check_policy


def test_each_policy_checks_all_that_the_one_before_checks() -> None:
    for lenient, demanding in ((COMPAT, SPEC), (SPEC, STRICT)):
        before, after = asdict(lenient, recurse=False), asdict(demanding, recurse=False)
        checks = [name for name, value in before.items() if isinstance(value, bool) and name != "refuses_invalid_names"]
        assert len(checks) == 4
        assert all(before[name] <= after[name] for name in checks)
        limits = asdict(demanding.limits)
        assert all(limits[name] <= limit for name, limit in asdict(lenient.limits).items())


def test_what_each_of_them_checks() -> None:
    checks = ("checks_device_keys", "checks_one_time_keys", "checks_one_time_key_signatures", "refuses_claimed_ids")
    table = {policy.name: [getattr(policy, check) for check in checks] for policy in (COMPAT, SPEC, STRICT)}
    assert table == {
        "compat": [False, False, False, False],
        "spec": [True, True, False, True],
        "strict": [True, True, True, True],
    }


def test_the_cap_that_deployed_servers_have() -> None:
    assert COMPAT.limits.one_time_keys_per_algorithm == 500


@pytest.mark.parametrize("name", sorted(asdict(SPEC.limits)))
@pytest.mark.parametrize("value", [-1, 1.0, True, None, "5"])
def test_a_limit_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        evolve(SPEC.limits, **{name: value})
    assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, f"/{name}")


def test_nothing_at_all_is_a_limit() -> None:
    assert Limits(**dict.fromkeys(asdict(SPEC.limits), 0)).object_bytes == 0


@pytest.mark.parametrize("value", [None, "spec", Limits, SPEC.limits])
def test_what_is_no_policy(value: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_policy(value)
    assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/policy")


def test_what_is_one() -> None:
    assert check_policy(STRICT) is STRICT
