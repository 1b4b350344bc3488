"""The service's OpenAPI document as TypeScript types, for a front in Nest.js or any other.

python -m kfashion.service.client_types     # writes kfashion/service/client/api.d.ts
"""

import json
from pathlib import Path
from textwrap import indent
from typing import Any

from common.files import write_text
from kfashion.service.app import Settings, create_app

FILE = Path(__file__).parent / "client" / "api.d.ts"
HEAD = """// What the service takes and answers, made from its OpenAPI document; not to be edited:
// python -m kfashion.service.client_types
// First every schema, then `Operations`: what each address takes and answers. A mistake is an `ErrorResponse`.
"""
NAMES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
Schema = dict[str, Any]


def client_types(document: Schema) -> str:
    """The text of the file of types.

    Raises:
        ValueError: for a schema of a kind that the service has not used so far.
    """
    schemas = document["components"]["schemas"]
    parts = [_described(f"export interface {name} {_type(schema)}", schema) for name, schema in schemas.items()]
    operations = [
        f'"{method.upper()} {path}": {_operation(operation)};\n'
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return "\n".join([HEAD, *parts, f"export interface Operations {_braces(operations)}\n"])


def _operation(operation: Schema) -> str:
    parts = []
    for place in ("path", "query", "header"):
        found = [each for each in operation.get("parameters", []) if each["in"] == place]
        if found:
            required = [each["name"] for each in found if each.get("required")]
            properties = {each["name"]: each["schema"] for each in found}
            parts.append(f"{place}: {_type({'type': 'object', 'properties': properties, 'required': required})};\n")
    if "requestBody" in operation:
        parts.append(f"body: {_content(operation['requestBody'])};\n")
    done = next(response for status, response in operation["responses"].items() if status.startswith("2"))
    return _braces([*parts, f"answer: {_content(done)};\n"])


def _content(message: Schema) -> str:
    (content,) = message["content"].values()
    return _type(content["schema"])


def _type(schema: Schema) -> str:
    """A schema as a type of TypeScript."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(map(_type, schema['prefixItems']))}]"
        case "array":
            return f"Array<{_type(schema['items'])}>"
        case "object" if "properties" in schema:
            return _braces([_property(name, each, schema) for name, each in schema["properties"].items()])
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"Record<string, {_type(schema['additionalProperties'])}>"
        case "string" if schema.get("format") == "binary" or "contentMediaType" in schema:
            return "Blob"
        case kind if kind in NAMES:
            return NAMES[kind]
    raise ValueError(f"no type for {schema}")


def _property(name: str, schema: Schema, owner: Schema) -> str:
    optional = "" if name in owner.get("required", []) else "?"
    return f"{name if name.isidentifier() else json.dumps(name)}{optional}: {_type(schema)};\n"


def _described(declaration: str, schema: Schema) -> str:
    first = schema.get("description", "").split("\n")[0]
    return f"/** {first} */\n{declaration}\n" if first else f"{declaration}\n"


def _braces(lines: list[str]) -> str:
    return "{\n" + indent("".join(lines), "  ") + "}"


if __name__ == "__main__":
    write_text(FILE, client_types(create_app(Settings(api_key="")).openapi()))
    print(FILE)
