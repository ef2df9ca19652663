"""Requests made from the service's own description: whatever comes, no answer is a failure, and all are as described.

``FUZZ_EXAMPLES`` makes more of them (``make fuzz``).
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.index.test_living import publish_vectors
from tests.serving.conftest import AUTHORISED, client_of

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    publish_vectors(folder / "bundles")
    with client_of(folder / "bundles", state=str(folder / "events.sqlite"), explorer=False) as client:
        yield client


def test_no_request_fails_the_service(fuzzed):
    described = schemathesis.openapi.from_dict(fuzzed.get("/openapi.json").json())
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        for mode in MODES if operation.body else MODES[:1]:
            fuzz(fuzzed, operation, mode)


def fuzz(client, operation, mode):
    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case):
        given = case.as_transport_kwargs(base_url="http://test", headers=AUTHORISED)
        given = {
            name: given[name] for name in ("method", "url", "params", "headers", "json", "content") if name in given
        }
        answer = client.run(client.http.request(**given))
        assert answer.status_code < 500, (case, answer.text)
        # What is valid by the description is refused where items are unknown or settings do not go with the model.
        # The check of authentication sends requests of its own, to an address that is not there.
        checks = schemathesis.specs.openapi.checks
        unfit = [checks.positive_data_acceptance, checks.ignored_auth]
        case.validate_response(schemathesis.Response.from_any(answer), excluded_checks=unfit, headers=AUTHORISED)

    send()
