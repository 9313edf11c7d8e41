"""The crop is not sent but named: a link into the user's own bucket, good for one picture and a while."""

import logging
from urllib.parse import parse_qs, urlsplit

import pytest
from runware_parts import SENTINEL, UUID, SeedGenerator, crop, options, with_generator
from s3_server import s3_server
from typer.testing import CliRunner

from resources.generator import runware_options
from resources.store import ArtifactStoreResource
from trellis_pipeline.cli import app
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware.options import ApiKey, RunwareOptions
from trellis_pipeline.service.testing import running_service


@pytest.fixture
def bucket(monkeypatch):
    """A store in a bucket whose server is on loopback."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-0123",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with s3_server() as address:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="models")
        yield ArtifactStoreResource(url="s3://models/spring", s3_endpoint=address, s3_region="us-east-1")


def test_the_provider_fetches_the_crop_by_a_link_that_ends_and_is_not_logged(bucket, tmp_path, caplog):
    bucket.open().put_blob(crop().png, ".png")
    sign, links = bucket.picture_url(60), []

    def link(sha256):
        links.append(sign(sha256))
        return links[-1]

    async def use(generator):
        for seed, task in enumerate([UUID, UUID[:-1] + "2"]):
            await generator.submit(task, GenerationRequest(seed=seed), crop())
            (model,) = await generator.collect(task, GenerationRequest(seed=seed))
            assert model.seed == seed

    caplog.set_level(logging.INFO)
    with running_service(SeedGenerator(), folder=tmp_path, api_keys=[SENTINEL]) as provider:
        with_generator(provider.base_url, use, image_input="url", picture_url=link)
    assert [urlsplit(one).path.rpartition("/")[2] for one in links] == [f"{crop().sha256}.png"] * 2
    said = [parse_qs(urlsplit(one).query) for one in links]
    assert all(one["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"] and "X-Amz-Expires" in one for one in said)
    # Not the bucket's own log, nor what botocore says of its signing to those who debug it.
    told = [one for one in caplog.records if one.name != "werkzeug" and one.levelno >= logging.INFO]
    ours = [record.getMessage() for record in told]
    assert any(crop().sha256 in line for line in ours)  # the service tells what it fetches
    assert [line for line in ours if "Signature" in line] == []


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("", "needs a storage that the provider can read"),
        (
            '[storage]\nurl = "s3://b/p"\ns3_endpoint = "http://10.0.0.5:9000"',
            "Runware cannot reach a bucket at",
        ),
    ],
)
def test_links_that_the_provider_could_not_follow_are_refused_at_once(tmp_path, monkeypatch, storage, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text(f'[runware]\nimage_input = "url"\n{storage}\n')
    (tmp_path / "catalog.csv").write_text("sku,image\nA,a.png\n")
    done = CliRunner().invoke(app, ["plan", "--catalog", "catalog.csv", "--generator", "runware"])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert 'image_input = "upload"' in done.stderr


def test_a_picture_that_is_not_from_the_store_travels_in_its_task(monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", SENTINEL)
    assert runware_options({"image_input": "url"}).image_input == "data_uri"
    kept = RunwareOptions(
        api_key=ApiKey(SENTINEL), image_input="url", picture_url=lambda _: "https://x.test/"
    )
    assert kept.image_input == "url"
    with pytest.raises(ConfigError, match="s3://"):
        options("http://127.0.0.1:1/v1", image_input="url")
