"""Everything in a bucket: catalog, photos and output, on a server that speaks S3."""

import hashlib
import io

import pandas as pd
import pytest
from line_process import Plan, billed, run, statuses
from s3_server import s3_server
from small_catalogs import draw_photo

from trellis_pipeline.mesh.glb_read import parse_glb

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret-0123",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def endpoint():
    with s3_server() as address:
        yield address


@pytest.fixture
def client(endpoint):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test-key",
        aws_secret_access_key="test-secret-0123",
    )


@pytest.mark.slow
def test_catalog_photos_and_output_in_buckets_and_a_second_run_that_finds_everything(
    tmp_path, endpoint, client
):
    client.create_bucket(Bucket="shop-photos")
    client.create_bucket(Bucket="models")
    lines = ["sku,image"]
    for number, sku in enumerate(["A", "B"]):
        photo = draw_photo(tmp_path / f"{sku}.png", number)
        client.put_object(Bucket="shop-photos", Key=f"in/{sku}.png", Body=photo.read_bytes())
        lines.append(f"{sku},s3://shop-photos/in/{sku}.png")
    lines.append("GONE,s3://shop-photos/in/gone.png")
    client.put_object(Bucket="shop-photos", Key="in/catalog.csv", Body="\n".join(lines).encode())
    home = tmp_path / "home"
    plan = Plan(
        str(home),
        "s3://shop-photos/in/catalog.csv",
        sections={"storage": {"url": "s3://models/spring", "s3_endpoint": endpoint}},
    )

    summary = run(plan, **CREDENTIALS)
    assert statuses(summary) == {"A": "generated", "B": "generated", "GONE": "failed"}
    products = {product["sku"]: product for product in summary["products"]}
    assert "s3://shop-photos/in/gone.png" in products["GONE"]["error"]
    assert products["A"]["model_path"] == "s3://models/spring/shop/products/A/model.glb"
    assert summary["report"] == "s3://models/spring/shop/report.html"

    def read(key):
        return client.get_object(Bucket="models", Key=f"spring/{key}")["Body"].read()

    glb = parse_glb(read("shop/products/A/model.glb")).document
    assert glb["asset"]["extras"]["trellis_pipeline"]["sku"] == "A"
    assert b"GONE" in read("shop/report.html")
    table = pd.read_parquet(io.BytesIO(read("shop/quality.parquet")))
    assert sorted(table["sku"]) == ["A", "B", "GONE"]
    listed = client.list_objects_v2(Bucket="models", Prefix="spring/blobs/")["Contents"]
    for entry in listed:
        name = entry["Key"].rpartition("/")[2].partition(".")[0]
        data = client.get_object(Bucket="models", Key=entry["Key"])["Body"].read()
        assert hashlib.sha256(data).hexdigest() == name

    again = run(plan, **CREDENTIALS)
    assert statuses(again) == {"A": "cached", "B": "cached", "GONE": "failed"}
    assert len(billed(home)) == 2


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_named_before_anything_is_made(tmp_path, endpoint, client):
    draw_photo(tmp_path / "A.png")
    (tmp_path / "catalog.csv").write_text("sku,image\nA,A.png\n")
    sections = {"storage": {"url": "s3://nowhere/spring", "s3_endpoint": endpoint}}
    refused = run(
        Plan(str(tmp_path / "home"), str(tmp_path / "catalog.csv"), sections=sections), **CREDENTIALS
    )
    assert refused["error"] == "StorageUnavailable"
    assert "s3://nowhere" in refused["message"]
    assert "test-secret" not in refused["message"]
    assert billed(tmp_path / "home") == []
