"""JSON Schema (draft 2020-12), as much of it as the program's own schemas use. Stricter in one thing: a field that the schema does not
have is an error, because it is one that nobody described."""
import re

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


class Invalid(Exception):
    pass


def is_a(value, name):
    if name in ("integer", "number"):
        fits = isinstance(value, int) or name == "number" and isinstance(value, float)
        return fits and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


class Schema:
    def __init__(self, root):
        self.root = root

    def check(self, value):
        """Raises Invalid with the place of what is wrong."""
        self.value(value, self.root, "$")

    def value(self, value, schema, at):
        """The names of `value` that the schema has."""
        if schema is True:
            return set(value) if isinstance(value, dict) else set()
        known = self.parts(value, schema, at)
        if isinstance(value, dict) and "object" in str(schema.get("type", "object")):
            unknown = set(value) - known
            if unknown and not self.open(schema):
                raise Invalid(f"{at} has {sorted(unknown)}, which the schema does not describe")
        return known

    def open(self, schema):
        """Whether any name is as good as another."""
        return not set(schema) - {"description", "title", "$defs", "$schema", "type"}

    def parts(self, value, schema, at):
        if schema is True:
            return set(value) if isinstance(value, dict) else set()
        known = set()
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            known |= self.parts(value, self.root["$defs"][name], at)
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            if not any(is_a(value, name) for name in names):
                raise Invalid(f"{at} is {value!r}, and no {' or '.join(names)}")
        if "const" in schema and value != schema["const"]:
            raise Invalid(f"{at} is {value!r}, and not {schema['const']!r}")
        if "enum" in schema and value not in schema["enum"]:
            raise Invalid(f"{at} is {value!r}, and none of {schema['enum']}")
        if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
            raise Invalid(f"{at} is {value!r}, and not as {schema['pattern']}")
        for key in ("anyOf", "oneOf"):
            if key in schema:
                known |= self.one(value, schema[key], at)
        for part in schema.get("allOf", []):
            known |= self.parts(value, part, at)
        if isinstance(value, dict):
            known |= self.fields(value, schema, at)
        if isinstance(value, list):
            first = schema.get("prefixItems", [])
            for number, item in enumerate(value):
                self.value(item, first[number] if number < len(first) else schema.get("items", True), f"{at}[{number}]")
        return known

    def one(self, value, schemas, at):
        why = []
        for schema in schemas:
            try:
                return self.parts(value, schema, at)
            except Invalid as e:
                why.append(str(e))
        raise Invalid(f"{at} is none of: {'; '.join(why)}")

    def fields(self, value, schema, at):
        for name in schema.get("required", []):
            if name not in value:
                raise Invalid(f"{at} has no {name!r}")
        properties = schema.get("properties", {})
        for name in value.keys() & properties.keys():
            self.value(value[name], properties[name], f"{at}.{name}")
        known = set(properties)
        more = schema.get("additionalProperties")
        if isinstance(more, dict) or more is True:
            for name in value.keys() - properties.keys():
                self.value(value[name], more, f"{at}.{name}")
            known |= set(value)
        return known
