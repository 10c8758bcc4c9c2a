"""Models in buckets, with a server that checks signatures as S3 does.

Catches bytes other than of the same models in folders, secrets that are shown, and refusals that do not say why."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]
MODELS = ["base", "code", "math"]
RECIPE = """\
merge_method: ties
base_model: {at}/base
models:
  - {{model: {at}/code, parameters: {{weight: 1, density: 0.5}}}}
  - {{model: {at}/math, parameters: {{weight: 0.8, density: 0.5}}}}
dtype: bfloat16
"""


@pytest.fixture(scope="module")
def server():
    """An address with the bucket `models`, and the keys of somebody who may read it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    anybody = {
        "endpoint_url": address,
        "region_name": "us-east-1",
        "aws_access_key_id": "anybody",
        "aws_secret_access_key": "anybody",
    }
    s3, iam = boto3.client("s3", **anybody), boto3.client("iam", **anybody)
    s3.create_bucket(Bucket="models")
    for model in MODELS:
        for file in (ROOT / "examples/quickstart" / model).iterdir():
            s3.upload_file(str(file), "models", f"team one/{model}/{file.name}")
    allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::models/*"}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    iam.create_user(UserName="stranger")
    other = iam.create_access_key(UserName="stranger")["AccessKey"]
    # From now on every request is checked.
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset-auth", b"0", plain))
    yield address, key, other
    server.stop()


def run(folder, address, arguments, **variables):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "us-east-1",
        "MIXDOWN_THREADS": "2",
        **variables,
    }
    command = [os.environ["MIXDOWN_BINARY"], *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def keys(key):
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def recipe(folder, at):
    (folder / "recipe.yaml").write_text(RECIPE.format(at=at))


MERGE = ["merge", "recipe.yaml", "--out", "merged"]


def test_the_bytes_are_those_of_folders(server, tmp_path):
    address, key, _ = server
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir(), near.mkdir()
    recipe(far, "s3://models/team one")
    recipe(near, ROOT / "examples/quickstart")
    checked = run(far, address, ["check", "recipe.yaml"], **keys(key))
    assert checked.returncode == 0, checked.stderr
    for folder in [far, near]:
        merged = run(folder, address, MERGE, **keys(key))
        assert merged.returncode == 0, merged.stderr
    for name in ["model.safetensors", "config.json", "tokenizer.json"]:
        assert (far / "merged" / name).read_bytes() == (near / "merged" / name).read_bytes(), name
    written = (far / "merged/mixdown-manifest.json").read_text()
    assert "s3://models/team one/base" in written
    assert key["SecretAccessKey"] not in written + checked.stderr


def test_one_file_is_a_model(server, tmp_path):
    address, key, _ = server
    model = "s3://models/team one/base/model-00001-of-00002.safetensors"
    shown = run(tmp_path, address, ["inspect", model], **keys(key))
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("case", ["wrong secret", "stranger", "nobody"])
def test_who_may_not_read_is_told(server, tmp_path, case):
    address, key, other = server
    secret = "not-the-secret-of-this-key"
    variables = {
        "wrong secret": {**keys(key), "AWS_SECRET_ACCESS_KEY": secret},
        "stranger": keys(other),
        "nobody": {},
    }[case]
    recipe(tmp_path, "s3://models/team one")
    refused = run(tmp_path, address, MERGE, **variables)
    assert refused.returncode != 0
    # moto answers requests without any signature with an error of its own.
    status = "status 5" if case == "nobody" else "status 403"
    assert "E0558" in refused.stderr and status in refused.stderr, refused.stderr
    expected = "nobody" if case == "nobody" else "access key of this environment"
    assert expected in refused.stderr, refused.stderr
    assert secret not in refused.stderr and other["SecretAccessKey"] not in refused.stderr
    assert not (tmp_path / "merged").exists()


def test_a_bucket_that_is_not_there_is_told(server, tmp_path):
    address, key, _ = server
    shown = run(tmp_path, address, ["inspect", "s3://no-such-bucket/base"], **keys(key))
    assert shown.returncode != 0
    assert "E05" in shown.stderr or "E01" in shown.stderr, shown.stderr
    assert "no-such-bucket" in shown.stderr
