"""A user's own functions, and how they are named."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from rapidfireai.api.base import Digest, Name, Resource, cel, validations

MAX_SOURCE = 65536
"""How many characters of inline source one experiment may have."""
FUNCTION_PATTERN = r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*:)?[A-Za-z_]\w*$"
"""How a function of a manifest is named: a name of the experiment's own source, or `module:name`."""


class ConfigMapCode(Resource):
    """A key of a ConfigMap that holds Python source."""

    name: Annotated[Name, Field(description="The ConfigMap, in the experiment's namespace.")]
    key: Annotated[Name, Field(description="The key that holds the source, of at most 64 KiB.")] = "code.py"


class Code(Resource):
    """The user's Python functions: what the SDK bundled, or source; leave it out if there are none."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(has(self.bundle) ? 1 : 0) + (has(self.source) ? 1 : 0) + (has(self.configMap) ? 1 : 0) <= 1",
                "write one of bundle, source and configMap",
            ),
            cel(
                "has(self.bundle) || has(self.source) || has(self.configMap) || has(self.createModel)",
                "write source or configMap, or leave code out (the SDK writes bundle)",
            ),
            cel("has(self.bundle) == has(self.python)", "bundle and python go together; the SDK writes both"),
            cel(
                "!has(self.bundle) || !has(self.createModel)",
                "a bundle has its own create_model_fn; leave createModel out",
            ),
        )
    )

    bundle: Annotated[Digest | None, Field(description="The digest of the code bundle on the volume.")] = None
    python: Annotated[
        str | None,
        Field(pattern=r"^3\.\d+$", description="The Python version that made the bundle, such as 3.11."),
    ] = None
    source: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_SOURCE,
            description=(
                'Python source. Configs name its functions as {"$function": "name"}, and those of modules that the '
                'worker\'s image has as {"$function": "module:name"}.'
            ),
        ),
    ] = None
    config_map: Annotated[ConfigMapCode | None, Field(description="Where the source lies, instead of in `source`.")] = (
        None
    )
    create_model: Annotated[
        str | None,
        Field(
            max_length=256,
            pattern=FUNCTION_PATTERN,
            description=(
                "The function that takes a run's config and returns (model, tokenizer): `name` or `module:name`. "
                "Without it `model_name` is loaded."
            ),
        ),
    ] = None
