"""S3, any endpoint: boto3 for whole objects, listings and conditions; pyarrow's client for ranged reads.

Endpoint, region and credentials come from where every S3 tool looks (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_REGION, AWS_ACCESS_KEY_ID, profiles, instance roles). boto3's own retries are off: they give up within a second
and never cover a body; `bridging` covers both.
"""

import contextlib
import functools
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as aws
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from fahr.store.failures import Corrupt, Denied, Exists, Missing, MissingBucket, Transient, bridging, too_large
from fahr.store.locations import S3, bucket_and_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from pyarrow.fs import S3FileSystem

T = TypeVar("T")
SINGLE_PUT_BYTES = 1 << 30  # above it an upload goes in parts; S3 itself allows 5 GiB in one
DIGEST_KEY = "sha256"  # in the object's metadata: what we wrote, checked whenever it is read whole
_WRITER_KEY = "writer"

# A wrong endpoint and a bad certificate look like an outage too: names and connections fail and come back, so all of
# them are waited for, and then told by their name.
_TRANSIENT = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError)
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_BETWEEN_TWO_WRITES = {"OperationAborted", "ConditionalRequestConflict"}  # nobody knows yet which of them holds
_TRANSIENT_CODES = _THROTTLED | _BETWEEN_TWO_WRITES | {"RequestTimeout", "InternalError", "ServiceUnavailable"}
_DENIED_CODES = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "Forbidden",
}


_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@functools.lru_cache(maxsize=8)
def _client(*_environment: object) -> "S3Client":
    return boto3.session.Session().client(
        "s3",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=64,
            s3={"addressing_style": "path" if endpoint() else "auto"},
        ),
    )


def client() -> "S3Client":
    """The process's client (thread-safe); made anew after a fork, or when the environment names another store."""
    return _client(os.getpid(), endpoint(), *(os.environ.get(name) for name in _CREDENTIALS))


def endpoint() -> str | None:
    """The endpoint that the environment names; None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


@functools.lru_cache(maxsize=8)
def _filesystem(where: str | None, region: str | None, pid: int) -> "S3FileSystem":
    from pyarrow import fs

    options: dict[str, Any] = (
        {"endpoint_override": urlsplit(where).netloc, "scheme": urlsplit(where).scheme} if where else {}
    )
    if region:
        options["region"] = region
    # Twelve attempts with the SDK's backoff (doubling, 20 s at most) span more than a minute.
    return fs.S3FileSystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=12), **options)


def filesystem() -> "S3FileSystem":
    """pyarrow's S3 client for ranged reads (Parquet); its constructor ignores AWS_ENDPOINT_URL, so we pass it."""
    return _filesystem(endpoint(), os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"), os.getpid())


def _judge(error: Exception, location: str) -> Exception:
    """The exception that tells the user, in one line, which of credentials, bucket or key is at fault."""
    bucket, key = bucket_and_key(location)
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
        return Denied(
            f"{location}: no S3 credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if isinstance(error, aws.ParamValidationError):
        return Missing(f"{location}: {str(error).splitlines()[-1]}. Check the bucket's name.")
    if isinstance(error, aws.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return MissingBucket(
                f"{location}: bucket {bucket!r} does not exist at {endpoint() or 'Amazon S3'}. Check its name."
            )
        if code == "InvalidBucketName":
            return MissingBucket(f"{location}: {bucket!r} is not a bucket's name (3-63 of a-z, 0-9, '.', '-').")
        if code in ("NoSuchKey", "404", "NotFound"):
            return Missing(f"{location}: no key {key!r} in bucket {bucket!r}. Check the key, or the bucket's name.")
        if code in _DENIED_CODES or status in (401, 403):
            return Denied(f"{location}: the store refused our credentials ({code}). Check key, secret and permissions.")
        if code in ("PreconditionFailed", "412"):
            return Exists(f"{location}: exists already.")
        if code in _TRANSIENT_CODES or status in (408, 429) or status >= 500:
            return Transient(f"the store answered {status} {code}")
    if isinstance(error, _TRANSIENT):
        return Transient(f"the store at {endpoint() or 'Amazon S3'} does not answer ({type(error).__name__})")
    return error


def call(location: str, request: Callable[["S3Client"], T], what: str) -> T:
    """One request about `location`, tried again through outages, its errors told in our words."""

    def attempt() -> T:
        try:
            return request(client())
        except (aws.BotoCoreError, aws.ClientError) as error:
            raise _judge(error, location) from error

    return bridging(attempt, f"{what} {location}")


def _object(location: str) -> tuple[str, str]:
    """Bucket and key of one object."""
    bucket, key = bucket_and_key(location)
    if not key:
        raise Missing(f"{location}: the key is missing; an object is s3://bucket/key.")
    return bucket, key


@dataclass(frozen=True)
class Entry:
    """A file or object as a listing shows it."""

    location: str
    size: int  # bytes
    modified: datetime


def head(location: str) -> tuple[int, dict[str, str]]:
    """Size in bytes and our metadata."""
    bucket, key = _object(location)
    try:
        answer = call(location, lambda s3: s3.head_object(Bucket=bucket, Key=key), "looking at")
    except Missing:
        with contextlib.suppress(Denied):  # we may be allowed to read and not to list
            check_bucket(location)  # a HEAD has no body, so its 404 does not say which of the two is missing
        raise
    return answer["ContentLength"], answer["Metadata"]


def check_bucket(location: str) -> None:
    """Refuses in one line when the bucket is missing or closed to us."""
    bucket, _ = bucket_and_key(location)
    call(location, lambda s3: s3.list_objects_v2(Bucket=bucket, MaxKeys=1), "looking at")


_MD5 = re.compile(r'^"?([0-9a-f]{32})"?$')


def _verify(data: bytes, answer: Any, location: str) -> None:
    """Refuses bytes that differ from what was put: our digest where we wrote it, else an ETag that is an MD5.

    An ETag is the MD5 of the content for plain and SSE-S3 puts; not for parts (it has a dash), KMS or customer keys.
    Stores do answer 200 with rotted bytes, and a rotted JPEG often still decodes.
    """
    if len(data) != answer["ContentLength"]:
        raise Transient(f"{len(data):,} of {answer['ContentLength']:,} bytes came")
    said = answer["Metadata"].get(DIGEST_KEY)
    etag = _MD5.match(answer.get("ETag", ""))
    if said:
        wrong = hashlib.sha256(data).hexdigest() != said
    elif etag and answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer:
        wrong = hashlib.md5(data, usedforsecurity=False).hexdigest() != etag[1]
    else:
        return
    if wrong:
        raise Corrupt(
            f"{location}: the store returned {len(data):,} bytes whose digest is not the one it recorded. "
            "The object is damaged: restore it from its source."
        )


def read(location: str, at_most: int | None = None) -> bytes:
    """The whole object, digest checked, read again when the body breaks off."""
    bucket, key = _object(location)
    damage: list[Corrupt] = []

    def attempt(s3: "S3Client") -> bytes:
        answer = s3.get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            if at_most is not None and answer["ContentLength"] > at_most:
                raise too_large(location, answer["ContentLength"], at_most)
            try:
                data = body.read()
            except Exception as error:  # urllib3's own errors pass through botocore's stream unwrapped
                raise Transient(f"the body broke off ({type(error).__name__})") from error
        try:
            _verify(data, answer, location)
        except Corrupt as error:
            damage.append(error)
            if len(damage) < 3:  # a replica may be rotted where another is not
                raise Transient(str(error)) from error
            raise
        return data

    try:
        return call(location, attempt, "reading")
    except Missing:
        if damage:  # the store itself noticed after our first read, and withdrew the object
            raise damage[-1] from None
        raise


def put(location: str, body: IO[bytes], size: int, sha256: str, *, only_if_absent: bool = False) -> None:
    """One object from a seekable file. A put is all or nothing: no reader ever sees half of it.

    `only_if_absent` raises `Exists` when the name is taken by somebody else's write; our own write whose answer got
    lost is recognised by its writer token.
    """
    bucket, key = _object(location)
    token = uuid.uuid4().hex
    metadata = {DIGEST_KEY: sha256, _WRITER_KEY: token}

    def attempt(s3: "S3Client") -> None:
        body.seek(0)
        if size > SINGLE_PUT_BYTES and not only_if_absent:
            # Parts become an object only when completed; boto3 aborts them on failure.
            s3.upload_fileobj(
                cast("IO[bytes]", _Unclosed(body)), bucket, key, ExtraArgs={"Metadata": metadata}, Config=_PARTS
            )
        elif only_if_absent:
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentLength=size, Metadata=metadata, IfNoneMatch="*")
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentLength=size, Metadata=metadata)

    try:
        call(location, attempt, "writing")
    except Exists:
        if head(location)[1].get(_WRITER_KEY) != token:
            raise


_PARTS = TransferConfig(multipart_threshold=SINGLE_PUT_BYTES, multipart_chunksize=64 << 20, max_concurrency=4)


class _Unclosed:
    """boto3 closes the file that it uploads; a retry needs it open."""

    def __init__(self, body: IO[bytes]) -> None:
        self._body = body
        self.read, self.seek, self.tell = body.read, body.seek, body.tell


def delete(location: str) -> None:
    bucket, key = _object(location)
    call(location, lambda s3: s3.delete_object(Bucket=bucket, Key=key), "deleting")


def page(prefix: str, token: str = "", after: str = "") -> tuple[list[Entry], str]:
    """Up to 1,000 entries whose names start with `prefix`, and the token of the next page ("" = this was the last).

    The first page (no token yet) starts behind the key `after`.
    """
    bucket, key = bucket_and_key(prefix)
    start: dict[str, Any] = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
    answer = call(prefix, lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix=key, **start), "listing")
    return _entries(bucket, answer), answer.get("NextContinuationToken", "")


def pages(prefix: str, after: str) -> Iterator[list[Entry]]:
    """All entries whose names start with `prefix` behind the key `after`, page by page, in key order."""
    token = ""
    while True:
        entries, token = page(prefix, token, after)
        yield entries
        if not token:
            return


def first_after(prefix: str, key: str) -> Entry | None:
    """The first entry whose name starts with `prefix` and whose key sorts after `key`."""
    bucket, start = bucket_and_key(prefix)
    answer = call(
        prefix, lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix=start, StartAfter=key, MaxKeys=1), "listing"
    )
    return next(iter(_entries(bucket, answer)), None)


def _entries(bucket: str, answer: Any) -> list[Entry]:
    return [
        Entry(f"{S3}{bucket}/{found['Key']}", found["Size"], found["LastModified"])
        for found in answer.get("Contents", [])
    ]
