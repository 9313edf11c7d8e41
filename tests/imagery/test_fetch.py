"""Photos are fetched from servers on loopback that behave as badly as the open network does."""

import asyncio
import datetime as dt
import gzip
import ipaddress
import os
import socket
import ssl
import zlib
from contextlib import asynccontextmanager

import httpx
import pytest

from trellis_pipeline.errors import BlobMissing, SourceImageError, StorageUnavailable
from trellis_pipeline.imagery.addresses import refusal
from trellis_pipeline.imagery.fetch import fetch_if_changed, fetch_image
from trellis_pipeline.imagery.fetch_limits import FetchLimits, redact_url
from trellis_pipeline.imagery.fetch_web import Fetched

SECRET = "X-Amz-Signature=5ecret"
LAN = FetchLimits(allow_private_addresses=True, timeout_seconds=120)


class Server:
    """A real HTTP server on loopback; `answer` maps a path to raw response bytes or to an async writer."""

    def __init__(self, answers, host):
        self.answers, self.host, self.requests, self.open = answers, host, [], set()

    async def handle(self, reader, writer):
        self.open.add(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            answer = self.answers[head.split()[1].partition("?")[0]]
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
                await writer.drain()
                await reader.read()  # until the client has what it wants
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    def url(self, path, host=None):
        return f"http://{host or self.host}:{self.port}{path}?{SECRET}"


@asynccontextmanager
async def serving(answers, host="127.0.0.1", port=0, tls=None):
    server = Server(answers, host)
    listening = await asyncio.start_server(server.handle, host, port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.open:
            task.cancel()
        await asyncio.gather(*server.open)


def response(body=b"", status="200 OK", **headers):
    fields = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def fetched(path, answers, limits=LAN, **options):
    """Fetch `path` from a server with these answers; the bytes, or the error, and the server."""

    async def go():
        async with serving(answers) as server:
            try:
                return await fetch_image(server.url(path), limits, **options), server
            except SourceImageError as error:
                return error, server

    outcome, server = asyncio.run(go())
    assert "5ecret" not in str(outcome)
    return outcome, server


def refused(location, limits=LAN, **options):
    with pytest.raises(SourceImageError) as caught:
        asyncio.run(fetch_image(location, limits, **options))
    assert "5ecret" not in str(caught.value)
    return str(caught.value)


def test_a_photo_arrives_byte_for_byte():
    body = bytes(range(256)) * 500
    assert fetched("/a.png", {"/a.png": response(body)})[0] == body


def test_redirects_are_followed_and_may_be_relative():
    answers = {"/a": response(status="302 Found", Location="b"), "/b": response(b"photo")}
    assert fetched("/a", answers)[0] == b"photo"


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
    ],
)
def test_a_redirect_to_a_metadata_service_is_refused_even_where_private_addresses_are_allowed(target):
    error, _ = fetched("/a", {"/a": response(status="302 Found", Location=target)})
    assert "is refused" in str(error)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/x", "gopher://x/"])
def test_a_redirect_to_another_scheme_is_refused(target):
    error, _ = fetched("/a", {"/a": response(status="301 Moved", Location=target)})
    assert "only https:// is fetched" in str(error)


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused():
    limits = FetchLimits(allow_private_addresses=True, allowed_hosts=("127.0.0.1",))
    error, _ = fetched("/a", {"/a": response(status="307 x", Location="http://localhost/")}, limits)
    assert "not one of imagery.allowed_hosts" in str(error)


def test_endless_redirects_end():
    error, server = fetched("/a", {"/a": response(status="302 Found", Location=f"/a?{SECRET}")})
    assert "redirects more than 5 times" in str(error)
    assert len(server.requests) == 6


def test_loopback_and_plain_http_are_refused_by_default():
    assert "plain http needs" in refused("http://127.0.0.1/x.png", FetchLimits())
    for host in ("127.0.0.1", "localhost", "[::1]", "10.0.0.7", "2130706433", "0x7f.1"):
        assert "is refused" in refused(f"https://{host}/x.png?{SECRET}", FetchLimits()), host


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", answers_in_turn([["8.8.8.8", "10.1.2.3"]]))
    assert "10.1.2.3 is a loopback, private" in refused("https://photos.example/x", FetchLimits())


def answers_in_turn(rounds):
    """A name server that answers differently each time it is asked; the last answer stays."""
    rounds = list(rounds)

    def getaddrinfo(host, port, *args, **kwargs):
        addresses = rounds.pop(0) if len(rounds) > 1 else rounds[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(monkeypatch):
    async def go():
        async with (
            serving({"/x": response(b"checked")}) as checked,
            serving({"/x": response(b"rebound")}, "127.0.0.2", checked.port) as rebound,
        ):
            monkeypatch.setattr(socket, "getaddrinfo", answers_in_turn([["127.0.0.1"], ["127.0.0.2"]]))
            data = await fetch_image(checked.url("/x", "photos.example"), LAN)
            return data, checked.requests, rebound.requests, checked.port

    data, seen, rebound, port = asyncio.run(go())
    assert data == b"checked"
    assert rebound == []
    assert f"Host: photos.example:{port}\r\n" in seen[0]


def test_the_second_address_of_a_name_is_tried_when_the_first_does_not_answer(monkeypatch):
    async def go():
        async with serving({"/x": response(b"photo")}) as server:
            monkeypatch.setattr(socket, "getaddrinfo", answers_in_turn([["127.0.0.3", "127.0.0.1"]]))
            return await fetch_image(server.url("/x", "photos.example"), LAN)

    assert asyncio.run(go()) == b"photo"


def test_a_server_that_drips_one_byte_at_a_time_runs_into_the_deadline():
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    limits = FetchLimits(allow_private_addresses=True, timeout_seconds=0.4)
    error, _ = fetched("/slow", {"/slow": drip}, limits)
    assert "did not arrive within 0.4 s (imagery.timeout_seconds)" in str(error)


def test_a_server_that_never_answers_runs_into_the_deadline():
    async def silence(writer):
        await asyncio.sleep(30)

    limits = FetchLimits(allow_private_addresses=True, timeout_seconds=0.3)
    assert "did not arrive" in str(fetched("/x", {"/x": silence}, limits)[0])


SMALL = FetchLimits(allow_private_addresses=True, max_bytes=100_000, timeout_seconds=120)


def test_a_body_that_is_declared_too_large_is_not_read():
    sent = []

    async def huge(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n")
        await writer.drain()
        sent.append(True)

    error, _ = fetched("/x", {"/x": huge}, SMALL)
    assert "is 900.0 MB; the limit is 0.1 MB (imagery.max_bytes)" in str(error)


def test_a_body_that_never_ends_is_cut_off_at_the_limit():
    sent = 0

    async def endless(writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    error, _ = fetched("/x", {"/x": endless}, SMALL)
    assert "the limit is 0.1 MB" in str(error)
    assert sent < 50_000_000


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_bomb_is_stopped_at_the_limit_and_honest_compression_is_unpacked(name, pack):
    honest = os.urandom(1000) * 50
    assert fetched("/x", {"/x": response(pack(honest), Content_Encoding=name)}, SMALL)[0] == honest
    bomb = pack(bytes(30_000_000))
    assert len(bomb) < 100_000
    error, _ = fetched("/x", {"/x": response(bomb, Content_Encoding=name)}, SMALL)
    assert "the limit is 0.1 MB" in str(error)


def test_damaged_or_unknown_compression_is_refused():
    error, _ = fetched("/x", {"/x": response(b"not gzip", Content_Encoding="gzip")})
    assert "damaged gzip" in str(error)
    error, _ = fetched("/x", {"/x": response(b"xx", Content_Encoding="br")})
    assert "content encoding 'br'" in str(error)


def test_a_truncated_body_and_an_error_status_are_named():
    async def cut_off(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        writer.close()
        await writer.wait_closed()

    assert "RemoteProtocolError" in str(fetched("/x", {"/x": cut_off})[0])
    error, server = fetched("/x.png", {"/x.png": response(status="404 Not Found")})
    assert str(error) == f"http://127.0.0.1:{server.port}/x.png answered HTTP 404"


def test_credentials_of_a_shared_client_are_not_sent():
    async def go():
        async with (
            serving({"/x": response(b"ok", Set_Cookie="a=b")}) as server,
            httpx.AsyncClient(
                headers={"Authorization": "Bearer 5ecret"}, cookies={"s": "5ecret"}, auth=("u", "5ecret")
            ) as client,
        ):
            for _ in range(2):
                await fetch_image(server.url("/x"), LAN, client=client)
            return server.requests

    for head in asyncio.run(go()):
        assert "5ecret" not in head.partition("\r\n")[2]
        assert "cookie" not in head.lower()


def test_a_url_with_a_password_is_refused_without_repeating_it():
    message = refused(f"https://user:5ecret@example.com/x?{SECRET}")
    assert message.startswith("https://example.com/x: user and password")


def certificate_for(name, directory):
    """A self-signed certificate for `name`: TLS contexts for a server and a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = directory / "server.pem"
    public = certificate.public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    pem = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain) + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=public.decode())


@pytest.mark.parametrize(("host", "works"), [("photos.example", True), ("elsewhere.example", False)])
def test_the_certificate_must_be_for_the_name_although_the_address_is_pinned(
    host, works, tmp_path, monkeypatch
):
    for_server, for_client = certificate_for("photos.example", tmp_path)

    async def go():
        async with (
            serving({"/x": response(b"photo")}, tls=for_server) as server,
            httpx.AsyncClient(verify=for_client, trust_env=False) as client,
        ):
            monkeypatch.setattr(socket, "getaddrinfo", answers_in_turn([["127.0.0.1"]]))
            return await fetch_image(f"https://{host}:{server.port}/x", LAN, client=client)

    if works:
        assert asyncio.run(go()) == b"photo"
    else:
        with pytest.raises(SourceImageError, match="ConnectError"):
            asyncio.run(go())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16",
        "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "2001:0:0:0:0:0:80ff:fffe",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address):
    assert refusal(ipaddress.ip_address(address), allow_private=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_accepted_in_every_notation(address):
    assert refusal(ipaddress.ip_address(address), allow_private=False) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.7.7", "fc00::1", "::1"])
def test_private_addresses_are_accepted_where_configuration_allows_them(address):
    assert refusal(ipaddress.ip_address(address), allow_private=True) == ""


def test_local_files_are_read_by_path_and_by_file_url(tmp_path):
    path = tmp_path / "a photo ä.png"
    path.write_bytes(b"pixels")
    assert asyncio.run(fetch_image(str(path), LAN)) == b"pixels"
    assert asyncio.run(fetch_image(path.as_uri(), LAN)) == b"pixels"


def test_a_file_that_is_not_there_is_named_without_a_guess_at_its_past(tmp_path):
    path = tmp_path / "gone.png"
    assert refused(str(path)) == f"{path} does not exist; put it there or correct the catalog"


def test_a_local_file_over_the_limit_is_refused(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(100_001))
    assert refused(str(path), SMALL).endswith("the limit is 0.1 MB (imagery.max_bytes)")


def test_directories_pipes_devices_and_foreign_file_urls_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(str(tmp_path / "pipe"))
    assert "not a regular file" in refused("/dev/zero")
    assert str(tmp_path) in refused(str(tmp_path))
    assert "has no host" in refused("file://server/share/x.png")
    assert "cannot be opened" in refused("/tmp/nul\0byte.png")


@pytest.mark.parametrize(
    "location", ["ftp://x/y.png", f"data:image/png;base64,{SECRET}", "https://", "https://[::1"]
)
def test_unsupported_or_broken_locations_are_refused(location):
    refused(location)


def test_s3_objects_come_from_the_given_reader():
    seen = []

    def read(url):
        seen.append(url)
        return b"from s3"

    assert asyncio.run(fetch_image("s3://bucket/key with space.png", LAN, read_s3=read)) == b"from s3"
    assert seen == ["s3://bucket/key with space.png"]


def test_s3_failures_name_the_object_and_a_lost_store_stops_the_run():
    def raising(error):
        def read(url):
            raise error

        return read

    assert "no S3 client" in refused("s3://b/k.png")
    assert "does not exist" in refused("s3://b/k.png", read_s3=raising(BlobMissing("s3://b/k.png")))
    assert "s3://b/k.png cannot be read: RuntimeError" in refused(
        "s3://b/k.png", read_s3=raising(RuntimeError(SECRET))
    )
    assert "0.1 MB" in refused("s3://b/k.png", SMALL, read_s3=lambda url: bytes(100_001))
    with pytest.raises(StorageUnavailable):
        asyncio.run(fetch_image("s3://b/k.png", LAN, read_s3=raising(StorageUnavailable("down"))))


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://a.example/x.png?sig=1#f", "https://a.example/x.png"),
        ("https://u:p@a.example:8443/x", "https://a.example:8443/x"),
        ("https://a.example?sig=1", "https://a.example"),
        ("https://[broken?sig=1", "https://[broken"),
        ("s3://bucket/a/b.png", "s3://bucket/a/b.png"),
        ("data:image/png;base64,AAAA", "data:…"),
        ("/srv/photos/what?.png", "/srv/photos/what?.png"),
        ("/srv/\x1b[31mred.png", "/srv/�[31mred.png"),
    ],
)
def test_a_redacted_location_keeps_what_identifies_it_and_no_secret(url, safe):
    assert redact_url(url) == safe


def asked(path, answers, etag=""):
    """What comes of asking with an ETag, and the heads of the requests that the server saw."""

    async def go():
        async with serving(answers) as server:
            return await fetch_if_changed(server.url(path), LAN, etag), server.requests

    return asyncio.run(go())


def test_a_photo_that_still_has_its_etag_is_not_sent_again():
    first, requests = asked("/a", {"/a": response(b"photo", ETag='"v1"')})
    assert first == Fetched(b"photo", '"v1"')
    assert "if-none-match" not in requests[0].lower()
    again, requests = asked("/a", {"/a": response(status="304 Not Modified", ETag='"v1"')}, '"v1"')
    assert again == Fetched(None, '"v1"')
    assert 'if-none-match: "v1"' in requests[0].lower()


def test_a_photo_with_a_new_etag_or_a_server_that_does_not_care_sends_it_whole():
    assert asked("/a", {"/a": response(b"new", ETag='"v2"')}, '"v1"')[0] == Fetched(b"new", '"v2"')
    assert asked("/a", {"/a": response(b"new")}, '"v1"')[0] == Fetched(b"new", "")


@pytest.mark.parametrize("etag", ['W/"v1"', "v1", '"', '""', '"a b"', '"' + "x" * 500 + '"', '"\xe9"'])
def test_etags_that_do_not_vouch_for_every_byte_are_not_remembered(etag):
    assert asked("/a", {"/a": response(b"photo", ETag=etag)})[0] == Fetched(b"photo", "")


def test_behind_a_redirect_nothing_is_asked_and_nothing_remembered():
    answers = {"/a": response(status="302 Found", Location="b"), "/b": response(b"photo", ETag='"v1"')}
    outcome, requests = asked("/a", answers, '"v0"')
    assert outcome == Fetched(b"photo", "")
    assert ["if-none-match" in request.lower() for request in requests] == [True, False]


def test_not_modified_without_having_been_asked_is_an_error():
    answer = {"/a": response(status="304 Not Modified")}
    assert "HTTP 304" in str(fetched("/a", answer)[0])
    with pytest.raises(SourceImageError, match="HTTP 304"):
        asked("/a", answer)
    moved = {"/a": response(status="302 Found", Location="b"), "/b": response(status="304 Not Modified")}
    with pytest.raises(SourceImageError, match="HTTP 304"):
        asked("/a", moved, '"v1"')


def test_photos_in_the_users_own_storage_come_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    assert asyncio.run(fetch_if_changed(str(path), LAN, '"v1"')) == Fetched(b"pixels", "")
    read = {"s3://b/k": b"from s3"}.__getitem__
    assert asyncio.run(fetch_if_changed("s3://b/k", LAN, '"v1"', read_s3=read)) == Fetched(b"from s3", "")
