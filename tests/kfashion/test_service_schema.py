"""Whatever the OpenAPI document allows, and what it does not, is answered as the document says, never with a 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.kfashion.run_parts import full_run
from tests.kfashion.service_parts import KEY, application

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


PATIENT = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def ask_all_kinds(operation):
    """Send requests that the document allows and such that it does not."""

    @given(data=st.data())
    @PATIENT
    def ask(data):
        mode = data.draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        case.call_and_validate(checks=CHECKS, headers={"X-API-Key": KEY})

    ask()


@pytest.mark.slow
def test_the_service_does_as_its_document_says(tmp_path):
    app = application(tmp_path / "catalogue.db")
    app.state.run = full_run(tmp_path / "outputs" / "kfashion_stage2" / "run")
    operations = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) == 16
    for operation in operations:
        ask_all_kinds(operation)
