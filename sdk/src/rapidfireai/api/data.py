"""What an experiment reads: rows and documents, wherever they are."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from rapidfireai.api.base import Resource, cel, validations

URI_PATTERN = (
    r"^(pvc://[a-z0-9.-]+/.+|blob://sha256/[0-9a-f]{64}|hf://[^/].*|file:///.+|https?://[^/@]+/.+|(s3|gs)://[^/@]+/.+)$"
)
"""The URIs of data sets, in the syntax that Python and CEL share."""
URI_FIX = (
    "write pvc://CLAIM/path, hf://owner/name, https://host/path, s3://bucket/path, gs://bucket/path, "
    "blob://sha256/DIGEST (what the SDK uploads) or file:///path (only where workers share the user's disk); a user "
    "name and password do not belong in it"
)


def _known_scheme(uri: str) -> str:
    if not re.fullmatch(URI_PATTERN, uri):
        raise ValueError(URI_FIX)
    return uri


Uri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2048),
    AfterValidator(_known_scheme),
    Field(json_schema_extra=validations(cel(f"self.matches('{URI_PATTERN}')", URI_FIX))),
]
HubText = Annotated[str, Field(min_length=1, max_length=256)]


class DataSource(Resource):
    """Where one data set lies."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(!has(self.config) && !has(self.revision)) || self.uri.startsWith('hf://')",
                "config and revision belong to an hf:// data set; leave them out",
            ),
        )
    )

    uri: Annotated[
        Uri,
        Field(
            description=(
                "pvc://CLAIM/path, hf://owner/name, https://host/path, s3://bucket/path, gs://bucket/path, "
                "blob://sha256/DIGEST or file:///path. A path names a file that ends in .jsonl, .json, .parquet or "
                ".csv (.gz may follow); on a claim or a bucket also a directory of such files, or several with * and ?."
            )
        ),
    ]
    split: Annotated[
        str, Field(max_length=128, description="The split of an hf:// data set, such as train or train[:1000].")
    ] = "train"
    config: Annotated[HubText | None, Field(description="The configuration (subset) of an hf:// data set.")] = None
    revision: Annotated[HubText | None, Field(description="The commit, tag or branch of an hf:// data set.")] = None


class Data(Resource):
    """The data sets of an experiment."""

    train: Annotated[
        DataSource | None, Field(description="The rows to train on: mode fit alone, and always there.")
    ] = None
    eval: Annotated[
        DataSource | None,
        Field(
            description="Mode fit: the rows to evaluate on at every chunk boundary. Mode evals: the rows that every "
            "run answers, shard by shard."
        ),
    ] = None
    documents: Annotated[
        DataSource | None,
        Field(
            description="Mode evals: the documents of every rag that has no document_loader of its own. The column "
            "`text` (or `page_content`) is the text, the others become the documents' metadata."
        ),
    ] = None
