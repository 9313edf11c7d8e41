"""Both stores for the same tests: a folder, and a bucket on a real S3-protocol server over loopback.

The server is moto. Where it is known to differ from S3, the tests say so:
- its check and put of `If-None-Match: *` are two steps, so a race between creators can have two winners;
- it never answers 409 to such a race;
- it does not verify the checksum of an upload.
"""

from __future__ import annotations

import uuid

import pytest
from s3_server import s3_server

from trellis_pipeline.storage.store import open_store


@pytest.fixture(scope="session")
def s3_endpoint():
    with s3_server() as address:
        yield address


@pytest.fixture(scope="session")
def s3_client(s3_endpoint):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"mode": "standard", "max_attempts": 3}),
    )


@pytest.fixture
def s3_store(s3_client):
    bucket = f"models-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/shop/spring", s3_client=lambda: s3_client)


@pytest.fixture
def local_store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture(params=["local", "s3"])
def store(request):
    return request.getfixturevalue(f"{request.param}_store")
