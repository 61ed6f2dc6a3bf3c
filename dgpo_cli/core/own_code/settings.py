"""Settings that name code of the user's own: a path to a function, or a class as a variant."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError, core_schema

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code.files import digests_of, is_spec, split_spec
from dgpo_cli.core.own_code.load import load_own

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


SPEC_ERROR = "own_code"  # the type of an error whose message begins with the value
STAND_IN = "stand-in"  # the context of a validation that runs no code of the user's


class _Named(AfterValidator):
    """Marks a setting whose value is a spec."""

    def __init__(self) -> None:
        super().__init__(_well_formed)


def _well_formed(spec: str) -> str:
    try:
        split_spec(spec)
    except ConfigError as error:
        raise PydanticCustomError(SPEC_ERROR, "{told}", {"told": str(error)}) from error
    return spec


Spec = Annotated[str, _Named()]  # a setting that names code of the user's own


class OwnVariant:
    """Marks a union of settings that classes of the user's own may join.

    base: the class that they derive from. tag: the field that names the variant, here by a spec.
    needs: of these methods they must define one.
    """

    def __init__(self, base: type[BaseModel], *, tag: str, needs: tuple[str, ...]) -> None:
        self.base, self.tag, self.needs = base, tag, needs

    def load(self, spec: str) -> type[BaseModel]:
        """Return the class that a spec names.

        Raises:
            ConfigError: there is none, or it cannot be a variant; one line.
        """
        found, base = load_own(spec), self.base
        kind = f"a class derived from dgpo_cli.{base.__name__}"
        if not (isinstance(found, type) and issubclass(found, base)) or found is base:
            is_a = f"the class {found.__name__}" if isinstance(found, type) else _a(found)
            raise ConfigError(f"{spec}: is {is_a}; it must be {kind}")
        if not any(getattr(found, name) is not getattr(base, name) for name in self.needs):
            raise ConfigError(f"{spec}: defines neither {' nor '.join(self.needs)}; define one")
        if found.model_fields[self.tag].annotation is not str:
            raise ConfigError(
                f"{spec}: has a field {self.tag}, which is its name in the settings; leave it out"
            )
        copyreg.pickle(found, self._reduced)
        return found

    def _reduced(self, value: BaseModel) -> tuple[Any, ...]:
        """Say how another process, which may not have run the file, makes an equal value."""
        return _remade, (self, getattr(value, self.tag), value.model_dump())

    def stand_in(self, spec: str) -> type[BaseModel]:
        """Return a class that has any fields and does nothing, where nothing of the user's runs."""

        def refuse(*_: object, **__: object) -> None:
            raise ConfigError(f"{self.tag}={spec}: its code is not loaded here")

        return type(
            "StandIn",
            (self.base,),
            {
                "__module__": __name__,
                "model_config": ConfigDict(extra="allow"),
                **dict.fromkeys(self.needs, refuse),
            },
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_wrap_validator_function(self._validated, handler(source))

    def _validated(
        self,
        value: Any,
        handler: core_schema.ValidatorFunctionWrapHandler,
        info: core_schema.ValidationInfo,
    ) -> Any:
        if isinstance(value, self.base) and self.is_own(value):
            return value
        if not isinstance(value, Mapping) or not is_spec(str(value.get(self.tag, ""))):
            return handler(value)
        spec = str(value[self.tag])
        model = self.stand_in(spec) if info.context == STAND_IN else self.load(spec)
        return model.model_validate(value)

    def is_own(self, value: BaseModel) -> bool:
        return is_spec(str(getattr(value, self.tag, "")))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        name = {"type": "string", "pattern": ":"}
        own = {"type": "object", "properties": {self.tag: name}, "required": [self.tag]}
        return {"anyOf": [handler(schema), own]}


def _remade(variant: OwnVariant, spec: str, fields: dict[str, Any]) -> BaseModel:
    return variant.load(spec).model_validate(fields)


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"a {kind}" if kind[0] not in "aeiou" else f"an {kind}"


def own_code_of(settings: BaseModel) -> dict[str, str]:
    """Return the sha256 of every file of the user's own code in settings, and of its neighbours.

    The names are paths as the settings have them, neighbours beside them, or dotted modules.

    Raises:
        ConfigError: a file is gone.
    """
    return {name: digest for _, name, digest in own_files(settings)}


def own_files(settings: BaseModel) -> list[tuple[str, str, str]]:
    """Return section, name and sha256 of every file of `own_code_of`, for each section once."""
    found = {
        (key.partition(".")[0], name): digest
        for key, spec in _specs(settings, "")
        for name, digest in digests_of(spec).items()
    }
    return [(*place, digest) for place, digest in found.items()]


def _specs(settings: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield every spec in settings with the dotted name of where it is."""
    for name, field in type(settings).model_fields.items():
        key = f"{prefix}{name}"
        value = getattr(settings, name)
        for mark in field.metadata:
            if isinstance(mark, OwnVariant) and mark.is_own(value):
                yield key, getattr(value, mark.tag)
            elif isinstance(mark, _Named) and isinstance(value, str):
                yield key, value
        inner = value if isinstance(value, tuple) else (value,)
        for each in inner:
            if isinstance(each, BaseModel):
                yield from _specs(each, f"{key}.")
