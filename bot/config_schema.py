"""The JSON schema of config.yaml, for editors and `glmbot config schema`."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from bot.config import Config


def config_schema() -> dict[str, Any]:
    """The JSON schema of config.yaml, for editors."""
    schema = Config.model_json_schema(schema_generator=_WithReferences)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _WithReferences(GenerateJsonSchema):
    """Numbers and switches may also be `${ENV:...}` strings."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_reference(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _or_reference(super().float_schema(schema))

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return _or_reference(super().bool_schema(schema))


def _or_reference(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, {"type": "string", "pattern": r"\$\{(ENV|FILE):"}]}
