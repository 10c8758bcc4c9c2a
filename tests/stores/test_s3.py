"""Models in buckets, and outputs that go there, with a server that checks signatures as S3 does.

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
    """An address with the bucket `models`, and keys: of who may read it, of a stranger, of who may write it."""
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
    iam.create_user(UserName="writer")
    actions = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    actions += ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["arn:aws:s3:::models", "arn:aws:s3:::models/*"]
    allowed = {"Effect": "Allow", "Action": actions, "Resource": resources}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    iam.put_user_policy(UserName="writer", PolicyName="write", PolicyDocument=json.dumps(policy))
    writer = iam.create_access_key(UserName="writer")["AccessKey"]
    iam.create_user(UserName="stranger")
    other = iam.create_access_key(UserName="stranger")["AccessKey"]
    # From now on every request is checked.
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset-auth", b"0", plain))
    yield address, key, other, writer
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
    address, key, *_ = server
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
    address, key, *_ = server
    model = "s3://models/team one/base/model-00001-of-00002.safetensors"
    shown = run(tmp_path, address, ["inspect", model], **keys(key))
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("case", ["wrong secret", "stranger", "nobody"])
def test_who_may_not_read_is_told(server, tmp_path, case):
    address, key, other, _ = server
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
    address, key, *_ = server
    shown = run(tmp_path, address, ["inspect", "s3://no-such-bucket/base"], **keys(key))
    assert shown.returncode != 0
    assert "E05" in shown.stderr or "E01" in shown.stderr, shown.stderr
    assert "no-such-bucket" in shown.stderr


def objects(address, writer, prefix):
    """Names and bytes of the objects below a prefix."""
    secret = {k: v for k, v in zip(["aws_access_key_id", "aws_secret_access_key"], keys(writer).values())}
    s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **secret)
    listed = s3.list_objects_v2(Bucket="models", Prefix=prefix).get("Contents", [])
    read = lambda key: s3.get_object(Bucket="models", Key=key)["Body"].read()
    return {one["Key"].removeprefix(prefix): read(one["Key"]) for one in listed}


def test_an_output_in_a_bucket_has_the_bytes_of_a_folder(server, tmp_path):
    address, _, _, writer = server
    recipe(tmp_path, "s3://models/team one")
    near = run(tmp_path, address, MERGE, **keys(writer))
    assert near.returncode == 0, near.stderr
    out = ["merge", "recipe.yaml", "--out", "s3://models/team one/merged"]
    far = run(tmp_path, address, out, **keys(writer))
    assert far.returncode == 0, far.stderr
    expected = {file.name: file.read_bytes() for file in (tmp_path / "merged").iterdir()}
    assert objects(address, writer, "team one/merged/") == expected
    assert writer["SecretAccessKey"] not in far.stderr + far.stdout
    again = run(tmp_path, address, out, **keys(writer))
    assert again.returncode != 0 and "--force" in again.stderr, again.stderr
    replaced = run(tmp_path, address, [*out, "--force"], **keys(writer))
    assert replaced.returncode == 0, replaced.stderr
    assert objects(address, writer, "team one/merged/") == expected
    shown = run(tmp_path, address, ["inspect", "s3://models/team one/merged"], **keys(writer))
    assert shown.returncode == 0, shown.stderr


def test_a_large_output_is_sent_in_parts(server, tmp_path):
    """S3 refuses parts below 5 MiB but the last, parts that it does not know, and other bytes than signed."""
    address, _, _, writer = server
    model = tmp_path / "model"
    model.mkdir()
    shape, count = [1024, 1024], 6
    tensors, at = {}, 0
    for number in range(count):
        end = at + 4 * shape[0] * shape[1]
        tensors[f"layers.{number}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    header = json.dumps(tensors).encode()
    data = bytes(range(1, 64)) * (at // 63 + 1)
    # The upper half of an element is small: no number of it is infinite.
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[:at])
    (tmp_path / "recipe.yaml").write_text("merge_method: passthrough\nmodels: [{model: ./model}]\ndtype: float32\n")
    near = run(tmp_path, address, MERGE, **keys(writer))
    assert near.returncode == 0, near.stderr
    far = run(tmp_path, address, ["merge", "recipe.yaml", "--out", "s3://models/large"], **keys(writer))
    assert far.returncode == 0, far.stderr
    expected = {file.name: file.read_bytes() for file in (tmp_path / "merged").iterdir()}
    assert objects(address, writer, "large/") == expected


@pytest.mark.parametrize("case", ["reader", "stranger", "no bucket"])
def test_who_may_not_write_is_told(server, tmp_path, case):
    address, reader, other, writer = server
    recipe(tmp_path, ROOT / "examples/quickstart")
    key = {"reader": reader, "stranger": other, "no bucket": writer}[case]
    bucket = "none" if case == "no bucket" else "models"
    out = ["merge", "recipe.yaml", "--out", f"s3://{bucket}/not/there"]
    refused = run(tmp_path, address, out, **keys(key))
    assert refused.returncode == 1, refused.stderr
    assert "E0560" in refused.stderr, refused.stderr
    assert key["SecretAccessKey"] not in refused.stderr
    assert objects(address, writer, "not/") == {}
