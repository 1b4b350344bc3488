"""The TypeScript types that are checked in are those of today's service, and its answers are of these types."""

import json
import shutil
import subprocess

import pytest
from fastapi.testclient import TestClient

from common.config import ROOT
from kfashion.service.app import Settings, create_app
from kfashion.service.client_types import FILE, client_types
from tests.kfashion.run_parts import full_run
from tests.kfashion.service_parts import KEY, application, png


@pytest.fixture
def compile_types():
    """Compiles a folder and tells what the compiler complains of."""
    compiler = ROOT / ".venv/typescript/node_modules/.bin/tsc"
    if not compiler.exists():
        pytest.skip("no TypeScript compiler; the set-up fetches it where there is npm")
    return lambda folder: subprocess.run([compiler, "-p", folder], capture_output=True, text=True).stdout


def test_the_types_checked_in_are_those_of_the_service():
    made = client_types(create_app(Settings(api_key="")).openapi())
    assert FILE.read_text(encoding="utf-8") == made, "run python -m kfashion.service.client_types"


def test_each_kind_of_schema_has_its_type():
    properties = {
        "id": {"type": "integer"},
        "x-key": {"$ref": "#/components/schemas/Key"},
        "tags": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "size": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "number"}]},
        "counts": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "fixed": {"const": True, "type": "boolean"},
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    }
    schema = {"type": "object", "properties": properties, "required": ["id"], "description": "A thing.\nMore."}
    text = client_types({"components": {"schemas": {"Thing": schema}}, "paths": {}})
    assert (
        "\n".join(text.split("\n")[4:16])
        == """/** A thing. */
export interface Thing {
  id: number;
  "x-key"?: Key;
  tags?: Array<string | null>;
  size?: [number, number];
  counts?: Record<string, boolean>;
  kind?: "a" | "b";
  fixed?: true;
  file?: Blob;
}
"""
    )


def test_a_schema_without_a_type_is_refused():
    with pytest.raises(ValueError, match="no type for"):
        client_types({"components": {"schemas": {"Thing": {"type": "object"}}}, "paths": {}})


@pytest.mark.slow
def test_the_example_of_a_client_compiles(compile_types):
    assert compile_types(FILE.parent) == ""


@pytest.mark.slow
def test_answers_of_the_service_are_of_their_types_and_others_are_not(tmp_path, compile_types):
    for name in ("api.d.ts", "tsconfig.json"):
        shutil.copy(FILE.parent / name, tmp_path)
    lines = ['import type { ErrorResponse, Operations } from "./api";']
    for number, (operation, body) in enumerate(answers(tmp_path).items()):
        kind = f'Operations["{operation}"]["answer"]' if " " in operation else operation
        lines.append(f"export const answer{number}: {kind} = {json.dumps(body)};")
    text = "\n".join(lines)
    (tmp_path / "answers.ts").write_text(text)
    assert compile_types(tmp_path) == ""
    (tmp_path / "answers.ts").write_text(text.replace('"mrr": 0.375', '"mrr": "0.375"'))
    assert "answers.ts" in compile_types(tmp_path)


def answers(folder):
    """An answer of the service to each operation that answers in JSON, and an error."""
    app = application(folder / "catalogue.db")
    app.state.run = full_run(folder / "outputs" / "kfashion_stage2" / "run")
    client, picture = TestClient(app), ("a.png", png(3), "image/png")
    many, key = [("file", picture), ("file", picture)], {"X-API-Key": KEY}
    asked = {
        "POST /api/recommend/top10_to_new": {"files": many, "params": {"similarity_threshold": -1}},
        "POST /api/recommend/customer_input": {"files": many[:1], "params": {"similarity_threshold": -1}},
        "POST /api/recommend/style": {"json": {"style_description": {"style": ["모던"]}}},
        "POST /api/recommend/attributes": {"files": many[:1]},
        "POST /api/catalog/new_products": {"files": many[:1], "data": {"item_id": "new", "price": "1"}, "headers": key},
        "GET /api/catalog/new_products": {},
        "GET /api/catalog/new_products/{item_id}": {},
        "DELETE /api/catalog/new_products/{item_id}": {"headers": key},
        **{f"GET {path}": {} for path in ("/health", "/ready", "/api/dashboard/kpi", "/api/dashboard/live")},
        "GET /api/dashboard/vocabulary": {},
    }
    found = {}
    for operation, words in asked.items():
        method, path = operation.split(" ")
        response = client.request(method, path.replace("{item_id}", "new"), **words)
        assert response.is_success, response.text
        found[operation] = response.json()
    return found | {"ErrorResponse": client.get("/api/catalog/new_products", params={"limit": 0}).json()}
